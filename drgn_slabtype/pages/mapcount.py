# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How often pages are mapped
--------------------------

As each kernel counts it, for ``/proc/kpageflags`` and ``/proc/kpagecount``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..machine.memory import U64, Bools
from .folios import Folios

Heads = npt.NDArray[np.intp]


def mapped(folios: Folios, heads: Heads, huge: Bools) -> Bools:
    """
    Return which pages of a block the kernel calls mapped by user space.

    :param heads: Rows of the heads of large folios.
    :param huge: Which pages of the block belong to HugeTLB folios.
    """
    where, n = folios.where, len(folios)
    once = folios.words < np.uint32(0x80000000)  # _mapcount >= 0
    once &= ~folios.slab()
    result: Bools = once[:n].copy()
    if not len(heads):
        return result
    if where.large_mapcount is not None:
        # Since Linux kernel commit 05c5323b2a34 ("mm: track mapcount of large
        # folios in single value") (in v6.10).
        large = _counted(folios, heads, where.large_mapcount)
    else:
        assert where.entire_mapcount is not None
        large = _counted(folios, heads, where.entire_mapcount)
        if where.pages_mapped is not None:
            pages = folios.of_heads(heads, where.pages_mapped, 4).view(np.int32)
            large |= pages > 0
        else:
            # Before "mm,thp,rmap: simplify compound page mapcount handling"
            # (in v6.2), each page is asked, but not those of HugeTLB.
            some = np.zeros(len(folios.raw), np.bool_)
            some[folios.head[result & ~huge]] = True
            large |= some[heads]
        large &= ~folios.slab()[heads]
    is_large = folios.spread(heads, np.ones(len(heads), np.bool_))
    return np.where(is_large, folios.spread(heads, large), result)


def _counted(folios: Folios, heads: Heads, offset: int) -> Bools:
    # Whether a count that starts at -1 is at least one.
    counts: npt.NDArray[np.int32] = folios.of_heads(heads, offset, 4).astype("=u4").view(np.int32)
    return counts >= 0


def block_counts(folios: Folios) -> U64:
    """Return the number of ``/proc/kpagecount`` of each page of a block."""
    where, n, layout = folios.where, len(folios), folios.layout
    words = folios.words[:n]
    counts = words.astype(np.int32).astype(np.int64) + 1
    counts[layout.encoding.has_type(words)] = 0
    if where.entire_mapcount is not None:
        heads = folios.heads
        entire = folios.of_heads(heads, where.entire_mapcount, 4).astype("=u4").view(np.int32)
        entire = entire.astype(np.int64) + 1
        if where.large_mapcount is None and where.pages_mapped is None:
            # Before "mm,thp,rmap: simplify compound page mapcount handling" (in
            # v6.2), pages of a file count whole mappings themselves; and a
            # folio mapped both ways has one too many.
            anonymous = folios.long(where.mapping)[heads] & np.uint64(1) != 0
            double = where.double_map_flag
            if double is not None:
                entire -= folios.second_flag(heads, double)
            entire[~anonymous & ~folios.hugetlb(heads)] = 0
        counts += folios.spread(heads, entire)
    counts[folios.slab()[folios.head]] = 0
    return counts.astype(np.uint64)


def whole_mapcounts(folios: Folios, heads: Heads) -> Bools:
    """
    Return which large folios count mappings for their pages together.

    :param heads: Rows of the heads of large folios.
    """
    where = folios.where
    result = np.zeros(len(heads), np.bool_)
    for offset in (where.entire_mapcount, where.large_mapcount):
        if offset is not None:
            result |= _counted(folios, heads, offset)
    if where.pages_mapped is not None:
        result |= folios.of_heads(heads, where.pages_mapped, 4) != 0
    return result
