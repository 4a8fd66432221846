# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The census
----------

How many pages there are of each type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, Optional

import numpy as np
from drgn import Program

from .scan import Progress, scan


@dataclass(frozen=True)
class CensusRow:
    """The pages of one type."""

    type: str
    """As in the kernel's ``enum pagetype``, without its prefix; ``untyped`` for the rest."""
    pages: int
    """Pages of the type, tails of compound pages included."""
    heads: int
    """Pages that carry the type themselves."""
    tails: int
    """Tails of slabs; other types do not extend to tails."""


@dataclass(frozen=True)
class Census:
    """What every valid page of the machine is."""

    rows: List[CensusRow]
    pages: int
    """Valid pages."""
    unreadable_pages: int
    """Valid pages whose ``struct page`` could not be read."""


def census(prog: Program, progress: Optional[Progress] = None) -> Census:
    """
    Count the pages of a kernel by type, in one pass over the memory map.

    :raises LayoutError: if the kernel's page types are not understood.
    """
    found = scan(prog, progress, count_tails=True)
    slab_tails = int(((1 << found.heads.orders.astype(np.int64)) - 1).sum())
    rows = []
    for name, heads in sorted(found.typed.items(), key=lambda item: -item[1]):
        tails = slab_tails if name == "slab" else 0
        rows.append(CensusRow(name, heads + tails, heads, tails))
    rest = found.pages - found.unreadable - sum(row.pages for row in rows)
    untyped_tails = found.tails - slab_tails
    rows.append(CensusRow("untyped", rest, rest - untyped_tails, untyped_tails))
    return Census(rows, found.pages, found.unreadable)
