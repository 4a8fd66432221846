# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All that SLUB declares
----------------------

Pages of slabs are there but masked; free pointers, red zones, tracks, padding
and poison are kept, and so is every structure that records free objects.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Iterator, List, Tuple

import numpy as np

from ...index import SlabIndex
from ...ledger import I64, U64
from ...machine.symbols import depot_regions
from ...regions import Declaration, Region
from ...rules.members import MAX_OBJECTS
from .. import caches as slabcaches
from .. import kasanrecords, nodes, quarantine, sequences, shadowed
from ..kept import CacheObjects, Cut, batches, debugging, slab_orders, slab_pages
from . import barns, cpuslabs, deferred, freelists, sheaves
from .cache import SlubCache, slab_flags
from .debug import beyond_asked, track_handles

if TYPE_CHECKING:
    from .allocator import SlubAllocator


def declarations(allocator: SlubAllocator, index: SlabIndex) -> Iterator[Declaration]:
    """Declare what SLUB reads; see :meth:`..base.Allocator.regions`."""
    machine, caches = allocator.machine, allocator.caches
    orders = sequences.regions(machine, caches, caches.rows["oo.x"] & np.uint64(0xFFFF))
    yield Declaration("slab caches", chain(slabcaches.regions(machine, caches), orders))
    yield Declaration("slab pages", slab_pages(index))
    cpus = chain(cpuslabs.regions(machine, caches), sheaves.regions(machine, caches))
    yield Declaration("per-CPU caches", cpus)
    found = allocator.nodes
    per_node = chain(nodes.regions(found), barns.regions(machine, caches, found))
    yield Declaration("cache nodes", per_node)
    yield Declaration("deferred frees", deferred.regions(machine))
    yield Declaration("quarantine", quarantine.regions(machine))
    yield Declaration("KASAN's shadow", shadowed.regions(index, allocator.ownership.cache))
    yield Declaration("KASAN's records", kasanrecords.regions(allocator, index))
    yield Declaration("objects", _objects(allocator, index))
    yield Declaration("stack traces", _traces(allocator, index))


def _objects(allocator: SlubAllocator, index: SlabIndex) -> Iterator[Region]:
    machine, encoding = allocator.machine, allocator.traits.encoding
    for cache in _caches(allocator):
        objects = CacheObjects(allocator, cache.number, index) if cache.debug else None
        for rows in batches(index, allocator.ownership.rows_of(cache.number)):
            cut, heads = _cut(index, cache, rows), _heads(allocator, index, cache.number, rows)
            yield freelists.regions(machine.memory, cache, encoding, cut, *heads)
            if objects is not None:
                free = objects.free(rows, cut.number)
                yield from debugging(cut, free)
                yield from beyond_asked(machine, cache, allocator.debug, cut, ~free)


def _traces(allocator: SlubAllocator, index: SlabIndex) -> Iterator[Region]:
    # The call traces of all tracks.
    handles: List[U64] = []
    for cache in _caches(allocator):
        if cache.store_user:
            for rows in batches(index, allocator.ownership.rows_of(cache.number)):
                handles += track_handles(allocator.machine, cache, _cut(index, cache, rows))
    if handles:
        yield from depot_regions(allocator.machine, np.concatenate(handles))


def _caches(allocator: SlubAllocator) -> Iterator[SlubCache]:
    flags, cpus = slab_flags(allocator.machine), len(allocator.machine.cpus)
    for number in range(len(allocator.caches)):
        yield SlubCache(allocator.caches, number, flags, cpus)


def _cut(index: SlabIndex, cache: SlubCache, rows: I64) -> Cut:
    span = index.machine.memory.page_size << int(slab_orders(index)[rows[0]])
    return Cut(
        start=index.addresses[rows],
        span=span,
        stride=cache.size,
        number=min(span // cache.size, MAX_OBJECTS),
        lead=cache.red_left_pad,
        size=cache.object_size,
    )


def _heads(allocator: SlubAllocator, index: SlabIndex, number: int, rows: I64) -> Tuple[I64, U64]:
    # What each freelist of these slabs or of a CPU begins with, and in which slab that lies.
    heads = index["freelist"][rows]
    cpus = allocator.cpu_slabs
    if cpus is not None:
        heads = np.concatenate([heads, cpus.freelist[cpus.cache == number]])
    known = index.rows_of_addresses(heads)
    slab = np.minimum(np.searchsorted(rows, known), len(rows) - 1)
    here = rows[slab] == known
    return slab[here], heads[here]
