# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Free memory
-----------

Everything about the buddy allocator and about typed pages that rules judge:
free blocks and the lists they stand on, and pages that do not look as pages in
their place should. One pass over the memory map; what is healthy is not kept,
but for the first page of each free block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np
import numpy.typing as npt
from drgn import Object

from ..distinct import among, distinct
from ..machine import Machine
from ..machine.locks import WrongWord, lock_state
from ..machine.memory import U64, Bools
from .blocks import pageblock_order
from .folios import MAX_BUDDY_ORDER, UNTYPED, Folios
from .kpageflags import for_each_block
from .mapcount import whole_mapcounts
from .scan import page_ranges
from .zones import populated_zones, zone_bits, zone_names

I64 = npt.NDArray[np.int64]
I32 = npt.NDArray[np.int32]
U32 = npt.NDArray[np.uint32]

_MOST_PFN = 1 << 52  # beyond all memory, wherever a damaged zone says that it lies

# Fewer pages of a block than one in so many are picked out of it; of more, it costs
# less to look at all.
_FEW = 4

# What a link of a free block leads to, if not to a page.
NOWHERE = -1
"""Neither a struct page nor the head of a free list."""

# Flags that the kernel checks when a page is freed (PAGE_FLAGS_CHECK_AT_FREE).
_CHECKED_AT_FREE = (
    "PG_lru",
    "PG_locked",
    "PG_private",
    "PG_private_2",
    "PG_writeback",
    "PG_reserved",
    "PG_active",
    "PG_unevictable",
    "PG_mlocked",
)


class FreeList(NamedTuple):
    """One list of free blocks."""

    zone: int
    """Row of :attr:`FreeMemory.zones`."""
    order: int
    migratetype: int
    first: int
    """Page frame the head leads to; itself as :attr:`FreeMemory.next` has it."""
    last: int
    head: int
    """``struct list_head *``."""


@dataclass(frozen=True)
class Zone:
    """A zone of a node, and what its free areas count."""

    node: int
    number: int
    name: str
    start: int
    end: int
    """Page frames [start, end) that it spans."""
    free: Tuple[int, ...]
    """Free blocks by order, as the kernel counts them."""
    locked: bool
    """Whether a CPU held the lock that guards the lists."""
    wrong_lock: Optional[WrongWord] = None
    """What that lock holds if no lock can hold it."""


class Strays(NamedTuple):
    """Pages that do not look as they should where they are."""

    pfns: U64
    words: U32
    flags: U64
    refcounts: I32
    mapping: U64
    """``page->mapping`` of pages in free blocks that are no tails."""
    memcg: U64
    """``memcg_data`` of pages in free blocks, ``mem_cgroup`` before Linux 5.11."""


@dataclass(frozen=True)
class FreeMemory:
    """Columns of equal length for free blocks, and what else there is to judge."""

    pfn: I64
    order: I64
    """As the page says; not yet believed."""
    word: U32
    """The page_type word of each."""
    mapping: U64
    """``page->mapping``, which the kernel clears."""
    memcg: U64
    """``memcg_data``, or ``mem_cgroup``, which the kernel clears."""
    flags: U64
    """Flags among those that must be clear; the others are left out."""
    refcount: I64
    zone: I64
    """Row of :attr:`zones`; -1 for a zone that does not exist."""
    next: I64
    """Page frame that ``lru.next`` leads to, :data:`NOWHERE`, or -2 - row of a list."""
    prev: I64
    zones: List[Zone]
    lists: List[FreeList]
    inside: Strays
    """Pages inside free blocks that have a type, references or flags."""
    tails: Strays
    """Tails of compound pages that have a type."""
    mapped: Strays
    """Pages with a type other than ``hugetlb`` whose folio counts mappings."""
    large: Dict[int, Tuple[int, int]]
    """Pages of large ``kmalloc()`` of each node, in all and of the largest one."""
    words: Dict[int, int]
    """The words of pages that lists lead to and that are no free blocks."""
    max_order: int
    """Largest order there is a list for."""
    pageblock_order: int
    cgroup: str = ""
    """What the member of ``struct page`` is called that :attr:`memcg` is."""
    """Blocks below this order always merge with their neighbour."""


class Observer(Protocol):
    """Who takes part in a pass over the memory map."""

    def take(self, folios: Folios, free: Bools) -> None:
        """
        Look at a block of pages; they come in ascending order.

        :param free: Which pages lie in free blocks.
        """


def free_memory(machine: Machine, others: Sequence[Observer] = ()) -> FreeMemory:
    """
    Collect what there is to judge about free memory and typed pages.

    :param others: Who looks at the same blocks of pages.
    :raises LayoutError: if the kernel's page types are not understood.
    """
    return _Collector(machine).collect(others)


