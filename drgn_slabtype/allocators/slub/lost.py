# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Slabs that nothing leads to
---------------------------

A full slab of SLUB stands on no list. If its page loses the slab mark, or its
pointer to the cache, only the node's count of slabs tells that one is missing.
Then a second look is worth its price: at the pages that name the cache and are
made like its slabs, and at the slabs that name no cache, or one they are not
made for. What is found counts only if there are no more than are missing.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Tuple

import numpy as np

from ...index import KnownBy, SlabIndex, slabs_at
from ...ledger import I64
from ...machine.columns import numbers_at
from ...pages.scan import page_blocks
from ..base import Ownership
from ..caches import Caches, same_cache
from ..nodes import Nodes
from ..whereabouts import missing_caches
from .fit import slab_fits


class Shortage(NamedTuple):
    """A node of a cache that counts more slabs than were found."""

    cache: int
    nid: int
    missing: int


def shortages(index: SlabIndex, nodes: Nodes, ownership: Ownership) -> List[Shortage]:
    """Return where slabs are missing."""
    if not nodes.rows.structure.has("nr_slabs"):
        return []
    kept = nodes.rows["nr_slabs.counter"].astype(np.int64)
    owned = ownership.cache >= 0
    cache, nid = ownership.cache[owned], index.nids[owned]
    width = int(max(nid.max(initial=0), nodes.nid.max(initial=0))) + 1
    most = int(max(cache.max(initial=0), nodes.cache.max(initial=0))) + 1
    there = np.bincount(cache * width + nid, minlength=most * width)
    missing = kept - there[nodes.cache * width + nodes.nid]
    return [
        Shortage(int(nodes.cache[row]), int(nodes.nid[row]), int(missing[row]))
        for row in np.flatnonzero(nodes.rows.ok & (missing > 0)).tolist()
    ]


def adopt_misnamed(
    index: SlabIndex, caches: Caches, ownership: Ownership, short: List[Shortage]
) -> None:
    """
    Give slabs that name no cache, or one they do not fit, to the cache that misses them.

    Lists and CPUs have had their say before; what they hold stays theirs.
    """
    held = KnownBy.LIST | KnownBy.CPU | KnownBy.KFENCE
    loose = np.flatnonzero((index.known_by & np.uint8(held)) == 0)
    # A cache that is not in the target may be the right one.
    loose = loose[~missing_caches(index.machine, index["slab_cache"][loose])]
    owner = ownership.cache[loose]
    named = owner >= 0
    misfits = np.ones(len(loose), np.bool_)
    misfits[named] = ~slab_fits(index, caches, loose[named], owner[named])
    for row, cache in _share_out(index, caches, short, loose[misfits]):
        ownership.give(row, cache)


def find_unmarked(index: SlabIndex, caches: Caches, short: List[Shortage]) -> bool:
    """
    Add pages to the index that name a cache that misses slabs, and are made like them.

    :return: Whether any were added.
    """
    wanted = caches.addresses[[shortage.cache for shortage in short]]
    pages = [np.zeros(0, np.uint64)]
    for block in page_blocks(index.machine):
        pointers = index.structure.column(block.raw, "slab_cache")
        rows = np.flatnonzero(np.isin(pointers, wanted) & ~block.tails)
        pages.append(block.address + rows.astype(np.uint64) * np.uint64(index.page_bytes))
    found = np.concatenate(pages)
    found = found[index.rows_of_pages(found) < 0]
    usual = np.bincount(_users(index)).argmax() if len(index) else 0
    peeked = slabs_at(index.machine, found)
    rows = np.flatnonzero(_users(peeked) == usual)
    told = same_cache(peeked["slab_cache"], caches)
    chosen = [
        int(peeked.pages[row])
        for row, cache in _share_out(peeked, caches, short, rows)
        if told[row] == cache
    ]
    index.add(np.array(chosen, np.uint64), KnownBy.POINTER)
    return bool(chosen)


def _share_out(
    index: SlabIndex, caches: Caches, short: List[Shortage], rows: I64
) -> Iterator[Tuple[int, int]]:
    # (row, cache) of the slabs that can be of one of the caches alone, where
    # there are no more of them than it misses.
    if not len(rows) or not short:
        return
    inuse, objects = index["inuse"][rows], index["objects"][rows]
    live = (inuse > 0) & ((index["freelist"][rows] == 0) == (inuse == objects))
    fits = np.stack(
        [
            live
            & (index.nids[rows] == shortage.nid)
            & slab_fits(index, caches, rows, np.full(len(rows), shortage.cache))
            for shortage in short
        ]
    )
    sure = fits & (fits.sum(axis=0) == 1)
    for shortage, mine in zip(short, sure):
        if mine.sum() <= shortage.missing:
            for row in rows[mine].tolist():
                yield row, shortage.cache


def _users(index: SlabIndex) -> I64:
    # The reference counts of the head pages.
    at = index.machine.page.refcount
    users = numbers_at(index.raw, at, np.dtype(f"{index.machine.memory.byteorder}u4"))
    return np.minimum(users.astype(np.int64), 0xFFFF)
