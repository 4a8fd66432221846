# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Memory that one write ran over
------------------------------

Struct pages side by side, one after the other, are what one write has left. What leads
to them, or to the memory that they describe, and what was found through them is gone as
well: lists, vectors of other slabs, and counts.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from ..findings import Finding
from .copied import OF_CACHE, Copy, Roots

APART = 8
"""Struct pages in a row that may be right by chance."""
FEWEST_PAGES = 16
"""Struct pages that are not damaged one by one."""
STRUCT_PAGES = frozenset(
    "page-tail-head page-tail-type page-tail-word page-free-type page-refcount slab-mark-stray "
    "type-conflict slab-mark-lost slab-cache-wrong slab-flags-wrong slab-order-wrong "
    "slab-objects-wrong slab-base-wrong page-zone-wrong".split()
)
"""What is said of a struct page itself."""
_LEADS = frozenset(
    "list-links list-broken list-wrong page-free-list slab-vector-wrong claim-foreign "
    "freelist-pointer container-state cache-wrong".split()
)
"""What is said of who leads to what is gone."""
PageOf = Callable[[int], Optional[int]]
"""Returns the struct page that an address lies in, or that describes it; ``None`` for none."""


def of_overruns(
    findings: Sequence[Finding],
    roots: Roots,
    page_of: PageOf,
    page_bytes: int,
    copies: Sequence[Copy] = (),
) -> Iterator[Tuple[int, int]]:
    """
    Yield pairs of findings, by :attr:`~drgn_slabtype.findings.Finding.id`, that have one root.

    :param page_bytes: Of a struct page.
    :param copies: Of which those of many struct pages are such memory.
    """
    copied = list(_copied(findings, roots, page_bytes, copies))
    regions = copied or list(_regions(findings, roots, page_bytes))
    leads = sorted(_leads(findings, page_of)) if regions else []
    about = {one.id for one in findings if one.code in STRUCT_PAGES}
    for region, members in regions:
        # What is said of a struct page itself, rather than of what leads to it.
        into = min(members, key=lambda one: (one not in about, one))
        yield from ((into, one) for one in members if one != into)
        first, last = (bisect_left(leads, (at,)) for at in (region.start, region.stop))
        yield from ((into, one) for _, one in leads[first:last])
    whole = bool(copied) or any(one.pages >= FEWEST_PAGES for one in findings)
    if len(regions) == 1 and (whole or len(regions[0][1]) > 1):
        # Slabs that lists came to through these, and counts of these. Of one compound page a
        # single word may be wrong.
        into = regions[0][1][0]
        for one in findings:
            if one.because is None and (one.code == "list-missing" or one.rule == "count"):
                yield into, one.id


def _leads(findings: Sequence[Finding], page_of: PageOf) -> Iterator[Tuple[int, int]]:
    # The struct pages that something leads to, and what is said of that.
    for one in findings:
        if one.because is None and one.code in _LEADS and isinstance(one.found, int):
            page = page_of(one.found)
            if page is not None:
                yield page, one.id


def _copied(
    findings: Sequence[Finding], roots: Roots, page_bytes: int, copies: Sequence[Copy]
) -> Iterator[Tuple[range, List[int]]]:
    for copy in copies:
        stretch = copy.structures[0]
        if len(stretch) >= FEWEST_PAGES * page_bytes and copy.told:
            pages = [(_struct_page(one), one.id) for one in findings]
            some = {roots[id] for page, id in pages if page is not None and page in stretch}
            if some:
                yield stretch, sorted(some)


def _regions(
    findings: Sequence[Finding], roots: Roots, page_bytes: int
) -> Iterator[Tuple[range, List[int]]]:
    # From the first of such struct pages to the last, and the roots of what is said of them.
    caches = {one.id for one in findings if one.code in OF_CACHE}
    pages: Dict[int, int] = {}
    for one in findings:
        page = _struct_page(one)
        if page is not None and (one.cache is None or roots[one.id] not in caches):
            for at in range(page, page + one.pages * page_bytes, page_bytes):
                pages.setdefault(at, roots[one.id])
    run: List[int] = []
    for page in [*sorted(pages), 0]:
        if run and not 0 < page - run[-1] <= APART * page_bytes:
            if len(run) >= FEWEST_PAGES:
                yield range(run[0], run[-1] + page_bytes), sorted({pages[one] for one in run})
            run = []
        run.append(page)


def _struct_page(one: Finding) -> Optional[int]:
    if one.code not in STRUCT_PAGES or one.moving:
        return None
    return one.slab if one.page is None else one.page
