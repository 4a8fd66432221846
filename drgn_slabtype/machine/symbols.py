# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Call traces
-----------

Names of code, and the stack depot, which keeps each call trace once and gives
out handles. Handles are found in memory that users can overwrite, so that none
is trusted here.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, Symbol, SymbolBinding, SymbolKind, TypeKind, cast, reinterpret

from ..arguments import quoted
from ..distinct import distinct
from ..errors import ArgumentError
from ..regions import Region, region
from .columns import Structure
from .memory import U64

if TYPE_CHECKING:
    from . import Machine

_MAX_FRAMES = 256  # the most CONFIG_STACKDEPOT_MAX_FRAMES allows
# Stack depot records begin at multiples of 16 bytes, since Linux kernel commit
# cd11016e5f52 ("mm, kasan: stackdepot implementation. Enable stackdepot for
# SLAB") (in v4.6).
_DEPOT_ALIGN = 4


# What compilers call places that have no name: labels, and on arm64 and riscv64 where
# code ends and data begins. kallsyms has none of them either (scripts/mksysmap).
_NO_NAMES = (".L", "$a", "$d", "$t", "$x")


def symbol_at(machine: Machine, address: int) -> Symbol:
    """
    Return the symbol that an address lies in.

    :raises LookupError: if there is none that has a name in the kernel's sources, or none but
        one without a size that is far away.
    """
    symbol = machine.prog.symbol(address)
    if symbol.name.startswith(_NO_NAMES):
        raise LookupError(f"0x{address:x} has no name in the kernel's sources")
    if not symbol.size and not label_reaches(machine, symbol.address, address):
        raise LookupError(f"0x{address:x} is far behind {symbol.name}")
    return symbol


def label_reaches(machine: Machine, label: int, address: int) -> bool:
    """
    Return whether an address is called by the symbol without a size that stands before it.

    There is nothing that says how far such a symbol reaches: `__start_BTF` and
    `kallsyms_token_index` are the last before a megabyte without names.

    :param label: Address of the symbol.
    :param address: No address before it.
    """
    return address - label < machine.memory.page_size


def symbolise(machine: Machine, address: int) -> str:
    """Return an address of code or data as ``symbol+0xoffset``, or in hex."""
    # A call that does not come back can be the last instruction of a function,
    # and the address it would return to the first one behind it.
    for inside in (address, address - 1):
        with contextlib.suppress(LookupError, OverflowError):
            symbol = symbol_at(machine, inside)
            return f"{symbol.name}+0x{address - symbol.address:x}"
    return f"0x{address:x}"


def symbol_address(machine: Machine, name: str, offset: int = 0) -> int:
    """
    Return the address of a symbol.

    :param offset: Bytes behind its first.
    :raises ArgumentError: if there is no such symbol.
    """
    try:
        symbol = machine.prog.symbol(name)
    except LookupError:
        symbol = None
    if symbol is None or not is_named(symbol):
        raise ArgumentError(f"there is no symbol {quoted(name)}")
    return symbol.address + offset


def is_named(symbol: Symbol) -> bool:
    """Return whether a symbol is the name of code or data, not of a source file or a section."""
    return symbol.kind not in (SymbolKind.FILE, SymbolKind.SECTION)


class CodeNames(Dict[int, str]):
    """
    Names of code, for many addresses: ``names[address]`` as :func:`symbolise` has it.

    drgn searches all symbols for each address; this sorts them once.
    """

    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine
        # Of several at one address, the one that all of the kernel knows.
        found = sorted(
            (symbol.address, symbol.binding == SymbolBinding.GLOBAL, symbol.name, symbol.size)
            for symbol in machine.prog.symbols()
            if symbol.size
        )
        self._starts = [start for start, _, _, _ in found]
        self._symbols = found
        # Without those of per-CPU variables, which are no addresses on x86-64.
        starts: U64 = np.array(self._starts, np.uint64)
        kernel = starts[machine.memory.is_kernel_address(starts)].tolist()
        self.reach = (kernel[0], found[-1][0] + found[-1][3]) if kernel else (0, 0)
        """First address with a name, and the first after all of them."""

    def __missing__(self, address: int) -> str:
        name = self._inside(address) or self._inside(address - 1, 1)
        told = self[address] = name or symbolise(self._machine, address)
        return told

    def within(self, address: int) -> bool:
        """Return whether an address lies in a symbol that says how far it reaches."""
        return self._inside(address) is not None

    def _inside(self, address: int, beyond: int = 0) -> Optional[str]:
        at = bisect_right(self._starts, address) - 1
        if at < 0:
            return None
        start, _, name, size = self._symbols[at]
        return f"{name}+0x{address + beyond - start:x}" if address - start < size else None


def frames(machine: Machine, addresses: List[int]) -> Tuple[str, ...]:
    """Return the names of a call trace, which may end before the list does."""
    found = []
    for address in addresses:
        if not address:
            break
        found.append(symbolise(machine, address))
    return tuple(found)


