# SPDX-License-Identifier: LGPL-2.1-or-later
"""Picking pages that are no slab's."""

from __future__ import annotations

from typing import Any, Callable

from drgn import FaultError, Program, offsetof, sizeof
from drgn.helpers.linux.mm import virt_to_page
from drgn.helpers.linux.pid import find_task

from .language import NoVictim
from .overlay import order_of
from .things import Page


class _Raw:
    # A struct page of the memory map, as bytes.
    def __init__(self, machine: Any, address: int) -> None:
        self.layout = machine.prog.type("struct page")
        self.data = machine.prog.read(address, sizeof(self.layout))
        self.order = order_of(machine.prog)
        self.flags = self.number(0)
        self.is_tail = bool(self.number(8) & 1)

    def number(self, at: int, width: int = 8) -> int:
        return int.from_bytes(self.data[at : at + width], self.order)

    def member(self, name: str, width: int = 8) -> int:
        return self.number(offsetof(self.layout, name), width)


def _search(machine: Any, pfns: range, what: str, where: Callable[[_Raw], Any]) -> Page:
    base = machine.prog["vmemmap"].value_()
    size = sizeof(machine.prog.type("struct page"))
    # Before the lowest page lies no struct page, whatever can be read there.
    lowest = int(machine.prog["min_low_pfn"])
    for pfn in (pfn for pfn in pfns if pfn >= lowest):
        address = int(base + pfn * size)
        try:
            raw = _Raw(machine, address)
        except FaultError:
            continue
        if where(raw):
            return Page(machine, address)
    raise NoVictim(f"no {what}")


def user_page(machine: Any) -> Page:
    """Pick a page that belongs to a file or a process."""
    mark = machine.slab_flag or 0

    def users(raw: _Raw) -> bool:
        # Mapped once or not at all, no tail, and its mapping a kernel pointer.
        single = raw.member("_mapcount", 4) in (0, 0xFFFFFFFF) and not raw.is_tail
        return single and not raw.flags & mark and _leads(machine, raw.member("mapping"))

    return _search(machine, range(1, int(machine.prog["max_pfn"])), "page of a user", users)


def _leads(machine: Any, address: int) -> bool:
    # Whether it is a kernel pointer; small addresses are read as physical ones.
    try:
        return address >= machine.page_size << 4 and bool(machine.prog.read(address, 1))
    except FaultError:
        return False


def kernel_page(machine: Any) -> Page:
    """Pick a page of order 0 that the kernel has taken for itself."""

    def kernels(raw: _Raw) -> bool:
        taken = raw.member("_mapcount", 4) == 0xFFFFFFFF and raw.member("_refcount", 4) == 1
        return taken and not raw.flags & 0xFFFFFFF and not raw.is_tail and not raw.number(24)

    lowest = int(machine.prog["min_low_pfn"])
    pfns = range(lowest + (1 << 12), lowest + (1 << 16))
    return _search(machine, pfns, "page of the kernel", kernels)


def free_page(machine: Any) -> Page:
    """Pick the first page of a free block, which the page allocator marks."""

    def free(raw: _Raw) -> bool:
        word = raw.member("_mapcount", 4)
        return word in (0xFFFFFF7F, 0xF0000000) or word >> 24 == 0xF0

    pfns = range(int(machine.prog["max_pfn"]) - 1, 0, -1)
    return _search(machine, pfns, "free page", free)


def _is_table(raw: _Raw, prog: Program) -> bool:
    # One type per page since Linux 6.12; before that a type is a bit that is cleared.
    word = raw.member("_mapcount", 4)
    if "PGTY_table" in prog:
        return word >> 24 == int(prog["PGTY_table"])
    return word == 0xFFFFFDFF


def page_table(machine: Any) -> Page:
    """
    Pick a page of the lowest level of page tables.

    Found from the top of the first process that has memory; where its entries are not as
    x86-64 has them, the last page of the machine that is marked as one.
    """
    prog, mask = machine.prog, 0x000FFFFFFFFFF000
    if "page_offset_base" not in prog:
        pfns = range(int(prog["max_pfn"]) - 1, 0, -1)
        return _search(machine, pfns, "page table", lambda raw: _is_table(raw, prog))
    base = prog["page_offset_base"].value_()
    mm = find_task(prog, 1).mm
    if not mm:
        raise NoVictim("no process with memory")
    table = mm.pgd.value_()
    for _ in range(3):
        entries = [prog.read_u64(table + 8 * at) for at in range(256)]
        present = [entry for entry in entries if entry & 1 and not entry & 0x80]
        if not present:
            raise NoVictim("no page table")
        table = base + (present[0] & mask)
    return Page(machine, int(virt_to_page(prog, table).value_()))
