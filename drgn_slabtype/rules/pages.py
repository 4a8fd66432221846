# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages: free memory is free, and a type is the only thing a page is.

Damage to one page shows at both of its neighbours on a free list and in the
count of that list; the page itself is the root.
"""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import (
    AbstractSet,
    Any,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Set,
    Tuple,
)

import numpy as np
import numpy.typing as npt

from ..codes import REFERENCES, Measure
from ..findings import Finding
from ..ledger import Bools
from ..pages.freememory import FreeMemory, Strays
from ..pages.vmstat import SlabPages
from ..pagetype.encoding import Encoding
from ..records import plural
from .freelists import judge_links
from .pagefindings import PageFindings, PageNames

_FEWEST_OUTSIDE = 3  # free blocks that have not left their zone each by itself
_FEWEST_PAIRS = 5  # free blocks that were not left beside each other one by one
_COSTLY_ORDER = 3  # PAGE_ALLOC_COSTLY_ORDER: no page block is as small
_FEWEST = 9  # free blocks that are not damaged alike by chance
_NO_TYPE = 0xFFFFFFFF  # the word of a page that has no type and is not mapped


def judge_pages(
    free: FreeMemory,
    encoding: Encoding,
    names: PageNames,
    told: Mapping[int, int] = MappingProxyType({}),
    known: AbstractSet[int] = frozenset(),
    last_id: int = 0,
    lost: AbstractSet[Tuple[Optional[int], Optional[str]]] = frozenset(),
) -> List[Finding]:
    """
    Return what is wrong with free memory and with typed pages.

    :param told: Findings about pages that are known already: their id by
        ``struct page *``. Such pages are not accused again.
    :param known: Pages (``struct page *``) that are accused elsewhere.
    :param last_id: Numbers up to this one are taken.
    :param lost: Nodes and places of zones that are accused of not being where they say.
    """
    found = PageFindings(free, encoding, names, told, known, last_id)
    zones = ((zone.node, f"zone {zone.name}") for zone in free.zones)
    found.limits.update(row for row, zone in enumerate(zones) if zone in lost)
    for rule in (_locks, _tails, _mapped, _blocks, judge_links, _inside, _buddies, _counts):
        # What is found is taken in at once: what comes after follows from it.
        for finding in rule(found):
            found.add(finding)
    return found.found


def _locks(found: PageFindings) -> Iterator[Finding]:
    for zone in found.free.zones:
        if zone.wrong_lock is not None:
            yield Finding(
                "lock-wrong",
                f"zone {zone.name} of node {zone.node}: {zone.wrong_lock}",
                node=zone.node,
                place=f"zone {zone.name}",
                found=zone.wrong_lock.found,
                address=zone.wrong_lock.address,
                id=found.next_id,
            )


def _tails(found: PageFindings) -> Iterator[Finding]:
    for pfn, word in _words(found.free.tails):
        what = f"is a tail of a compound page and has a type: {found.encoding.explain(word)}"
        yield found.finding("page-tail-type", pfn, what, found=f"0x{word:08x}")


def _mapped(found: PageFindings) -> Iterator[Finding]:
    for pfn, word in _words(found.free.mapped):
        what = f"has a type and is mapped by user space: {found.encoding.explain(word)}"
        yield found.finding("page-type-mapped", pfn, what, found=f"0x{word:08x}")


def _blocks(found: PageFindings) -> Iterator[Finding]:
    free = found.free
    orders = np.clip(free.order, 0, free.max_order)
    starts = np.array([zone.start for zone in free.zones] or [0], np.int64)
    ends = np.array([zone.end for zone in free.zones] or [0], np.int64)
    outside = free.zone < 0
    zone = np.maximum(free.zone, 0)
    outside |= (free.pfn < starts[zone]) | (free.pfn + (1 << orders) > ends[zone])
    askew = free.pfn & ((1 << orders) - 1) != 0
    # What lies in another zone says itself that it is of this one.
    nowhere = outside & (free.zone >= 0)
    for start, end in zip(starts.tolist(), ends.tolist()):
        nowhere &= (free.pfn < start) | (free.pfn + (1 << orders) > end)
    yield from _limits(found, nowhere)
    outside &= ~np.isin(free.zone, [*found.limits])
    for row in np.flatnonzero((free.order > free.max_order) | askew | outside).tolist():
        order, pfn = int(free.order[row]), int(free.pfn[row])
        if order > free.max_order:
            what = f"heads a free block of order {order}; the largest is {free.max_order}"
        elif askew[row]:
            what = f"heads a free block of order {order}, which cannot begin there"
        else:
            what = f"heads a free block of order {order} that leaves its zone"
        yield found.finding("page-free-order", pfn, what, int(free.zone[row]))
    # The kernel writes the type over the whole word, and clears the others.
    should = found.encoding.set(_NO_TYPE, "buddy")
    yield from _left(found, "word", free.word, should, 8)
    yield from _left(found, "mapping", free.mapping, 0, 1)
    yield from _left(found, "cgroup", free.memcg, 0, 1)
    for row in np.flatnonzero(free.refcount != 0).tolist():
        pfn, count = int(free.pfn[row]), int(free.refcount[row])
        what = f"is free in the buddy allocator and has refcount {count}"
        yield found.finding(
            "page-free-flags",
            pfn,
            what,
            int(free.zone[row]),
            expected="0",
            found=str(count),
            measure=REFERENCES,
        )
    for row in np.flatnonzero(free.flags != 0).tolist():
        pfn, flags = int(free.pfn[row]), int(free.flags[row])
        what = f"is free in the buddy allocator and has flags 0x{flags:x} set"
        yield found.finding(
            "page-free-flags", pfn, what, int(free.zone[row]), expected="0x0", found=hex(flags)
        )


def _limits(found: PageFindings, outside: Bools) -> Iterator[Finding]:
    # One write can move a block out of its zone, and a zone away from all its blocks.
    for number, count in Counter(found.free.zone[outside].tolist()).items():
        if count < _FEWEST_OUTSIDE or number in found.limits:
            continue
        zone = found.free.zones[number]
        found.limits.add(number)
        found.zones.setdefault(number, found.next_id)
        yield Finding(
            "machine-wrong",
            f"zone {zone.name} of node {zone.node} is from PFN {zone.start:#x} to {zone.end:#x}, "
            f"where {count} of its free blocks are not",
            node=zone.node,
            place=f"zone {zone.name}",
            found=f"{zone.start:#x} to {zone.end:#x}",
            measure=Measure("text"),
            id=found.next_id,
        )


def _left(
    found: PageFindings, name: str, values: npt.NDArray[Any], should: int, digits: int
) -> Iterator[Finding]:
    # What a page holds at the head of a free block, and must not.
    free, wrong = found.free, np.flatnonzero(values != values.dtype.type(should))
    if len(wrong) >= _FEWEST and 3 * len(wrong) > len(values):
        found.doubted.add(name)
        yield Finding(
            "not-understood",
            f"layout not understood: the {name} of free pages: "
            f"{len(wrong)} of {len(values)} free blocks do not have 0x{should:0{digits}x}",
            found=len(wrong),
            id=found.next_id,
        )
        return
    for row in wrong.tolist():
        pfn, told = int(free.pfn[row]), f"0x{int(values[row]):0{digits}x}"
        yield found.finding(
            "page-free-type",
            pfn,
            f"heads a free block and has the {name} {told}, which no free page has",
            int(free.zone[row]),
            expected=f"0x{should:0{digits}x}",
            found=told,
            member=_member(free, name),
        )


def _member(free: FreeMemory, name: str) -> Optional[str]:
    # What is called so; the word of a page has its own rules.
    return {"mapping": "mapping", "cgroup": free.cgroup}.get(name)


def _inside(found: PageFindings) -> Iterator[Finding]:
    free, strays = found.free, found.free.inside
    sorter = np.argsort(free.pfn, kind="stable")
    for pfn, word, flags, count, mapping, memcg in zip(*(column.tolist() for column in strays)):
        at = int(np.searchsorted(free.pfn[sorter], pfn, "right")) - 1
        row = int(sorter[max(at, 0)])
        block = f"inside the free block at PFN {int(free.pfn[row]):#x}"
        zone, because = int(free.zone[row]), found.because(int(free.pfn[row]))
        if found.encoding.has_type(word):
            what = f"lies {block} and has a type: {found.encoding.explain(word)}"
            yield found.finding("page-free-type", pfn, what, zone, because, found=f"0x{word:08x}")
        elif word != _NO_TYPE:
            what = f"lies {block} and has the word 0x{word:08x}, which no free page has"
            yield found.finding("page-free-type", pfn, what, zone, because, found=f"0x{word:08x}")
        elif flags:
            what = f"lies {block} and has flags 0x{flags:x} set"
            yield found.finding("page-free-flags", pfn, what, zone, because, found=hex(flags))
        elif count:
            what = f"lies {block} and has refcount {count}"
            yield found.finding(
                "page-free-flags", pfn, what, zone, because, found=str(count), measure=REFERENCES
            )
        elif mapping or memcg:
            name, value = ("mapping", mapping) if mapping else ("cgroup", memcg)
            if name not in found.doubted:
                what = f"lies {block} and has the {name} 0x{value:x}, which no free page has"
                yield found.finding(
                    "page-free-type",
                    pfn,
                    what,
                    zone,
                    because,
                    found=hex(value),
                    member=_member(free, name),
                )
        else:
            what = f"lies {block} and is a tail of a compound page"
            yield found.finding("page-free-type", pfn, what, zone, because)


def _buddies(found: PageFindings) -> Iterator[Finding]:
    # Two halves of a block that could be one, both free. Larger blocks stay
    # apart where their migrate types do.
    free = found.free
    rows = np.flatnonzero(free.order < min(free.pageblock_order, free.max_order))
    there: Set[int] = set((free.pfn[rows] << 8 | free.order[rows]).tolist())
    pairs: List[Tuple[int, int]] = []
    for row in rows.tolist():
        pfn, order = int(free.pfn[row]), int(free.order[row])
        if pfn >> order & 1 or (pfn + (1 << order)) << 8 | order not in there:
            continue
        other = found.known[pfn + (1 << order)]
        if free.zone[other] == free.zone[row]:
            pairs.append((row, other))
    alone = {
        one
        for one in pairs
        if free.order[one[0]] > _COSTLY_ORDER
        and not any(found.because(int(free.pfn[at])) for at in one)
    }
    if len(alone) >= _FEWEST_PAIRS:
        lowest = min(int(free.order[row]) for row, _ in alone)
        yield Finding(
            "not-understood",
            f"layout not understood: {len(alone)} pairs of free blocks of order {lowest} or more "
            f"were not merged, and pageblock_order is {free.pageblock_order}",
            place="pageblock_order",
            found=len(alone),
            id=found.next_id,
        )
        pairs = [one for one in pairs if one not in alone]
    for row, other in pairs:
        pfn, order = int(free.pfn[row]), int(free.order[row])
        because = found.because(pfn) or found.because(int(free.pfn[other]))
        what = f"and the block after it are free, both of order {order}, and were not merged"
        yield found.finding("page-free-buddies", pfn, what, int(free.zone[row]), because)


def _counts(found: PageFindings) -> Iterator[Finding]:
    free = found.free
    for number, zone in enumerate(free.zones):
        orders = free.order[free.zone == number]
        counted = np.bincount(orders, minlength=256)[: len(zone.free)].tolist()
        for order, (there, expected) in enumerate(zip(counted, zone.free)):
            if there == expected:
                continue
            yield Finding(
                "page-free-count",
                f"zone {zone.name} of node {zone.node}: {plural(there, 'free block')} of "
                f"order {order}, the zone counts {expected}",
                node=zone.node,
                place=f"zone {zone.name}",
                expected=expected,
                found=there,
                because=found.zones.get(number),
                # Each block is counted as it comes and goes.
                moving=zone.locked and abs(there - expected) <= 1,
                id=found.next_id,
            )


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
            f"node {node.node} counts {plural(node.counted, 'page')} of slabs, "
            f"but has {node.slabs}{large}",
            node=node.node,
            expected=found,
            found=node.counted,
        )


def _words(strays: Strays) -> Iterator[List[int]]:
    for pfn, word in zip(strays.pfns.tolist(), strays.words.tolist()):
        yield [pfn, word]
