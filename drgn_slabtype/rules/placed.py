# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages that name a zone which does not span them, as one finding for those in a row."""

from __future__ import annotations

from typing import Dict, Iterator, Optional

import numpy as np

from ..codes import Measure
from ..findings import Finding
from ..pages.placed import Misplaced, Span, Spans
from .compound import CacheOf
from .pagefindings import PageNames

_FEWEST = 16  # pages in no zone, of a zone that is not where it says


def judge_placed(
    misplaced: Misplaced, spans: Spans, names: PageNames, cache_of: CacheOf
) -> Iterator[Finding]:
    """
    Yield the pages that name a wrong zone, and the zones that do not span many of theirs.

    :param misplaced: In ascending order.
    """
    pfns = misplaced.pfns
    first = np.flatnonzero(np.diff(pfns, prepend=-2) != 1)
    counts = np.diff(first, append=len(pfns)).tolist()
    lost: Dict[Span, int] = {}
    runs = []
    for pfn, place, count in zip(pfns[first].tolist(), misplaced.places[first].tolist(), counts):
        zone, right = spans.named(place), spans.around(pfn)
        if zone.name is not None and right is None:
            lost[zone] = lost.get(zone, 0) + count
        runs.append((pfn, count, zone, right))
    lost = {zone: count for zone, count in lost.items() if count >= _FEWEST}
    for pfn, count, zone, right in runs:
        if right is not None or zone not in lost:
            yield _page(pfn, count, zone, right, names, cache_of)
    for zone, count in lost.items():
        limits = f"{zone.start:#x} to {zone.end:#x}"
        yield Finding(
            "machine-wrong",
            f"zone {zone.name} of node {zone.node} is from PFN {limits}, where {count} of its "
            "pages are not",
            node=zone.node,
            place=f"zone {zone.name}",
            found=limits,
            measure=Measure("text"),
        )


def _page(
    pfn: int, count: int, zone: Span, right: Optional[Span], names: PageNames, cache_of: CacheOf
) -> Finding:
    page = names.page(pfn)
    cache = cache_of(page)
    what = f"page 0x{page:x} (PFN {pfn:#x})" if cache is None else f"{cache}: slab 0x{page:x}"
    where = f"which is from PFN {zone.start:#x} to {zone.end:#x}"
    more = f"; so do the {count - 1} after it" if count > 2 else ""
    return Finding(
        "page-zone-wrong",
        f"{what} says that it is of {zone}, "
        f"{'which this machine does not have' if zone.name is None else where}"
        f"{'; so does the one after it' if count == 2 else more}",
        cache=cache,
        slab=None if cache is None else page,
        page=page if cache is None else None,
        expected=None if right is None else str(right),
        found=str(zone),
        pages=count,
    )
