# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What CPUs keep of each zone
---------------------------

Every list of free pages of every CPU, followed from both of its ends, beside the
number of pages that the CPU counts.
"""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Dict, Iterator, List, Literal, NamedTuple, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, offsetof

from ..machine import Machine
from ..machine.percpu import per_cpu_copies
from .pcp import LONGEST, order_of_list, pages_of_cpus
from .scan import PageBlock, page_ranges
from .zones import zone_bits, zone_names, zones_with_lists

_BLOCK = 1 << 15  # bytes of the memory map that are read at once
_BLOCKS = 1 << 7  # that are kept


class Torn(NamedTuple):
    """Where the two directions of a list do not meet."""

    link: int
    """``struct list_head *`` that is at fault: of a page, or the list's own."""
    pfn: Optional[int]
    """The page that it is in; ``None`` for the head of the list."""
    member: Optional[str]
    """``next`` or ``prev``; ``None`` if both of them lead elsewhere."""
    word: int
    """Address of the pointer at fault, of ``next`` if both are."""
    found: int
    """What that is."""
    plausible: bool
    """Whether it leads to a page or to the head, as it does for a moment in sound lists."""


class CpuList(NamedTuple):
    """One list of free pages of a CPU."""

    number: int
    order: int
    pfns: List[int]
    """Its pages that could be reached."""
    torn: Optional[Torn]


class CpuPages(NamedTuple):
    """The free pages that one CPU keeps of one zone (``struct per_cpu_pages``)."""

    node: int
    zone: int
    name: str
    """Of the zone."""
    cpu: int
    counted: int
    word: int
    """Address of that."""
    batch: int
    """Pages that come and go at once."""
    lists: List[CpuList]
    whole: bool
    """Whether all that its lists lead to could be read."""


class FreePages(NamedTuple):
    """What CPUs keep, and what the struct pages of all these pages say."""

    cpus: List[CpuPages]
    rows: Dict[int, int]
    """Where each page is in the columns, by page frame number."""
    places: List[Tuple[int, int]]
    """Node and zone of each, as its flags say."""
    words: List[int]
    """The page_type word of each."""
    refcounts: List[int]


def free_pages_of_cpus(machine: Machine) -> FreePages:
    """
    Follow all lists of free pages of CPUs.

    :raises AttributeError: if zones are not as any known kernel has them; so LookupError.
    """
    cpus = list(_cpu_pages(machine))
    pfns = sorted({pfn for one in cpus for some in one.lists for pfn in some.pfns})
    fields = machine.page
    if not pfns:
        return FreePages(cpus, {}, [], [], [])
    addresses = np.array(pfns, np.uint64) * np.uint64(fields.size) + np.uint64(fields.vmemmap)
    gathered = machine.memory.gather(addresses, fields.size)
    page = PageBlock(0, 0, gathered.bytes, fields, machine.memory.byteorder)
    bits = zone_bits(machine)
    return FreePages(
        cpus,
        {pfn: row for row, pfn in enumerate(pfns) if gathered.ok[row]},
        [bits.split(place) for place in bits.place(page.flags).tolist()],
        page.words.tolist(),
        page.refcounts.astype(np.uint32).view(np.int32).tolist(),
    )


def _cpu_pages(machine: Machine) -> Iterator[CpuPages]:
    names, seen = zone_names(machine), set()
    cpus, walk = machine.cpus.tolist(), _Walk(machine)
    for nid, number, zone in zones_with_lists(machine):
        for cpu, pages in zip(cpus, per_cpu_copies(machine, pages_of_cpus(zone))):
            at = pages.value_()
            # Zones without memory share one that is empty.
            if at not in seen:
                seen.add(at)
                name = names.get((nid, number), str(number))
                yield _one(machine, walk, pages, (nid, number, name, cpu))


def _one(machine: Machine, walk: _Walk, pages: Object, of: Tuple[int, int, str, int]) -> CpuPages:
    types = machine.enumerators("migratetype").get("MIGRATE_PCPTYPES", 3)
    lists = pages.lists
    total, found, whole = lists.type_.length or 0, [], True
    word = pages.value_() + offsetof(pages.type_.type, "count")
    try:
        count, batch = pages.count.value_(), pages.batch.value_()
    except FaultError:
        return CpuPages(*of, 0, word, 0, [], False)
    walk.begin(lists.address_ or 0, total)
    for number in range(total):
        head = (lists.address_ or 0) + number * 2 * machine.memory.word_size
        try:
            pfns, torn = walk.follow(head)
        except FaultError:
            whole = False
            continue
        found.append(CpuList(number, order_of_list(number, types, total), pfns, torn))
    return CpuPages(*of, count, word, batch, found, whole)


