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

from ..distinct import among, distinct
from ..index import SlabIndex, slabs_at
from ..ledger import I64, U64, Bools
from ..machine import Machine
from ..machine.columns import numbers_at
from ..machine.kfence import kfence_pool
from ..machine.told import last_page
from ..pages.folios import head_pages
from ..pages.scan import page_ranges
from ..pages.single import free_block_at
from .caches import Caches, read_caches, rows_of_caches, same_cache
from .over import slabs_over
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
    heads = distinct(
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
    if len(index) < len(heads):
        return Whereabouts(None, "a struct page that may head its slab is not in the target")
    return Whereabouts(None, None)


def not_reserved(machine: Machine, addresses: U64) -> Bools:
    """
    Return which addresses lie in pages that the memory map has, and that the page allocator has.

    Reserved are the kernel's image, and what was there before the page allocator was,
    such as the first per-CPU memory.
    """
    memory, bit = machine.memory, machine.enumerators("pageflags").get("PG_reserved")
    found: Bools = np.zeros(len(addresses), np.bool_)
    there = np.flatnonzero(memory.in_direct_map(addresses))
    if bit is None or not len(there):
        return found
    pfns, which = np.unique(_pfns(machine, addresses[there]), return_inverse=True)
    pages = pfns * np.uint64(machine.page.size) + np.uint64(machine.page.vmemmap)
    gathered = memory.gather(pages, machine.page.size)
    flags = numbers_at(gathered.bytes, 0, memory.word)
    free = flags.astype(np.uint64) & np.uint64(1 << bit) == 0
    # A struct page of zeroes is none: it is missing.
    found[there] = (gathered.ok & gathered.bytes.any(axis=1) & free)[which.reshape(-1)]
    return found


def in_no_slab(machine: Machine, addresses: U64) -> Bools:
    """
    Return which addresses lie in pages of which the memory map says that no slab has them.

    What is reserved, and what the map is not sure of, is not among them, nor is KFENCE's pool.
    """
    found = not_reserved(machine, addresses)
    found &= ~machine.settled(kfence_pool).contains(addresses)
    there = np.flatnonzero(found)
    if not len(there):
        return found
    found[there] = ~slabs_over(slabs_at(machine, addresses[:0]), addresses[there]).marked
    pfns = _pfns(machine, addresses)
    for pfn in distinct(pfns[found]).tolist():
        if find_slab(machine, pfn) != (None, None):
            found[pfns == pfn] = False
    return found


def in_no_memory(machine: Machine, addresses: U64) -> Bools:
    """
    Return which addresses no object of a slab can have, as far as the target tells.

    Those that :func:`in_no_slab` returns, those before the direct map, and those behind
    ``max_pfn``, where there are no pages.

    :param addresses: Of what is not in the target, and lies in a slab if anywhere.
    """
    found, last = in_no_slab(machine, addresses), machine.settled(last_page).counted
    found |= addresses < np.uint64(machine.memory.linear_base)
    if last is not None:
        behind = machine.memory.in_direct_map(addresses)
        found |= behind & (_pfns(machine, addresses) >= np.uint64(last))
    return found


def missing_caches(machine: Machine, told: U64) -> Bools:
    """
    Return which pointers lead to memory that may hold a cache, and is not in the target.

    :param told: ``struct kmem_cache *``, as slabs have it.
    """
    pointers = distinct(told)
    pointers = pointers[machine.memory.in_direct_map(pointers)]
    lost = pointers[~rows_of_caches(machine, pointers.tolist()).ok]
    pfns = _pfns(machine, lost)
    in_map = np.zeros(len(lost), np.bool_)
    for start, end in page_ranges(machine):
        in_map |= (pfns >= np.uint64(start)) & (pfns < np.uint64(end))
    return among(told, lost[in_map & ~in_no_slab(machine, lost)])


def in_stray_slab(index: SlabIndex, addresses: U64) -> Bools:
    """
    Return which addresses lie in pages that are marked as slab, or in tails of them.

    :param index: Of the whole machine.
    """
    machine, page = index.machine, index.machine.page
    there = np.flatnonzero(machine.memory.in_direct_map(addresses))
    pages = _pfns(machine, addresses[there]) * np.uint64(page.size) + np.uint64(page.vmemmap)
    at = pages + np.uint64(page.compound)
    links = machine.memory.gather_words(at, machine.memory.word_size, np.zeros(1, np.int64))
    tails = links.words[:, 0] & np.uint64(1) != 0
    heads = np.where(tails, head_pages(pages, links.words[:, 0]), pages)
    found = np.zeros(len(addresses), np.bool_)
    found[there] = index.rows_of_pages(heads) >= 0
    return found


def _pfns(machine: Machine, addresses: U64) -> U64:
    memory = machine.memory
    return (addresses - np.uint64(memory.linear_base)) >> np.uint64(memory.page_shift)


def _orders(index: SlabIndex, caches: Caches, owner: I64) -> I64:
    # Of the slab that each page would head: that of its cache, or what it says itself.
    own = np.minimum(index.orders, _MAX_ORDER).astype(np.int64)
    rows = np.flatnonzero(owner >= 0)
    if caches.rows.structure.has("gfporder"):
        own[rows] = np.minimum(caches.rows["gfporder"][owner[rows]], _MAX_ORDER).astype(np.int64)
    else:
        own[rows] = np.minimum(slab_orders(index, caches, rows, owner[rows]), _MAX_ORDER)
    return own
