# SPDX-License-Identifier: LGPL-2.1-or-later
"""An address that is in no slab: code, a variable, per-CPU memory, a stack, a page."""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from dataclasses import replace
from typing import List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, ObjectAbsentError, cast
from drgn.helpers.common.memory import identify_address
from drgn.helpers.linux.mm import compound_head, compound_order, page_to_pfn

from ..allocators.caches import read_caches
from ..machine import Machine
from ..machine.cpumemory import of_cpus
from ..machine.symbols import symbol_at
from ..machine.tasks import TaskList, spell_task
from ..pages.predicates import page_types
from ..pages.scan import page_ranges
from .address import NOT_KERNEL, NOTHING, AddressInfo
from .members import member_at

# What drgn's helpers raise where a target lacks something or holds garbage.
_ERRORS = (
    AttributeError,
    FaultError,
    LookupError,
    NotImplementedError,  # they follow no page tables of riscv64
    ObjectAbsentError,
    TypeError,
    ValueError,
)

_MAX_FREE_ORDER = 13  # the highest MAX_ORDER that any architecture sets


# Members of struct kmem_cache that lead to per-CPU memory, and what is there.
_PER_CPU = {
    "cpu_slab": "struct kmem_cache_cpu",
    "cpu_cache": "struct array_cache",
    "cpu_sheaves": "struct slub_percpu_sheaves",
}


# What the kernel's image is made of (include/asm-generic/sections.h).
_SECTIONS = (
    ("_stext", "_etext", "code"),
    ("__start_rodata", "__end_rodata", "read-only data"),
    ("_sdata", "_edata", "data"),
    ("__bss_start", "__bss_stop", "data that begins as zeroes"),
)


def elsewhere(machine: Machine, addr: int) -> AddressInfo:
    """Return what an address is that is in no slab."""
    if addr == 0:
        return AddressInfo(addr, "other", "NULL")
    if not machine.memory.is_kernel_address(np.array([addr], np.uint64))[0]:
        return AddressInfo(addr, "other", NOT_KERNEL)
    for identify in (_symbol, _image, _per_cpu, _of_a_cpu, _struct_page, _known_to_drgn, _in_page):
        with suppress(*_ERRORS):
            found = identify(machine, addr)
            if found is not None:
                return found
    return AddressInfo(addr, "other", NOTHING)


def _symbol(machine: Machine, addr: int) -> Optional[AddressInfo]:
    symbol = symbol_at(machine, addr)
    offset = addr - symbol.address
    return AddressInfo(addr, "other", f"symbol {_inside(symbol.name, offset)}", offset=offset)


def _image(machine: Machine, addr: int) -> Optional[AddressInfo]:
    prog = machine.prog
    for first, last, what in _SECTIONS:
        with suppress(LookupError):
            if prog.symbol(first).address <= addr < prog.symbol(last).address:
                return AddressInfo(addr, "other", f"in the kernel's {what}")
    return None


def _per_cpu(machine: Machine, addr: int) -> Optional[AddressInfo]:
    for cpu, offset in zip(machine.cpus.tolist(), machine.cpu_offsets.tolist()):
        pointer = (addr - offset) & machine.memory.address_mask
        name = _per_cpu_variable(machine, pointer) if offset else None
        if name is not None:
            return AddressInfo(addr, "per-CPU", f"{name} of CPU {cpu}")
        found = _of_cache(machine, pointer)
        if found is not None:
            name, cache, address = found
            of = f"{name} of {cache} of CPU {cpu}"
            return AddressInfo(addr, "per-CPU", of, cache=cache, slab_cache=address)
    return None


def _of_a_cpu(machine: Machine, addr: int) -> Optional[AddressInfo]:
    for own in machine.settled(of_cpus):
        if own.start <= addr < own.end:
            offset = addr - own.start
            name = _inside(own.name, offset)
            member = member_at(machine.prog.type("struct lowcore"), offset) if own.lowcore else ""
            if member:
                name = f"lowcore.{member}"
            return AddressInfo(addr, "per-CPU", f"{name} of CPU {own.cpu}")
    return None


def _per_cpu_variable(machine: Machine, pointer: int) -> Optional[str]:
    symbols = machine.fact(_per_cpu_symbols)
    at = bisect_right(symbols, (pointer, "~")) - 1
    if at < 0 or pointer >= symbols[-1][0]:
        return None
    address, name = symbols[at]
    return f"per-CPU variable {_inside(name, pointer - address)}"


def _per_cpu_symbols(machine: Machine) -> List[Tuple[int, str]]:
    # In order, ending with where they end. Before Linux 6.15 those of x86-64
    # begin at zero, where drgn looks for none by their address.
    prog = machine.prog
    try:
        start, end = (prog.symbol(f"__per_cpu_{name}").address for name in ("start", "end"))
    except LookupError:
        return []
    found = [(one.address, one.name) for one in prog.symbols() if start <= one.address < end]
    return [*sorted(found), (end, "__per_cpu_end")]