class _Walk:
    # Follows lists by words, not by columns: most of them are short.
    def __init__(self, machine: Machine) -> None:
        self._read, fields = machine.memory.read, machine.page
        little = machine.memory.byteorder == "<"
        self._order: Literal["little", "big"] = "little" if little else "big"
        self._size, self._first = fields.size, fields.vmemmap + fields.compound
        self._most = max((end for _, end in page_ranges(machine)), default=0)
        self._word = machine.memory.word_size
        self._block = lru_cache(_BLOCKS)(self._read_block)
        self._known: Dict[int, Tuple[int, int]] = {}

    def follow(self, head: int) -> Tuple[List[int], Optional[Torn]]:
        ahead, first = self._way(head, 0)
        if first is None:
            return [self._pfn(link) for link in ahead], None
        behind, last = self._way(head, 1)
        pages = [*ahead, *reversed(behind)]
        torn = self._torn(head, (ahead[-1] if ahead else head, first), behind, last)
        if torn.member is None:
            pages.append(torn.link)
        return [self._pfn(link) for link in dict.fromkeys(pages)], torn

    def _way(self, head: int, back: int) -> Tuple[List[int], Optional[int]]:
        # The links that are led to, up to where what leads on is not led back; that.
        way: List[int] = []
        at, links = head, self._links(head)
        while len(way) < LONGEST:
            to = links[back]
            if not self._leads(to, head):
                return way, to
            links = self._links(to)
            if links[1 - back] != at:
                return way, to
            if to == head:
                return way, None
            way.append(to)
            at = to
        return way, at

    def _torn(self, head: int, ahead: Tuple[int, int], way: List[int], last: Optional[int]) -> Torn:
        before, after = ahead[0], way[-1] if way else head
        forth, back = ahead[1], last
        # Both sides lead to one page, which leads elsewhere.
        if forth == back and forth != head and self._leads(forth, head):
            return self._at(head, forth, None)
        # All that comes before it leads there, and all behind it is whole.
        if forth == after:
            return self._at(head, after, "prev")
        return self._at(head, before, "next")

    def _at(self, head: int, link: int, member: Optional[str]) -> Torn:
        found = self._links(link)
        which = 1 if member == "prev" else 0
        told = found if member is None else found[which : which + 1]
        # No page is ever put before itself.
        itself = link != head and link in told
        plausible = not itself and all(self._leads(one, head) for one in told)
        pfn = None if link == head else self._pfn(link)
        return Torn(link, pfn, member, link + which * self._word, found[which], plausible)

    def begin(self, heads: int, count: int) -> None:
        """Take up lists whose heads lie side by side, and forget others."""
        self._known.clear()
        with suppress(FaultError):
            width = 2 * self._word
            data = self._read(heads, count * width)
            self._known.update(
                (heads + at, self._pair(data, at)) for at in range(0, len(data), width)
            )

    def _links(self, link: int) -> Tuple[int, int]:
        found = self._known.get(link)
        if found is None:
            block, at = divmod(link, _BLOCK)
            data = self._block(block) if at + 2 * self._word <= _BLOCK else b""
            if not data:
                data, at = self._read(link, 2 * self._word), 0
            found = self._known[link] = self._pair(data, at)
        return found

    def _pair(self, data: bytes, at: int) -> Tuple[int, int]:
        half, end = at + self._word, at + 2 * self._word
        return int.from_bytes(data[at:half], self._order), int.from_bytes(
            data[half:end], self._order
        )

    def _read_block(self, block: int) -> bytes:
        # The struct pages around, which lead to each other; nothing, if some of it is missing.
        try:
            return self._read(block * _BLOCK, _BLOCK)
        except FaultError:
            return b""

    def _leads(self, link: int, head: int) -> bool:
        beyond, rest = divmod(link - self._first, self._size)
        return link == head or (not rest and 0 <= beyond < self._most)

    def _pfn(self, link: int) -> int:
        return (link - self._first) // self._size
