# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A kernel that describes itself
------------------------------

A kernel with CONFIG_DEBUG_INFO_BTF has its types in its own memory, and one with
CONFIG_KALLSYMS_ALL the addresses of its variables.
"""

from __future__ import annotations

import re
from typing import Optional

import numpy as np
import numpy.typing as npt
from drgn import (
    FaultError,
    Object,
    PlatformFlags,
    Program,
    ProgramFlags,
    Symbol,
    SymbolIndex,
    Type,
    TypeKind,
)
from drgn.helpers.linux.kallsyms import load_vmlinux_kallsyms

from ..distinct import distinct
from ..errors import TargetError
from ..finders import Finders, TypeBuilder
from . import blob as b
from .blob import Blob, BtfError
from .nodes import BtfNodes
from .variables import variable_type

U64 = npt.NDArray[np.uint64]

_FINDER = "slabtype-btf"
_MAX_BYTES = 1 << 28  # of BTF; of distributions' kernels it has some 5 MiB
_MAX_SYMBOLS = 1 << 23  # some 200,000 in distributions' kernels
_KINDS = {
    TypeKind.STRUCT: (b.STRUCT,),
    TypeKind.UNION: (b.UNION,),
    TypeKind.ENUM: (b.ENUM, b.ENUM64),
    TypeKind.TYPEDEF: (b.TYPEDEF,),
    TypeKind.INT: (b.INT,),
    TypeKind.BOOL: (b.INT,),
    TypeKind.FLOAT: (b.FLOAT,),
}


class BtfNames(Finders):
    """
    Finders for what a kernel's BTF and kallsyms know.

    :param symbols: All of kallsyms.
    """

    def __init__(self, prog: Program, blob: Blob, symbols: SymbolIndex) -> None:
        platform = prog.platform
        assert platform is not None
        self._prog = prog
        self._blob = blob
        self._nodes = BtfNodes(blob, 8 if platform.flags & PlatformFlags.IS_64_BIT else 4)
        self._types = TypeBuilder(prog, self._nodes)
        self._symbols = symbols
        self._starts: Optional[U64] = None
        self._text = []
        for first, last in (("_stext", "_etext"), ("_sinittext", "_einittext")):
            start, end = _address(symbols, prog, first), _address(symbols, prog, last)
            if start is not None and end is not None:
                self._text.append((start, end))
        self.evidence = (
            f"types from the kernel's own BTF ({len(blob) - 1} of them), symbols from its kallsyms"
        )
        """A sentence for the evidence of what rests on it."""

    def find_type(self, kind: TypeKind, name: str) -> Optional[Type]:
        number = self._blob.find(name, *_KINDS.get(kind, ()))
        if number is None:
            return None
        type = self._types.type(number)
        return type if type.kind == kind else None

    def find_constant(self, name: str) -> Optional[Object]:
        number = self._blob.enumeration(name)
        return None if number is None else self._types.enumerator(name, number)

    def find_function(self, name: str) -> Optional[Object]:
        number = self._blob.find(name, b.FUNC)
        if number is None:
            return None
        type = self._types.type(self._nodes.ref(self._blob.entry(number).size_type))
        symbol = self._symbol(name, function=True)
        return Object(self._prog, type, address=None if symbol is None else symbol.address)

    def find_variable(self, name: str) -> Optional[Object]:
        symbol = self._symbol(name, function=False)
        if symbol is None:
            return None
        number = self._blob.find(name, b.VAR)
        if number is not None:
            type = self._types.type(self._nodes.ref(self._blob.entry(number).size_type))
        else:
            found = variable_type(self._prog, name, self._has, lambda: self._room(symbol.address))
            if found is None:
                return None
            type = found
        return Object(self._prog, type, address=symbol.address)

    def _has(self, name: str) -> bool:
        return bool(self._symbols(self._prog, name, None, True))

    def _symbol(self, name: str, *, function: bool) -> Optional[Symbol]:
        # Static symbols of one name cannot be told apart. The letter that
        # kallsyms give for the kind of a symbol is that of its section; data in
        # a section that may be executed looks like code.
        found = [
            symbol
            for symbol in self._symbols(self._prog, name, None, False)
            if any(start <= symbol.address < end for start, end in self._text) == function
        ]
        return found[0] if len(found) == 1 else None

    def _room(self, address: int) -> int:
        # Symbols have no size: up to the next one.
        if self._starts is None:
            symbols = self._symbols(self._prog, None, None, False)
            self._starts = distinct(np.array([symbol.address for symbol in symbols], np.uint64))
        after = int(np.searchsorted(self._starts, np.uint64(address), "right"))
        return int(self._starts[after]) - address if after < len(self._starts) else 0


def load_btf(prog: Program) -> str:
    """
    Give a program the types and symbols that the kernel has in its own memory.

    They are asked before any that the program has already.

    :return: The sentence that says so, for the evidence of what is read with them.
    :raises TargetError: if the kernel has none, or they cannot be read; the
        message is a clause that says why.
    """
    index = _kallsyms(prog)
    start, stop = _address(index, prog, "__start_BTF"), _address(index, prog, "__stop_BTF")
    if start is None or stop is None:
        if _address(index, prog, "slab_caches") is None:
            raise TargetError("its kallsyms have no variables (CONFIG_KALLSYMS_ALL)")
        raise TargetError("it has no BTF (CONFIG_DEBUG_INFO_BTF)")
    size = stop - start
    if not b.HEADER_BYTES <= size <= _MAX_BYTES:
        raise TargetError(f"its kallsyms give {size} bytes for its BTF")
    try:
        data = prog.read(start, size)
    except FaultError:
        raise TargetError("its BTF cannot be read") from None
    blob = Blob(data)
    platform = prog.platform
    assert platform is not None
    little = bool(platform.flags & PlatformFlags.IS_LITTLE_ENDIAN)
    if (blob.byteorder == "<") != little:
        raise BtfError("its BTF is in the other byte order")
    names = BtfNames(prog, blob, index)
    names.register_finders(prog, _FINDER)
    prog.register_symbol_finder(_FINDER, index, enable_index=0)
    return names.evidence


def _kallsyms(prog: Program) -> SymbolIndex:
    local = ProgramFlags.IS_LIVE | ProgramFlags.IS_LOCAL
    if prog.flags & local != local:
        _check_count(prog)
    try:
        return load_vmlinux_kallsyms(prog)
    except FaultError:
        raise TargetError("its kallsyms are not in its memory") from None
    except Exception as e:  # what is wrong with them has no class before drgn 0.2
        raise TargetError(f"its kallsyms cannot be read: {' '.join(str(e).split())}") from None


def _check_count(prog: Program) -> None:
    # How many there are decides how much is read.
    try:
        info = prog["VMCOREINFO"].string_()
    except LookupError:
        raise TargetError("there is no VMCOREINFO") from None
    found = re.search(rb"^SYMBOL\(kallsyms_num_syms\)=([0-9a-f]{1,16})$", info, re.MULTILINE)
    if found is None:
        # Since Linux kernel commit f09bddbd8661 ("vmcoreinfo: add
        # kallsyms_num_syms symbol") (in v6.0).
        raise TargetError("its VMCOREINFO does not tell where kallsyms are (before Linux 6.0)")
    try:
        count = prog.read_u32(int(found[1], 16))
    except FaultError:
        raise TargetError("its kallsyms are not in its memory") from None
    if count > _MAX_SYMBOLS:
        raise TargetError(f"its kallsyms are damaged: {count} symbols")


def _address(index: SymbolIndex, prog: Program, name: str) -> Optional[int]:
    return next((symbol.address for symbol in index(prog, name, None, False)), None)
