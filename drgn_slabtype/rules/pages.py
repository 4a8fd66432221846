# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages: free memory is free, and a type is the only thing a page is.

Damage to one page shows at both of its neighbours on a free list and in the
count of that list; the page itself is the root.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from types import MappingProxyType
from typing import (
    AbstractSet,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np

from ..findings import Finding
from ..ledger import Bools
from ..pages.freememory import NOWHERE, FreeList, FreeMemory, Strays, Zone
from ..pages.vmstat import SlabPages
from ..pagetype.encoding import Encoding


class PageNames(NamedTuple):
    """What a rule needs to speak of pages."""

    vmemmap: int
    """``struct page *`` of page frame 0."""
    size: int
    """sizeof(struct page)."""

    def page(self, pfn: int) -> int:
        """Return the ``struct page *`` of a page frame."""
        return self.vmemmap + pfn * self.size


def judge_pages(
    free: FreeMemory,
    encoding: Encoding,
    names: PageNames,
    told: Mapping[int, int] = MappingProxyType({}),
    known: AbstractSet[int] = frozenset(),
    last_id: int = 0,
) -> List[Finding]:
    """
    Return what is wrong with free memory and with typed pages.

    :param told: Findings about pages that are known already: their id by
        ``struct page *``. Such pages are not accused again.
    :param known: Pages (``struct page *``) that are accused elsewhere.
    :param last_id: Numbers up to this one are taken.
    """
    judge = _Judge(free, encoding, names, told, known, last_id)
    for finding in judge.run():
        judge.add(finding)
    return judge.found


class _Judge:
    def __init__(
        self,
        free: FreeMemory,
        encoding: Encoding,
        names: PageNames,
        told: Mapping[int, int],
        known: AbstractSet[int],
        last_id: int,
    ) -> None:
        self.free, self.encoding, self.names = free, encoding, names
        self.roots = dict(told)
        self.elsewhere = known
        self.next_id = last_id + 1
        self.found: List[Finding] = []
        self.zones: Dict[int, int] = {}
        self.known = {pfn: row for row, pfn in enumerate(free.pfn.tolist())}

    def add(self, finding: Finding) -> None:
        if finding.page in self.elsewhere:
            return
        if finding.because is None and finding.page in self.roots:
            return
        if finding.page is not None:
            self.roots.setdefault(finding.page, finding.id)
        self.found.append(finding)
        self.next_id += 1

    def run(self) -> Iterator[Finding]:
        yield from self._locks()
        yield from self._tails()
        yield from self._mapped()
        yield from self._blocks()
        yield from self._inside()
        yield from self._links()
        yield from self._buddies()
        yield from self._counts()

    def _finding(
        self,
        code: str,
        pfn: int,
        what: str,
        zone: int = -1,
        because: Optional[int] = None,
        expected: Optional[str] = None,
        found: Optional[str] = None,
    ) -> Finding:
        page = self.names.page(pfn)
        place: Optional[Zone] = self.free.zones[zone] if zone >= 0 else None
        if zone >= 0:
            self.zones.setdefault(zone, because or self.next_id)
        return Finding(
            code,
            f"page 0x{page:x} (PFN {pfn:#x}) {what}",
            node=None if place is None else place.node,
            page=page,
            place=None if place is None else f"zone {place.name}",
            expected=expected,
            found=found,
            because=because,
            # With the lock held, a CPU was stopped while it changed the lists.
            moving=place is not None and place.locked,
            id=self.next_id,
        )

    def _because(self, pfn: int) -> Optional[int]:
        return self.roots.get(self.names.page(pfn))

    def _locks(self) -> Iterator[Finding]:
        for zone in self.free.zones:
            if zone.wrong_lock is not None:
                yield Finding(
                    "lock-wrong",
                    f"zone {zone.name} of node {zone.node}: {zone.wrong_lock}",
                    node=zone.node,
                    place=f"zone {zone.name}",
                    found=zone.wrong_lock.found,
                    address=zone.wrong_lock.address,
                    id=self.next_id,
                )

    def _tails(self) -> Iterator[Finding]:
        for pfn, word in _words(self.free.tails):
            what = f"is a tail of a compound page and has a type: {self.encoding.explain(word)}"
            yield self._finding("page-tail-type", pfn, what, found=f"0x{word:08x}")

    def _mapped(self) -> Iterator[Finding]:
        for pfn, word in _words(self.free.mapped):
            what = f"has a type and is mapped by user space: {self.encoding.explain(word)}"
            yield self._finding("page-type-mapped", pfn, what, found=f"0x{word:08x}")

    def _blocks(self) -> Iterator[Finding]:
        free = self.free
        orders = np.clip(free.order, 0, free.max_order)
        starts = np.array([zone.start for zone in free.zones] or [0], np.int64)
        ends = np.array([zone.end for zone in free.zones] or [0], np.int64)
        outside = free.zone < 0
        zone = np.maximum(free.zone, 0)
        outside |= (free.pfn < starts[zone]) | (free.pfn + (1 << orders) > ends[zone])
        askew = free.pfn & ((1 << orders) - 1) != 0
        for row in np.flatnonzero((free.order > free.max_order) | askew | outside).tolist():
            order, pfn = int(free.order[row]), int(free.pfn[row])
            if order > free.max_order:
                what = f"heads a free block of order {order}; the largest is {free.max_order}"
            elif askew[row]:
                what = f"heads a free block of order {order}, which cannot begin there"
            else:
                what = f"heads a free block of order {order} that leaves its zone"
            yield self._finding("page-free-order", pfn, what, int(free.zone[row]))
        for row in np.flatnonzero(free.refcount != 0).tolist():
            pfn, count = int(free.pfn[row]), int(free.refcount[row])
            what = f"is free in the buddy allocator and has refcount {count}"
            yield self._finding(
                "page-free-flags", pfn, what, int(free.zone[row]), expected="0", found=str(count)
            )
        for row in np.flatnonzero(free.flags != 0).tolist():
            pfn, flags = int(free.pfn[row]), int(free.flags[row])
            what = f"is free in the buddy allocator and has flags 0x{flags:x} set"
            yield self._finding(
                "page-free-flags", pfn, what, int(free.zone[row]), expected="0x0", found=hex(flags)
            )

    def _inside(self) -> Iterator[Finding]:
        free, strays = self.free, self.free.inside
        sorter = np.argsort(free.pfn, kind="stable")
        for pfn, word, flags, count in zip(*(column.tolist() for column in strays)):
            at = int(np.searchsorted(free.pfn[sorter], pfn, "right")) - 1
            row = int(sorter[max(at, 0)])
            block = f"inside the free block at PFN {int(free.pfn[row]):#x}"
            zone, because = int(free.zone[row]), self._because(int(free.pfn[row]))
            if self.encoding.has_type(word):
                what = f"lies {block} and has a type: {self.encoding.explain(word)}"
                yield self._finding(
                    "page-free-type", pfn, what, zone, because, found=f"0x{word:08x}"
                )
            elif flags:
                what = f"lies {block} and has flags 0x{flags:x} set"
                yield self._finding("page-free-flags", pfn, what, zone, because, found=hex(flags))
            elif count:
                what = f"lies {block} and has refcount {count}"
                yield self._finding("page-free-flags", pfn, what, zone, because, found=str(count))
            else:
                what = f"lies {block} and is a tail of a compound page"
                yield self._finding("page-free-type", pfn, what, zone, because)

    def _links(self) -> Iterator[Finding]:
        # Of the pages and lists that do not agree with each other, the one with
        # the most disagreements is at fault.
        for group in _groups(self._broken()):
            degree = Counter(node for link in group for node in link)
            told = [self._because(node) for node in degree if node >= 0]
            because = next((number for number in told if number is not None), None)
            ranked = sorted(degree, key=lambda node: (-degree[node], node < 0, node))
            for node in ranked:
                if because is not None and not self._is_block(node):
                    continue
                finding = self._link(node, self._zone_of(ranked), because)
                yield finding
                if because is None:
                    because = finding.id

    def _zone_of(self, nodes: Iterable[int]) -> int:
        # The zone of the first page or list that has one.
        for node in nodes:
            if node <= -2:
                return int(self.free.lists[-2 - node].zone)
            if self._is_block(node):
                return int(self.free.zone[self.known[node]])
        return -1

    def _is_block(self, node: int) -> bool:
        return node in self.known

    def _broken(self) -> List[Tuple[int, int]]:
        # (page or list, page or list) for links that are not answered; a link
        # to nowhere is a disagreement with itself.
        free = self.free
        broken: List[Tuple[int, int]] = []
        for ends, answers in ((free.next, free.prev), (free.prev, free.next)):
            answered = self._answered(ends, answers, ends is free.next)
            for row in np.flatnonzero(~answered).tolist():
                pfn, target = int(free.pfn[row]), int(ends[row])
                broken.append((pfn, pfn if target == NOWHERE else target))
        for number, one in enumerate(free.lists):
            node = -2 - number
            for target, answers in ((one.first, free.prev), (one.last, free.next)):
                row = self.known.get(target)
                if target == node or (row is not None and answers[row] == node):
                    continue
                broken.append((node, node if target == NOWHERE else target))
        return broken

    def _answered(self, ends: np.ndarray, answers: np.ndarray, forward: bool) -> Bools:
        # Whether the page or list that a link leads to leads back here.
        free = self.free
        sorter = np.argsort(free.pfn, kind="stable")
        answered = np.zeros(len(ends), np.bool_)
        if not len(ends):
            return answered
        at = np.searchsorted(free.pfn[sorter], ends)
        other = sorter[np.minimum(at, len(sorter) - 1)]
        to_page = (ends >= 0) & (free.pfn[other] == ends)
        same = (free.order[other] == free.order) & (free.zone[other] == free.zone)
        answered |= to_page & (answers[other] == free.pfn) & same
        lists = free.lists
        if lists:
            number = np.clip(-2 - ends, 0, len(lists) - 1)
            back = np.array([one.last if forward else one.first for one in lists], np.int64)
            order = np.array([one.order for one in lists], np.int64)
            zone = np.array([one.zone for one in lists], np.int64)
            fits = (order[number] == free.order) & (zone[number] == free.zone)
            answered |= (ends <= -2) & (back[number] == free.pfn) & fits
        return answered

    def _link(self, node: int, zone: int, because: Optional[int]) -> Finding:
        free = self.free
        if node <= -2:
            return self._list(free.lists[-2 - node], because)
        row = self.known.get(node)
        if row is None:
            word = free.words.get(node)
            told = "not in the target" if word is None else self.encoding.explain(word)
            what = f"is on a free list, but it is {told}"
            found = None if word is None else f"0x{word:08x}"
            return self._finding("page-free-type", node, what, zone, because, "buddy", found)
        what = "is free, but it and its neighbours on the free list do not lead to each other"
        if int(free.next[row]) == int(free.prev[row]) == NOWHERE:
            what = f"is free, of order {int(free.order[row])}, and on no list"
        return self._finding("page-free-list", node, what, zone, because)

    def _list(self, one: FreeList, because: Optional[int]) -> Finding:
        zone = self.free.zones[one.zone]
        return Finding(
            "page-free-list",
            f"zone {zone.name} of node {zone.node}: the free list of order {one.order}, migrate "
            f"type {one.migratetype}, leads to pages that do not lead back",
            node=zone.node,
            place=f"zone {zone.name}",
            because=because,
            moving=zone.locked,
            id=self.next_id,
        )

    def _buddies(self) -> Iterator[Finding]:
        # Two halves of a block that could be one, both free. Larger blocks stay
        # apart where their migrate types do.
        free = self.free
        rows = np.flatnonzero(free.order < min(free.pageblock_order, free.max_order))
        there: Set[int] = set((free.pfn[rows] << 8 | free.order[rows]).tolist())
        for row in rows.tolist():
            pfn, order = int(free.pfn[row]), int(free.order[row])
            if pfn >> order & 1 or (pfn + (1 << order)) << 8 | order not in there:
                continue
            other = self.known[pfn + (1 << order)]
            if free.zone[other] != free.zone[row]:
                continue
            because = self._because(pfn) or self._because(pfn + (1 << order))
            what = f"and the block after it are free, both of order {order}, and were not merged"
            yield self._finding("page-free-buddies", pfn, what, int(free.zone[row]), because)

    def _counts(self) -> Iterator[Finding]:
        free = self.free
        for number, zone in enumerate(free.zones):
            orders = free.order[free.zone == number]
            counted = np.bincount(orders, minlength=256)[: len(zone.free)].tolist()
            for order, (found, expected) in enumerate(zip(counted, zone.free)):
                if found == expected:
                    continue
                yield Finding(
                    "page-free-count",
                    f"zone {zone.name} of node {zone.node}: {found} free blocks of order {order}, "
                    f"the zone counts {expected}",
                    node=zone.node,
                    place=f"zone {zone.name}",
                    expected=expected,
                    found=found,
                    because=self.zones.get(number),
                    moving=zone.locked,
                    id=self.next_id,
                )


def _groups(links: Sequence[Tuple[int, int]]) -> List[List[Tuple[int, int]]]:
    # Links that have pages or lists in common.
    leader: Dict[int, int] = {}

    def find(node: int) -> int:
        while leader.setdefault(node, node) != node:
            node = leader[node]
        return node

    for one, other in links:
        leader[find(one)] = find(other)
    groups: Dict[int, List[Tuple[int, int]]] = defaultdict(list)
    for link in links:
        groups[find(link[0])].append(link)
    return list(groups.values())


def judge_vmstat(nodes: Iterable[SlabPages]) -> Iterator[Finding]:
    """
    Yield a finding for each node whose count of slab pages is wrong.

    A CPU that was stopped between taking pages and counting them explains as
    many pages as one allocation has; more is not explained.
    """
    for node in nodes:
        found = node.slabs + (node.large or 0)
        # Where large kmalloc() has no page type, the kernel counts more.
        too_many = node.large is not None and node.counted > found + node.tolerance
        if node.counted >= found - node.tolerance and not too_many:
            continue
        large = "" if node.large is None else f" and {node.large} of large kmalloc()"
        yield Finding(
            "vmstat-slab",
            f"node {node.node} counts {node.counted} pages of slabs, but has {node.slabs}{large}",
            node=node.node,
            expected=found,
            found=node.counted,
        )


def _words(strays: Strays) -> Iterator[List[int]]:
    for pfn, word in zip(strays.pfns.tolist(), strays.words.tolist()):
        yield [pfn, word]