class _Collector:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        layout = machine.layout
        self.encoding = layout.encoding
        flags = machine.enumerators("pageflags")
        names = [*_CHECKED_AT_FREE, *(["PG_slab"] if layout.slab_flag is not None else [])]
        self.checked = np.uint64(sum(1 << flags[name] for name in names if name in flags))
        self.bits = zone_bits(machine)
        self.size = machine.page.size
        page = machine.structure("struct page")
        self.mapping = page.offset("mapping") if page.has("mapping") else None
        # Since Linux kernel commit 87944e2992bd ("mm: Introduce page memcg flags")
        # (in v5.11), the member mem_cgroup is named memcg_data.
        members = ("memcg_data", "mem_cgroup", "")
        self.cgroup = next(name for name in members if not name or page.has(name))
        self.memcg = page.offset(self.cgroup) if self.cgroup else None
        self.link = machine.memory_map.vmemmap + machine.page.compound
        self.zones: List[Zone] = []
        self.lists: List[FreeList] = []
        self.rows: Dict[Tuple[int, int], int] = {}
        self.large: Dict[int, Tuple[int, int]] = {}

    def collect(self, others: Sequence[Observer]) -> FreeMemory:
        self._zones()
        parts: List[Tuple[npt.NDArray[np.generic], ...]] = []
        inside: List[Strays] = []
        tails: List[Strays] = []
        mapped: List[Strays] = []
        for folios, pages in for_each_block(self.machine):
            rows = (folios.words[: len(folios)] != UNTYPED).nonzero()[0]
            words = folios.words[rows]
            # A page that says two things at once is judged by its word.
            sane = ~self.encoding.conflict(words)
            buddy = rows[self.encoding.is_type(words, "buddy") & sane]
            parts.append(self._blocks(folios, buddy))
            inside.append(self._inside(folios, pages, buddy))
            self._large(folios, rows)
            rows = rows[self.encoding.has_type(words)]
            mapped.append(self._mapped(folios, rows))
            # What only stands in for a tail where the memory map is folded is a
            # head, with its type.
            rows = rows[folios.block.tails_of(rows)]
            tails.append(self._strays(folios, rows))
            for other in others:
                other.take(folios, pages)
        columns = [np.concatenate(column) for column in zip(*parts)] or [np.zeros(0, np.int64)] * 10
        pfn, order, flags, refcount, place, after, before, word, mapping, memcg = columns
        zone = np.array([self._zone_row(int(p)) for p in distinct(place)], np.int64)
        found = FreeMemory(
            pfn=pfn.astype(np.int64),
            order=order.astype(np.int64),
            word=word.astype(np.uint32),
            mapping=mapping.astype(np.uint64),
            memcg=memcg.astype(np.uint64),
            flags=flags.astype(np.uint64),
            refcount=refcount.astype(np.int64),
            zone=zone[np.searchsorted(distinct(place), place)] if len(place) else zone,
            next=self._targets(after.astype(np.uint64)),
            prev=self._targets(before.astype(np.uint64)),
            zones=self.zones,
            lists=[*self.lists],
            inside=_joined(inside),
            tails=_joined(tails),
            mapped=_joined(mapped),
            large=self.large,
            words={},
            max_order=max((len(zone.free) for zone in self.zones), default=11) - 1,
            pageblock_order=pageblock_order(self.machine),
            cgroup=self.cgroup,
        )
        found.words.update(self._words(found))
        return found

    def _zones(self) -> None:
        names = zone_names(self.machine)
        for nid, number, zone in populated_zones(self.machine):
            self._zone(nid, number, names.get((nid, number), str(number)), zone)

    def _zone(self, nid: int, number: int, name: str, zone: Object) -> None:
        row = len(self.zones)
        counts: List[int] = []
        heads: List[Tuple[int, int, int, int, int]] = []
        word = self.machine.memory.word
        for order, area in enumerate(zone.free_area):
            counts.append(int(area.nr_free))
            lists = area.free_list
            count, width = lists.type_.length or 0, 2 * word.itemsize
            start = int(lists.address_ or 0)
            raw = np.frombuffer(self.machine.memory.read(start, count * width), word).reshape(-1, 2)
            for kind, (first, last) in enumerate(raw.tolist()):
                heads.append((order, kind, start + kind * width, first, last))
        begin = min(int(zone.zone_start_pfn), _MOST_PFN)
        lock = lock_state(zone.lock)
        end = begin + min(int(zone.spanned_pages), _MOST_PFN)
        locked, wrong = bool(lock.held[0]), lock.wrong_word(0)
        self.zones.append(Zone(nid, number, name, begin, end, tuple(counts), locked, wrong))
        self.rows[nid, number] = row
        for order, kind, address, first, last in heads:
            self.lists.append(FreeList(row, order, kind, first, last, address))

    def _zone_row(self, place: int) -> int:
        return self.rows.get(self.bits.split(place), -1)

    def _blocks(
        self, folios: Folios, rows: npt.NDArray[np.intp]
    ) -> Tuple[npt.NDArray[np.generic], ...]:
        compound, step = self.machine.page.compound, self.machine.memory.word_size
        flags = folios.flags[rows]
        return (
            rows + folios.block.pfn,
            np.minimum(folios.long_of(rows, folios.where.private), 255),
            flags & self.checked,
            _signed(folios.block.refcounts[rows]),
            self.bits.place(flags),
            folios.long_of(rows, compound),
            folios.long_of(rows, compound + step),
            folios.words[rows],
            _long(folios, self.mapping, rows),
            _long(folios, self.memcg, rows),
        )

    def _inside(self, folios: Folios, pages: Bools, buddy: npt.NDArray[np.intp]) -> Strays:
        # Pages in free blocks that do not begin one, with what no free page has.
        free = pages.copy()
        free[buddy] = False
        rows = free.nonzero()[0]
        few = len(rows) < len(folios) // _FEW
        some: Any = rows if few else slice(len(folios))
        odd = folios.flags[some] & self.checked != 0
        odd |= folios.tails[some]
        odd |= folios.block.refcounts[some] != 0
        odd |= folios.words[some] != UNTYPED  # whatever has a type, as well
        for offset in (self.mapping, self.memcg):
            if offset is not None:
                odd |= folios.long_of(some, offset) != 0
        rows = rows[odd] if few else (odd & free).nonzero()[0]
        return self._strays(folios, rows, in_block=True)

    def _strays(self, folios: Folios, rows: npt.NDArray[np.intp], in_block: bool = False) -> Strays:
        mapping = _long(folios, self.mapping if in_block else None, rows)
        return Strays(
            rows.astype(np.uint64) + np.uint64(folios.block.pfn),
            folios.words[rows],
            folios.flags[rows] & self.checked,
            _signed(folios.block.refcounts[rows]),
            np.where(folios.tails[rows], np.uint64(0), mapping),
            _long(folios, self.memcg if in_block else None, rows),
        )

    def _mapped(self, folios: Folios, typed: npt.NDArray[np.intp]) -> Strays:
        heads = folios.heads_of(typed)
        heads = heads[~folios.hugetlb(heads)]
        # The counts are in the second page, which a page that a stray tail leads to has not.
        heads = heads[folios.flags[heads] >> np.uint64(folios.layout.head_flag) & np.uint64(1) != 0]
        return self._strays(folios, heads[whole_mapcounts(folios, heads)])

    def _large(self, folios: Folios, rows: npt.NDArray[np.intp]) -> None:
        if "large_kmalloc" not in self.encoding.types:
            return
        rows = rows[self.encoding.is_type(folios.words[rows], "large_kmalloc")]
        places = self.bits.place(folios.flags[rows]).tolist()
        for place, order in zip(places, folios.orders(rows).tolist()):
            node, pages = self.bits.split(place)[0], 1 << min(order, MAX_BUDDY_ORDER)
            total, largest = self.large.get(node, (0, 0))
            self.large[node] = (total + pages, max(largest, pages))

    def _targets(self, links: U64) -> I64:
        # Where links lead: page frames, lists, or nowhere.
        offset = links - np.uint64(self.link)
        pfns = (offset // np.uint64(self.size)).astype(np.int64)
        last = max((end for _, end in page_ranges(self.machine)), default=0)
        wrong = (offset % np.uint64(self.size) != 0) | (pfns >= last) | (pfns < 0)
        pfns[wrong] = NOWHERE
        addresses = np.array([one.head for one in self.lists], np.uint64)
        if len(addresses):
            sorter = np.argsort(addresses)
            at = np.searchsorted(addresses[sorter], links)
            found = sorter[np.minimum(at, len(sorter) - 1)]
            is_list = addresses[found] == links
            pfns[is_list] = -2 - found[is_list]
        return pfns

    def _words(self, found: FreeMemory) -> Dict[int, int]:
        # The lists' own links become targets like those of blocks.
        for ends in ("first", "last"):
            links = np.array([getattr(one, ends) for one in found.lists], np.uint64)
            targets = self._targets(links).tolist()
            found.lists[:] = [
                one._replace(**{ends: target}) for one, target in zip(found.lists, targets)
            ]
        ends_of_lists = [target for one in found.lists for target in (one.first, one.last)]
        outer = np.array(ends_of_lists, np.int64)
        targets = distinct(np.concatenate([found.next, found.prev, outer]))
        pages = targets[(targets >= 0) & ~among(targets, found.pfn)]
        vmemmap = np.uint64(self.link - self.machine.page.compound)
        addresses = pages.astype(np.uint64) * np.uint64(self.size) + vmemmap
        rows = self.machine.rows("struct page", addresses)
        words = rows["_mapcount"].tolist()
        return {pfn: word for pfn, word, ok in zip(pages.tolist(), words, rows.ok) if ok}


def _long(folios: Folios, offset: Optional[int], rows: npt.NDArray[np.intp]) -> U64:
    # Of a member that the kernel lacks: zeroes.
    if offset is None:
        return np.zeros(len(rows), np.uint64)
    return folios.long_of(rows, offset)


def _signed(counts: U32) -> I32:
    return counts.astype(np.uint32).view(np.int32)


def _joined(parts: List[Strays]) -> Strays:
    if not parts:
        long, word = np.zeros(0, np.uint64), np.zeros(0, np.uint32)
        return Strays(long, word, long, word.view(np.int32), long, long)
    return Strays(*(np.concatenate(column) for column in zip(*parts)))
