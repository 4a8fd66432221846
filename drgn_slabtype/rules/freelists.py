# SPDX-License-Identifier: LGPL-2.1-or-later
"""Free lists: a page and its neighbours lead to each other."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from typing import Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..findings import Finding
from ..ledger import Bools
from ..pages.freememory import NOWHERE, FreeList
from .pagefindings import PageFindings


def judge_links(found: PageFindings) -> Iterator[Finding]:
    """Yield the pages and lists of free memory that do not lead to each other."""
    # Of the pages and lists that do not agree with each other, the one with
    # the most disagreements is at fault.
    for group in _groups(_broken(found)):
        degree = Counter(node for link in group for node in link)
        told = [found.because(node) for node in degree if node >= 0]
        because = next((number for number in told if number is not None), None)
        ranked = sorted(degree, key=lambda node: (-degree[node], node < 0, node))
        zone = _zone_of(found, ranked)
        if because is not None and zone >= 0:
            # Where it was the only block of its order, nothing else is said of the zone.
            found.zones.setdefault(zone, because)
        for node in ranked:
            if because is not None and not _is_block(found, node):
                continue
            finding = _link(found, node, zone, because)
            yield finding
            if because is None:
                because = finding.id


def _zone_of(found: PageFindings, nodes: Iterable[int]) -> int:
    # The zone of the first page or list that has one.
    for node in nodes:
        if node <= -2:
            return int(found.free.lists[-2 - node].zone)
        if _is_block(found, node):
            return int(found.free.zone[found.known[node]])
    return -1


def _is_block(found: PageFindings, node: int) -> bool:
    return node in found.known


def _broken(found: PageFindings) -> List[Tuple[int, int]]:
    # (page or list, page or list) for links that are not answered; a link
    # to nowhere is a disagreement with itself.
    free = found.free
    broken: List[Tuple[int, int]] = []
    for ends, answers in ((free.next, free.prev), (free.prev, free.next)):
        answered = _answered(found, ends, answers, ends is free.next)
        for row in np.flatnonzero(~answered).tolist():
            pfn, target = int(free.pfn[row]), int(ends[row])
            broken.append((pfn, pfn if target == NOWHERE else target))
    for number, one in enumerate(free.lists):
        node = -2 - number
        for target, answers in ((one.first, free.prev), (one.last, free.next)):
            row = found.known.get(target)
            if target == node or (row is not None and answers[row] == node):
                continue
            broken.append((node, node if target == NOWHERE else target))
    return broken


def _answered(found: PageFindings, ends: np.ndarray, answers: np.ndarray, forward: bool) -> Bools:
    # Whether the page or list that a link leads to leads back here.
    free = found.free
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


def _link(found: PageFindings, node: int, zone: int, because: Optional[int]) -> Finding:
    free = found.free
    if node <= -2:
        return _list(found, free.lists[-2 - node], because)
    row = found.known.get(node)
    if row is None:
        word = free.words.get(node)
        is_what = "not in the target" if word is None else found.encoding.explain(word)
        what = f"is on a free list, but it is {is_what}"
        holds = None if word is None else f"0x{word:08x}"
        told = found.finding("page-free-type", node, what, zone, because, "buddy", holds)
        # A block is marked after it was put on its list.
        return replace(told, moving=found.locked(zone))
    what = "is free, but it and its neighbours on the free list do not lead to each other"
    if int(free.next[row]) == int(free.prev[row]) == NOWHERE:
        what = f"is free, of order {int(free.order[row])}, and on no list"
    return found.finding("page-free-list", node, what, zone, because)


def _list(found: PageFindings, one: FreeList, because: Optional[int]) -> Finding:
    zone = found.free.zones[one.zone]
    return Finding(
        "page-free-list",
        f"zone {zone.name} of node {zone.node}: the free list of order {one.order}, migrate "
        f"type {one.migratetype}, leads to pages that do not lead back",
        node=zone.node,
        place=f"zone {zone.name}",
        because=because,
        word=one.head,
        # One that leads to no page at all was not left so by an operation.
        moving=zone.locked and NOWHERE not in (one.first, one.last),
        id=found.next_id,
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
