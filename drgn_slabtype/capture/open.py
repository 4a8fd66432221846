# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Opening captures
----------------

A capture brings its types, objects and symbols along; opening one needs
neither the dump nor the kernel's debug info. This module is imported into
every drgn program through the plugin and therefore imports nothing heavy.
"""

from __future__ import annotations

import bisect
import json
import lzma
import os
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    List,
    Optional,
    Sequence,
    Tuple,
)

from drgn import Object, Program, Symbol, SymbolBinding, SymbolKind, Type, TypeKind

from ..errors import TargetError
from ..files.hidden import hide_impossible
from ..finders import Finders
from ..machine import machine
from .archive import MAGIC, unpack, unpacked
from .elf import START_BYTES, payload_size
from .types import TypeReader

_FINDER = "slabtype-capture"
_NEAR_SYMBOLS = 8  # that contain an address, counted back from it: aliases and nested labels


class Names(Finders):
    """
    Finders for the types, objects and symbols of a capture.

    :param payload: What the note of the capture holds.
    :raises TargetError: if it is not what :mod:`.write` puts there.
    """

    def __init__(self, prog: Program, payload: Dict[str, Any]) -> None:
        try:
            self._read(prog, payload)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise TargetError("the capture is damaged: its description makes no sense") from None

    def _read(self, prog: Program, payload: Dict[str, Any]) -> None:
        self._prog = prog
        self._types = TypeReader(prog, payload["types"])
        self._variables: Dict[str, Tuple[Any, Optional[int]]] = payload["variables"]
        self._functions: Dict[str, Tuple[Any, Optional[int]]] = payload["functions"]
        self._constants: Dict[str, int] = payload["constants"]
        symbols = payload["symbols"]
        if isinstance(symbols, dict):
            # The first captures had one symbol of each name, in no order; of a
            # function that was optimised away, without an address.
            symbols = [(name, *place) for name, place in symbols.items() if None not in place]
            symbols.sort(key=lambda symbol: symbol[1])
        self._symbols = [_symbol(*symbol) for symbol in symbols]
        self._starts = [start for _, start, _ in self._symbols]
        self.manifest: Dict[str, Any] = payload["manifest"]

    def register(self) -> None:
        """Add the finders to the program, before all others."""
        self.register_finders(self._prog, _FINDER)
        self._prog.register_symbol_finder(_FINDER, self._find_symbols, enable_index=0)
        machine(self._prog).manifest = self.manifest

    def find_type(self, kind: TypeKind, name: str) -> Optional[Type]:
        return self._types.find(kind, name)

    def find_variable(self, name: str) -> Optional[Object]:
        return self._find(self._variables, name)

    def find_function(self, name: str) -> Optional[Object]:
        return self._find(self._functions, name)

    def find_constant(self, name: str) -> Optional[Object]:
        return self._types.constant(name, self._constants.get(name))

    def _find(self, known: Dict[str, Tuple[Any, Optional[int]]], name: str) -> Optional[Object]:
        if name not in known:
            return None
        try:
            type, address = known[name]
            if address is None:
                return Object(self._prog, self._types.type(type))
            return Object(self._prog, self._types.type(type), address=address)
        except (OverflowError, TypeError, ValueError):
            raise TargetError(f"the capture is damaged: {name} makes no sense") from None

    def _find_symbols(
        self, prog: Program, name: Optional[str], address: Optional[int], one: bool
    ) -> Sequence[Symbol]:
        if name is not None:
            wanted = [symbol for symbol in self._symbols if symbol[0] == name]
        elif address is not None:
            # The nearest first.
            at = bisect.bisect_right(self._starts, address)
            wanted = self._symbols[max(at - _NEAR_SYMBOLS, 0) : at][::-1]
        else:
            wanted = self._symbols
        found: List[Symbol] = []
        for label, start, size in wanted:
            if address is None or start <= address < start + max(size, 1):
                kind = SymbolKind.OBJECT if label in self._variables else SymbolKind.FUNC
                found.append(Symbol(label, start, size, SymbolBinding.GLOBAL, kind))
        return found[:1] if one else found


def _symbol(name: str, start: int, size: int) -> Tuple[str, int, int]:
    # As drgn takes them.
    numbers = type(start) is int and type(size) is int and min(start, size) >= 0
    if not isinstance(name, str) or not numbers or max(start, size) >= 1 << 64:
        raise ValueError("no symbol")
    return name, start, size


def is_capture(path: str) -> bool:
    """
    Return whether a file is a capture, compressed or not.

    Reads some hundred bytes.

    :raises OSError: if the file cannot be read.
    """
    with open(path, "rb") as file:
        start = file.read(START_BYTES)
        if start[: len(MAGIC)] == MAGIC:
            file.seek(0)
            try:
                start = next((block for block in unpacked(file) if block), b"")
            except lzma.LZMAError:
                return False
    return payload_size(start[:START_BYTES]) is not None


def open_capture(path: str) -> Program:
    """
    Return a program that reads a capture.

    :param path: A file that :func:`write_capture` wrote, compressed or not.
    :raises TargetError: if it is not a capture, or a damaged one.
    :raises OSError: if the file cannot be read.
    """
    fd = _decompress(path)
    try:
        payload = _read_payload(fd)
        if payload is None:
            raise TargetError(f"{path}: not a capture")
        prog = Program()
    except BaseException:
        os.close(fd)
        raise
    try:
        prog.set_core_dump(fd)  # takes the descriptor over
    except Exception as error:
        raise TargetError(f"{path}: damaged capture: {error}") from error
    with os.fdopen(os.dup(fd), "rb") as file:
        hide_impossible(prog, file)
    if machine(prog).manifest is None:
        # The plugin's hook has not done it: it cannot open the memory of a compressed one.
        Names(prog, payload).register()
    return prog


def attach(prog: Program) -> bool:
    """
    Add types, objects and symbols to a program that drgn opened on an uncompressed capture.

    Costs one small read on any other core.

    :return: Whether the program is a capture.
    """
    if machine(prog).manifest is not None:
        return True
    path = prog.core_dump_path
    if path is None:
        return False
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        payload = _read_payload(fd)
        if payload is not None:
            Names(prog, payload).register()
    except (OSError, TargetError):
        return False
    finally:
        os.close(fd)
    return payload is not None


def left_out(prog: Program) -> FrozenSet[str]:
    """
    Return what a capture left out of the memory it was made from.

    Empty for any program that is not a capture. A rule that needs one of these
    answers *unavailable*.
    """
    return frozenset(manifest(prog).get("left_out", ()))


def manifest(prog: Program) -> Dict[str, Any]:
    """Return what a capture says of itself; empty for any program that is not a capture."""
    return dict(machine(prog).manifest or {})


def _read_payload(fd: int) -> Optional[Dict[str, Any]]:
    found = payload_size(os.pread(fd, START_BYTES, 0))
    if found is None:
        return None
    offset, size = found
    # Its size is a word of the file, which may be damaged.
    there = os.fstat(fd).st_size
    if offset + size > there:
        raise TargetError(
            f"truncated in its description: {offset + size - there} bytes of it are missing"
        )
    try:
        payload = json.loads(os.pread(fd, size, offset))
    except (RecursionError, ValueError):
        raise TargetError("the capture is damaged: its description cannot be read") from None
    return payload if isinstance(payload, dict) else {}


def _decompress(path: str) -> int:
    # Return a descriptor of the uncompressed capture: the file itself, or
    # memory that holds it.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if os.pread(fd, len(MAGIC), 0) != MAGIC:
        return fd
    with os.fdopen(fd, "rb") as file:
        try:
            return unpack(file)
        except lzma.LZMAError as error:
            raise TargetError(f"{path}: damaged capture: {error}") from error


Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""
