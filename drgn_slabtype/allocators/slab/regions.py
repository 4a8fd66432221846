# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All that SLAB declares
----------------------

Pages of slabs are there but masked; index arrays, red zones, last callers and
poison are kept, and so is every array cache.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Iterator, Tuple

import numpy as np

from ...index import SlabIndex
from ...ledger import I64, U64, Bools
from ...regions import Declaration, Region
from .. import caches as slabcaches
from .. import kasanrecords, nodes, quarantine, sequences, shadowed
from ..kept import CacheObjects, Cut, batches, debugging, slab_pages
from . import arrays, indexes
from .cache import SlabCache

if TYPE_CHECKING:
    from .allocator import SlabAllocator


def declarations(allocator: SlabAllocator, index: SlabIndex) -> Iterator[Declaration]:
    """Declare what SLAB reads; see :meth:`..base.Allocator.regions`."""
    machine, caches = allocator.machine, allocator.caches
    orders = sequences.regions(machine, caches, caches.rows["num"])
    yield Declaration("slab caches", chain(slabcaches.regions(machine, caches), orders))
    yield Declaration("slab pages", slab_pages(index))
    yield Declaration("per-CPU caches", arrays.regions_of_cpus(machine, caches))
    found = allocator.nodes
    per_node = chain(nodes.regions(found), arrays.regions_of_nodes(machine, found))
    yield Declaration("cache nodes", per_node)
    yield Declaration("quarantine", quarantine.regions(machine))
    yield Declaration("KASAN's shadow", shadowed.regions(index, allocator.ownership.cache))
    yield Declaration("KASAN's records", kasanrecords.regions(allocator, index))
    yield Declaration("objects", _objects(allocator, index))


def _objects(allocator: SlabAllocator, index: SlabIndex) -> Iterator[Region]:
    page_size, cpus = allocator.machine.memory.page_size, len(allocator.machine.cpus)
    for number in range(len(allocator.caches)):
        cache = SlabCache(allocator.caches, number, page_size, cpus)
        rows = allocator.ownership.rows_of(number)
        yield from indexes.regions(index, cache, rows)
        if cache.debug:
            objects = CacheObjects(allocator, number, index)
            for some in batches(index, rows):
                cut, here = _cut(index, cache, some, objects.base(some))
                yield from debugging(cut, objects.free(some[here], cut.number))


def _cut(index: SlabIndex, cache: SlabCache, rows: I64, base: U64) -> Tuple[Cut, Bools]:
    # The slots of those slabs whose first object is where it can be, and which they are.
    first = base - np.uint64(cache.obj_offset)
    here: Bools = first - index.addresses[rows] < np.uint64(cache.span)
    cut = Cut(
        start=first[here],
        span=0,
        stride=cache.size,
        number=cache.num,
        lead=cache.obj_offset,
        size=cache.object_size,
    )
    return cut, here
