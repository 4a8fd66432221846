# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sections of memory
------------------

Physical memory comes in sections (SPARSEMEM), each of which can be taken
offline. The struct pages of an offline section exist and mean nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Iterator, List, Sequence, Tuple

import numpy as np
import numpy.typing as npt
from drgn import TypeKind, sizeof

from ..distinct import distinct
from ..machine import Machine
from ..machine.memmap import MAP_FLAGS, section_addresses
from ..machine.memory import U64, Bools
from ..machine.ram import memory_ranges
from ..regions import Region, region, steps
from .scan import page_ranges, require_64_bit

Rows = npt.NDArray[np.intp]


class PageNumbers:
    """
    The page frames of some ranges, numbered from 0 on.

    :param ranges: Ranges [start, end) of page frame numbers, in ascending order.
    """

    def __init__(self, ranges: Sequence[Tuple[int, int]]) -> None:
        self._ranges = list(ranges)
        bounds = np.array(ranges, np.int64).reshape(-1, 2)
        self._starts, self._ends = bounds[:, 0], bounds[:, 1]
        lengths = self._ends - self._starts
        self._first = np.cumsum(lengths) - lengths
        self._first_of = self._first.tolist()
        self.total = int(lengths.sum())
        """How many there are."""

    def number(self, pfn: int) -> int:
        """Return the number of a page frame that is in one of the ranges."""
        which = bisect_right(self._ranges, (pfn, 1 << 64)) - 1
        return pfn - self._ranges[which][0] + self._first_of[which]

    def numbers(self, pfns: U64) -> Rows:
        """Return the numbers of page frames; -1 for those in no range."""
        signed = pfns.astype(np.int64)
        which = self._starts.searchsorted(signed, "right") - 1
        inside = (which >= 0) & (signed < self._ends[which])
        return np.where(inside, signed - self._starts[which] + self._first[which], -1)

    def pfns(self, numbers: Rows) -> U64:
        """Return page frame numbers, from the numbers that are given here."""
        which = self._first.searchsorted(numbers, "right") - 1
        return (numbers - self._first[which] + self._starts[which]).astype(np.uint64)


def pages_per_section(machine: Machine) -> int:
    """Return how many pages a section has; 1 without SPARSEMEM."""
    try:
        return 1 << (int(machine.prog["SECTION_SIZE_BITS"]) - machine.memory.page_shift)
    except LookupError:
        return 1


def online_ranges(machine: Machine) -> List[Tuple[int, int]]:
    """
    Return the ranges [start, end) of page frame numbers whose pages are online.

    These are the pages that ``pfn_to_online_page()`` finds, but for device
    memory that shares a section with ordinary memory.
    """
    require_64_bit(machine)
    return machine.settled(_online_ranges)


def _online_ranges(machine: Machine) -> List[Tuple[int, int]]:
    ranges = page_ranges(machine)
    per_section = pages_per_section(machine)
    if per_section == 1 or not ranges:
        return ranges
    first = np.concatenate(
        [np.arange(start // per_section, -(-end // per_section)) for start, end in ranges]
    )
    sections = distinct(first)
    online = dict(zip(sections.tolist(), _online(machine, sections.astype(np.uint64)).tolist()))
    pieces: List[Tuple[int, int]] = []
    for start, end in ranges:
        for number in range(start // per_section, -(-end // per_section)):
            low, high = max(start, number * per_section), min(end, (number + 1) * per_section)
            if not online[number]:
                continue
            if pieces and pieces[-1][1] == low:
                pieces[-1] = (pieces[-1][0], high)
            else:
                pieces.append((low, high))
    return pieces


def _online(machine: Machine, sections: U64) -> Bools:
    rows = machine.rows("struct mem_section", section_addresses(machine, sections))
    try:
        bit = int(machine.prog["SECTION_IS_ONLINE_BIT"])
    except LookupError:
        bit = 2  # a macro before "mm/sparse: introduce enum" (in v5.12)
    words = rows["section_mem_map"]
    # A damaged word says nothing of this.
    damaged = (words & ~MAP_FLAGS) != np.uint64(machine.memory_map.vmemmap)
    return ((words >> np.uint64(bit)) & np.uint64(1) != 0) | damaged


ROOTS = "section roots"
"""What the table is that leads to sections. Where a machine has no memory it is zeroes."""


def roots_of_memory(machine: Machine) -> U64:
    """Return where the entries of that table are whose sections have memory, if that is told."""
    prog, source = machine.prog, machine.memory
    table = prog["mem_section"]
    if table.type_.unaliased_kind() == TypeKind.ARRAY:
        return np.zeros(0, np.uint64)
    count = prog["NR_SECTION_ROOTS"].value_()
    there = np.ones(count, np.bool_)
    ranges = machine.fact(memory_ranges)
    if ranges is not None:
        there[:] = False
        # Bytes of memory that one entry stands for.
        reach = prog["SECTIONS_PER_ROOT"].value_() << prog["SECTION_SIZE_BITS"].value_()
        for start, end in ranges:
            there[start // reach : -(-end // reach)] = True
    return steps(table.value_(), source.word_size, count)[there]


def regions(machine: Machine) -> Iterator[Region]:
    """Yield what tells which parts of the memory map exist (SPARSEMEM)."""
    try:
        table = machine.prog["mem_section"]
    except LookupError:
        return
    size = machine.structure("struct mem_section").size
    if table.type_.unaliased_kind() == TypeKind.ARRAY:
        # Without SPARSEMEM_EXTREME the sections are the variable itself.
        assert table.address_ is not None
        sections = steps(table.address_, size, sizeof(table) // size)
    else:
        source, count = machine.memory, machine.prog["NR_SECTION_ROOTS"].value_()
        yield region(ROOTS, table.value_(), count * source.word_size)
        slots = steps(table.value_(), source.word_size, count)
        roots = source.gather(slots, source.word_size).bytes.view(source.word)[:, 0]
        roots = roots[roots != 0].astype(np.uint64)
        per_root = machine.prog["SECTIONS_PER_ROOT"].value_()
        yield region("sections", roots, per_root * size)
        sections = (roots[:, None] + steps(0, size, per_root)).reshape(-1)
    rows = machine.rows("struct mem_section", sections)
    if rows.structure.has("usage"):
        usage = rows["usage"]
        width = machine.structure("struct mem_section_usage").size
        yield region("sections", usage[usage != 0], width)
