# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Free pages of CPUs.

A CPU counts the pages on its lists of a zone; these lead to each other, are of that
zone, and are free: nothing but the list says whose they are.
"""

from __future__ import annotations

from typing import Container, Iterator

from ..arguments import named
from ..codes import ADDRESS, REFERENCES
from ..findings import Finding
from ..pages.cpupages import CpuList, CpuPages, FreePages, Torn
from ..pagetype.encoding import Encoding
from .pagefindings import PageNames

_NO_TYPE = 0xFFFFFFFF
_SCALE = 5  # CONFIG_PCP_BATCH_SCALE_MAX: batches, as a power of two, that move at once
_LARGEST_PAGES = 2 << 13  # two huge pages
_HUGE_ORDERS = range(4, 14)


def judge_cpu_pages(
    free: FreePages, names: PageNames, encoding: Encoding, told: Container[int] = ()
) -> Iterator[Finding]:
    """
    Yield what is wrong with the free pages that CPUs keep.

    :param told: Pages (``struct page *``) that are accused already.
    """
    for one in free.cpus:
        for some in one.lists:
            if some.torn is not None:
                yield _torn(one, some, some.torn, names)
        for finding in _pages(free, one, names, encoding):
            if finding.page not in told:
                yield finding
        yield from _count(one)
        if not one.whole:
            yield Finding(
                "unreadable",
                f"{_whose(one)}, are not all in the target",
                node=one.node,
                cpu=one.cpu,
                place="pcp",
            )


def _whose(one: CpuPages) -> str:
    return f"free pages of CPU {one.cpu}, zone {one.name} of node {one.node}"


def _torn(one: CpuPages, some: CpuList, torn: Torn, names: PageNames) -> Finding:
    what = f"list {some.number} of {_whose(one)}"
    if torn.pfn is not None:
        what = f"page 0x{names.page(torn.pfn):x} (PFN {torn.pfn:#x}), on {what}"
    wrong = f"{torn.member} leads to {named(torn.found)}, which does not lead back"
    if torn.member is None:
        wrong = f"leads to {named(torn.found)}, not to its neighbours, which lead to it"
    return Finding(
        "page-free-list",
        f"{what}: {wrong}",
        node=one.node,
        cpu=one.cpu,
        page=None if torn.pfn is None else names.page(torn.pfn),
        place="pcp",
        found=torn.found,
        address=torn.word,
        word=torn.word,
        measure=ADDRESS,
        # One page is put there, or taken away.
        moving=torn.plausible,
    )


def _pages(
    free: FreePages, one: CpuPages, names: PageNames, encoding: Encoding
) -> Iterator[Finding]:
    for some in one.lists:
        for pfn in some.pfns:
            row = free.rows.get(pfn)
            if row is None:
                continue
            code, what, told = "", "", ""
            word, count, place = free.words[row], free.refcounts[row], free.places[row]
            if word != _NO_TYPE:
                code, told = "page-free-type", f"0x{word:08x}"
                what = f"has the word {told}: {encoding.explain(word)}"
            elif count:
                code, told, what = "page-free-flags", str(count), f"has refcount {count}"
            elif place != (one.node, one.zone):
                code, what = "page-free-list", "is of zone {1} of node {0}".format(*place)
            elif pfn & ((1 << some.order) - 1):
                code, what = "page-free-order", f"cannot begin a block of order {some.order}"
            else:
                continue
            page = names.page(pfn)
            yield Finding(
                code,
                f"page 0x{page:x} (PFN {pfn:#x}) is on list {some.number} of {_whose(one)}, "
                f"and {what}",
                node=one.node,
                cpu=one.cpu,
                page=page,
                place="pcp",
                found=told or None,
                measure=REFERENCES if told == str(count) else None,
            )


def _count(one: CpuPages) -> Iterator[Finding]:
    if not one.whole or any(some.torn for some in one.lists):
        return
    # The order of huge pages depends on the architecture.
    small = sum(len(some.pfns) << some.order for some in one.lists if some.order < _HUGE_ORDERS[0])
    huge = sum(len(some.pfns) for some in one.lists if some.order >= _HUGE_ORDERS[0])
    sums = [small + (huge << order) for order in _HUGE_ORDERS]
    if one.counted in sums:
        return
    there = min(sums, key=lambda pages: abs(pages - one.counted))
    most = (min(max(one.batch, 1), 1 << 12) << _SCALE) + _LARGEST_PAGES
    yield Finding(
        "page-free-count",
        f"CPU {one.cpu} counts {one.counted} free pages of zone {one.name} of node {one.node}, "
        f"and has {there}",
        node=one.node,
        cpu=one.cpu,
        place="pcp",
        expected=there,
        found=one.counted,
        address=one.word,
        word=one.word,
        member="count",
        # They are counted before they come, or after, all that move at once.
        moving=abs(one.counted - there) <= most,
    )