def _of_cache(machine: Machine, pointer: int) -> Optional[Tuple[str, str, int]]:
    # Structure with offset, name and address of the cache.
    caches = machine.settled(read_caches)
    for member, type in _PER_CPU.items():
        if not caches.rows.structure.has(member):
            continue
        offset = np.uint64(pointer) - caches.rows[member]
        size = machine.structure(type).size
        if type == "struct array_cache":
            # Its entries lie behind it.
            size += machine.memory.word_size * caches.rows["limit"].astype(np.uint64)
        found = np.flatnonzero((offset < size) & (caches.rows[member] != 0))
        if len(found):
            at = int(found[0])
            name = _inside(type.removeprefix("struct "), int(offset[at]))
            return name, caches.names[at], int(caches.addresses[at])
    return None


def _known_to_drgn(machine: Machine, addr: int) -> Optional[AddressInfo]:
    if _in_direct_map(machine, addr):
        # Its helpers would look for a slab again.
        task = machine.settled(TaskList).on_stack(addr)
        if task is None:
            return None
        where = f"stack of {spell_task(task.object)} +0x{addr - task.stack.start:x}"
        return AddressInfo(addr, "other", where)
    known = identify_address(machine.prog, addr)
    return None if known is None else AddressInfo(addr, "other", known)


def _struct_page(machine: Machine, addr: int) -> Optional[AddressInfo]:
    pfn, beside = divmod(addr - machine.page.vmemmap, machine.page.size)
    if not any(start <= pfn < end for start, end in page_ranges(machine)):
        return None
    what = _page(machine, machine.memory.linear_base + (pfn << machine.memory.page_shift))
    at = f"{beside} byte{'s' if beside > 1 else ''} into the" if beside else "the"
    meaning = f"{at} struct page of PFN {pfn:#x}, {what.meaning}"
    return replace(what, address=addr, kind="struct page", meaning=meaning, offset=beside)


def _in_page(machine: Machine, addr: int) -> Optional[AddressInfo]:
    return _page(machine, addr) if _in_direct_map(machine, addr) else None


def _in_direct_map(machine: Machine, addr: int) -> bool:
    # drgn's helpers ask for page tables, which it does not follow on all architectures.
    first, last = (int(machine.prog[name]) for name in ("min_low_pfn", "max_low_pfn"))
    return first <= _pfn(machine, addr) <= last


def _pfn(machine: Machine, addr: int) -> int:
    return (addr - machine.memory.linear_base) >> machine.memory.page_shift


def _page(machine: Machine, addr: int) -> AddressInfo:
    at = machine.page.vmemmap + _pfn(machine, addr) * machine.page.size
    page = Object(machine.prog, "struct page *", at)
    try:
        return _part_of(addr, page, compound_head(page))
    except (FaultError, OverflowError):  # a tail that leads to no page
        return _part_of(addr, page, page)


def _part_of(addr: int, page: Object, head: Object) -> AddressInfo:
    types = page_types(head)
    pfn = page_to_pfn(page).value_()
    pages = 1 << _order(head)
    free = None if types else _free_block(head)
    if "large_kmalloc" in types:
        what = "kmalloc() too large for a slab cache"
    elif len(types) > 1:
        what = f"page with contradicting types {', '.join(types)}"
    elif free is not None:
        what, pages = "free page", 1 << free
    else:
        refcount = cast("struct page *", head)._refcount.counter.value_()
        what = f"{types[0]} page" if types else f"page without a type, refcount {refcount}"
    if pages > 1:
        what += f", one of {pages} pages"
    return AddressInfo(
        addr,
        "page",
        f"in no slab: {what}",
        page=page.value_(),
        pfn=pfn,
        page_types=types,
    )


def _free_block(page: Object) -> Optional[int]:
    # Order of the free block that a page lies in. Only the first page of a
    # block is marked; blocks begin at multiples of their size.
    pfn = page_to_pfn(page).value_()
    for order in range(_MAX_FREE_ORDER + 1):
        first = page - (pfn & ((1 << order) - 1))
        try:
            if "buddy" in page_types(first) and order <= first.private.value_() <= _MAX_FREE_ORDER:
                return int(first.private)
        except FaultError:
            return None
    return None


def _order(head: Object) -> int:
    try:
        return min(int(compound_order(head)), 24)
    except (AttributeError, FaultError, LookupError):
        return 0


def _inside(name: str, offset: int) -> str:
    return f"{name}+0x{offset:x}" if offset else name
