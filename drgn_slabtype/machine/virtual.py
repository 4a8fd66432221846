# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Other addresses of a page
-------------------------

Each page has an address in the direct map; those of the kernel's image, of
stacks and of whatever else vmalloc() and modules have, another one by which
people know what is there; so have the pages that hold struct pages.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Tuple

import numpy as np
from drgn.helpers.linux.mm import for_each_vmap_area

from .memory import I64, U64
from .tasks import ERRORS
from .translation import physical_address

if TYPE_CHECKING:
    from . import Machine

_CHUNK = 2 << 20  # bytes of the memory map that are mapped at once
_MOST_AREAS = 1 << 20
_MOST_PAGES = 1 << 24  # of one area


class Virtual(NamedTuple):
    """Pages that have an address outside the direct map, in order of their number."""

    pfns: I64
    """Page frame numbers."""
    addresses: U64
    """The other address of each."""
    image: Tuple[int, int, int]
    """Of the kernel's image: physical address of its first and after its last byte, and
    its first address."""

    def address(self, physical: int, page_shift: int) -> int:
        """Return the other address of a physical address; 0 if it has none."""
        first, last, start = self.image
        if first <= physical < last:
            return start + physical - first
        at = int(np.searchsorted(self.pfns, physical >> page_shift))
        if at == len(self.pfns) or self.pfns[at] != physical >> page_shift:
            return 0
        return int(self.addresses[at]) + (physical & (1 << page_shift) - 1)


def virtual(machine: Machine) -> Virtual:
    """Return the pages of a machine that have an address outside the direct map."""
    pfns, addresses = [], []
    for start, pages in _areas(machine):
        found = (pages - np.uint64(machine.page.vmemmap)) // np.uint64(machine.page.size)
        pfns.append(found.astype(np.int64))
        step = np.uint64(machine.memory.page_size)
        addresses.append(np.uint64(start) + np.arange(len(pages), dtype=np.uint64) * step)
    for found, where in _memory_map(machine):
        pfns.append(found)
        addresses.append(where)
    image = _image(machine)
    if not pfns:
        return Virtual(np.zeros(0, np.int64), np.zeros(0, np.uint64), image)
    every, where = np.concatenate(pfns), np.concatenate(addresses)
    order = np.argsort(every, kind="stable")
    return Virtual(every[order], where[order], image)


def _areas(machine: Machine) -> List[Tuple[int, U64]]:
    # Where each area of vmalloc() begins, and its struct pages.
    memory, found = machine.memory, []
    try:
        for area in islice(for_each_vmap_area(machine.prog), _MOST_AREAS):
            try:
                vm = area.vm
                if not vm or vm.addr.value_() != area.va_start.value_() or not vm.pages:
                    continue
                count = min(vm.nr_pages.value_(), _MOST_PAGES)
                raw = memory.read(vm.pages.value_(), count * memory.word_size)
            except ERRORS:
                continue
            found.append((vm.addr.value_(), np.frombuffer(raw, memory.word).astype(np.uint64)))
    except ERRORS:
        pass  # what was found is good
    return found


def _memory_map(machine: Machine) -> Iterator[Tuple[I64, U64]]:
    # Pages of struct pages, and their addresses.
    step = machine.memory.page_size
    for first, last in machine.memory_map.ranges or ():
        start = machine.page.vmemmap + first * machine.page.size
        end = machine.page.vmemmap + last * machine.page.size
        for chunk in range(start // step * step, end, _CHUNK):
            addresses = np.arange(chunk, min(chunk + _CHUNK, end), step, dtype=np.uint64)
            ends = [_pfn(machine, int(addresses[at])) for at in (0, -1)]
            # A chunk is mapped as a whole where that is possible.
            if ends[0] >= 0 and ends[1] - ends[0] == len(addresses) - 1:
                yield np.arange(ends[0], ends[1] + 1, dtype=np.int64), addresses
                continue
            pfns = np.array([_pfn(machine, address) for address in addresses.tolist()], np.int64)
            yield pfns[pfns >= 0], addresses[pfns >= 0]


def _pfn(machine: Machine, address: int) -> int:
    try:
        return physical_address(machine, address) >> machine.memory.page_shift
    except ERRORS:
        return -1


def _image(machine: Machine) -> Tuple[int, int, int]:
    prog = machine.prog
    try:
        start, end = (prog.symbol(name).address for name in ("_text", "_end"))
        physical = physical_address(machine, start)
    except ERRORS:
        return 0, 0, 0
    return physical, physical + end - start, start
