# SPDX-License-Identifier: LGPL-2.1-or-later
"""The slabs that addresses lie in as their pages tell it now, in the index or not."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..index import SlabColumns, SlabIndex
from ..ledger import U64, Bools
from ..pages.folios import head_pages
from ..pages.scan import SlabHeads


class Over(NamedTuple):
    """What is told at each of some addresses."""

    heads: U64
    """``struct page *`` of the head; 0 where there is none that can be read."""
    told: U64
    """``slab_cache`` of it."""
    marked: Bools
    """Whether it has the slab mark."""


def slabs_over(index: SlabIndex, addresses: U64) -> Over:
    """
    Read the head of the page at each address.

    :param addresses: In the direct map; elsewhere there is none.
    """
    memory = index.machine.memory
    physical = addresses - np.uint64(memory.linear_base)
    pfns = physical >> np.uint64(memory.page_shift)
    pages = pfns * np.uint64(index.page_bytes) + np.uint64(index.vmemmap)
    possible = memory.is_kernel_address(addresses) & index.is_memory_map(pages)
    where = np.where(possible, pages + np.uint64(index.machine.page.compound), np.uint64(0))
    links = memory.gather(where, memory.word_size)
    compound = links.bytes.view(memory.word)[:, 0].astype(np.uint64)
    heads = np.where((compound & np.uint64(1)) != 0, head_pages(pages, compound), pages)
    heads = np.where(links.ok, heads, np.uint64(0))
    copies = memory.gather(heads, index.page_bytes)
    orders = np.zeros(len(heads), np.uint8)
    now = SlabColumns(index.machine, SlabHeads(pfns, copies.bytes, orders))
    heads = np.where(copies.ok, heads, np.uint64(0))
    return Over(heads, now["slab_cache"], copies.ok & now.marked)
