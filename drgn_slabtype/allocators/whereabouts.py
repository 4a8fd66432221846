# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The slab that an address lies in
--------------------------------

Found by the few struct pages that can head it, without a pass over the memory
map: slabs begin at multiples of their size.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

from ..index import SlabIndex, slabs_at
from ..ledger import I64
from ..machine import Machine
from ..pages.single import free_block_at
from .caches import Caches, read_caches, same_cache
from .slub.fit import slab_orders

_MAX_ORDER = 10  # no slab is larger


class Whereabouts(NamedTuple):
    """What the struct pages around an address say."""

    page: Optional[int]
    """``struct slab *``; ``None`` if the address is in no slab."""
    doubt: Optional[str]
    """Why that has to be asked of the whole machine, if it has."""


def find_slab(machine: Machine, pfn: int) -> Whereabouts:
    """
    Return the slab that a page frame belongs to.

    :param pfn: Page frame number of any of its pages; what is none is in no slab.
    """
    if not 0 <= pfn < 1 << (52 - machine.memory.page_shift):
        return Whereabouts(None, None)
    heads = np.unique(
        np.uint64(pfn)
        >> np.arange(_MAX_ORDER + 1, dtype=np.uint64)
        << np.arange(_MAX_ORDER + 1, dtype=np.uint64)
    )
    pages = heads * np.uint64(machine.page.size) + np.uint64(machine.page.vmemmap)
    index = slabs_at(machine, pages)
    caches = machine.settled(read_caches)
    owner = same_cache(index["slab_cache"], caches)
    reach = np.int64(1) << _orders(index, caches, owner)
    covers = index.pfns.astype(np.int64) + reach > pfn
    named = (owner >= 0) & covers
    found = np.flatnonzero(named & index.marked)
    if len(found) == 1:
        return Whereabouts(int(index.pages[found[0]]), None)
    if len(found):
        return Whereabouts(None, "two slabs reach as far as it")
    if (index.marked & covers).any():
        return Whereabouts(None, "its page is marked as slab and names no known cache")
    # What a page was used for before may be left in one inside a free block, but
    # not in its first, which has been on a list since.
    block = free_block_at(machine, pfn)
    inside = named & (index.pfns > np.uint64(block[0])) if block is not None else ~named
    if (named & ~inside).any():
        return Whereabouts(None, "its page names a slab cache and is not marked as slab")
    return Whereabouts(None, None)


def _orders(index: SlabIndex, caches: Caches, owner: I64) -> I64:
    # Of the slab that each page would head: that of its cache, or what it says itself.
    own = np.minimum(index.orders, _MAX_ORDER).astype(np.int64)
    rows = np.flatnonzero(owner >= 0)
    if caches.rows.structure.has("gfporder"):
        own[rows] = np.minimum(caches.rows["gfporder"][owner[rows]], _MAX_ORDER).astype(np.int64)
    else:
        own[rows] = np.minimum(slab_orders(index, caches, rows, owner[rows]), _MAX_ORDER)
    return own