def depot_stack(machine: Machine, handle: Object) -> Tuple[str, ...]:
    """
    Return a call trace from the stack depot.

    drgn's ``stack_depot_fetch()`` follows any handle; this one may have been
    overwritten, and counts only if the record it leads to says the same.

    :param handle: ``depot_stack_handle_t``
    """
    try:
        if not handle:
            return ()
        record = _depot_record(machine, handle)
        if record.handle.handle.value_() != handle.value_():
            return ()
        size = min(record.size.value_(), _MAX_FRAMES)
        return frames(machine, [record.entries[at].value_() for at in range(size)])
    except (AttributeError, FaultError, LookupError, TypeError):
        return ()


def _depot_record(machine: Machine, handle: Object) -> Object:
    parts = reinterpret("union handle_parts", handle)
    # Since Linux kernel commit 961c949b012f ("lib/stackdepot: rename slab to
    # pool") (in v6.3).
    try:
        pools = machine.prog["stack_pools"]
    except KeyError:
        pool = machine.prog["stack_slabs"][parts.slabindex]
    else:
        # Since Linux kernel commit a6c1d9cb9a68 ("stackdepot: rename pool_index
        # to pool_index_plus_1") (in v6.9).
        if hasattr(parts, "pool_index_plus_1"):
            pool = pools[parts.pool_index_plus_1 - 1]
        else:
            pool = pools[parts.pool_index]
    address = pool.value_() + (parts.offset.value_() << _DEPOT_ALIGN)
    return cast("struct stack_record *", Object(machine.prog, "void *", value=address))


def depot_regions(machine: Machine, handles: U64) -> Iterator[Region]:
    """
    Yield the stack depot's records of some handles, and what leads to them.

    :param handles: ``depot_stack_handle_t``; what leads nowhere is ignored.
    :raises LookupError: if the kernel has no stack depot.
    """
    source = machine.memory
    raw = distinct(handles[handles != 0]).astype(f"{source.byteorder}u4")
    if not len(raw):
        return
    slots, records = _depot_records(machine, raw)
    yield region("stack traces", slots, source.word_size)
    layout = machine.structure("struct stack_record")
    head = layout.offset("entries")
    rows = machine.rows("struct stack_record", records, head)
    frames = np.minimum(rows["size"], np.uint64(_MAX_FRAMES))
    sizes = np.uint64(head) + frames * np.uint64(source.word_size)
    # An overwritten handle may lead anywhere; a record knows its own handle.
    own = rows.ok & (rows["handle"] == raw.astype(np.uint64))
    yield region("stack traces", rows.addresses[own], sizes[own], code=True)


def depot_traces(machine: Machine, handles: U64) -> Dict[int, List[int]]:
    """
    Return call traces from the stack depot, many at a time.

    :param handles: ``depot_stack_handle_t``
    :return: Return addresses by handle, innermost first. A handle that leads to no
        record of its own is left out.
    """
    source = machine.memory
    raw = distinct(handles[handles != 0]).astype(f"{source.byteorder}u4")
    try:
        layout = machine.structure("struct stack_record")
        _, records = _depot_records(machine, raw)
    except (FaultError, LookupError):
        return {}
    head = layout.offset("entries")
    rows = machine.rows("struct stack_record", records, head)
    own = rows.ok & (rows["handle"] == raw.astype(np.uint64))
    lengths = np.minimum(rows["size"], np.uint64(_MAX_FRAMES)).astype(np.int64)
    found: Dict[int, List[int]] = {}
    for length in distinct(lengths[own]).tolist():
        some = np.flatnonzero(own & (lengths == length))
        entries = source.gather(records[some] + np.uint64(head), length * source.word_size)
        words = entries.bytes.view(source.word).reshape(len(some), length)
        for row, trace, ok in zip(some.tolist(), words.tolist(), entries.ok.tolist()):
            if ok:
                found[int(raw[row])] = trace
    return found


def _depot_records(machine: Machine, raw: Any) -> Tuple[U64, U64]:
    # Where the pointers to the pools lie that handles name, and the records; 0 for
    # what leads nowhere.
    source = machine.memory
    parts = machine.structure("union handle_parts")
    slots = _pool_slots(machine, parts, raw)
    gathered = source.gather(slots, source.word_size)
    pool = gathered.bytes.view(source.word)[:, 0].astype(np.uint64)
    offset = parts.column(raw.view(np.uint8).reshape(-1, 4), "offset") << np.uint64(_DEPOT_ALIGN)
    return slots, np.where(source.is_kernel_address(pool), pool + offset, np.uint64(0))


def _pool_slots(machine: Machine, parts: Structure, raw: U64) -> U64:
    # Where the pointers to the pools lie that handles name; by era, as in _depot_record().
    data = raw.view(np.uint8).reshape(-1, 4)
    if parts.has("pool_index_plus_1"):
        name, index = "stack_pools", parts.column(data, "pool_index_plus_1") - np.uint64(1)
    elif parts.has("pool_index"):
        name, index = "stack_pools", parts.column(data, "pool_index")
    else:
        name, index = "stack_slabs", parts.column(data, "slabindex")
    pools = machine.prog[name]
    is_array = pools.type_.kind == TypeKind.ARRAY
    start = pools.address_ if is_array else pools.value_()
    return np.uint64(start) + index * np.uint64(machine.memory.word_size)
