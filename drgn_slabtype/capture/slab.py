# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB's own regions
------------------

Pages of slabs are there but masked; index arrays, red zones, last callers and
poison are kept, and so is every array cache.
"""

from __future__ import annotations

from typing import Iterator, Optional, Tuple

import numpy as np

from ..allocators.slab.allocator import SlabAllocator
from ..index import SlabIndex
from ..ledger import I64, U64, Bools
from ..regions import Region, region
from .ground import per_cpu_addresses
from .slabs import CacheObjects, Slots, batches, debugging, each

# The same from 5.10 to the removal of SLAB in 6.8.
_DEBUG_FLAGS = 0x400 | 0x800 | 0x10000  # RED_ZONE, POISON, STORE_USER
_MAX_ENTRIES = 1 << 12  # no array cache is longer


class SlabRegions:
    """
    Declares what SLAB keeps.

    :param index: Every slab, after :meth:`SlabAllocator.discover`.
    """

    def __init__(self, allocator: SlabAllocator, index: SlabIndex) -> None:
        self.machine = allocator.machine
        self._allocator = allocator
        self._caches = allocator.caches.rows
        self._index = index
        self._memory = self.machine.memory

    def cpus(self) -> Iterator[Region]:
        """Yield the array caches of all CPUs."""
        pointers = self._caches["cpu_cache"]
        some = np.flatnonzero(pointers)
        addresses = per_cpu_addresses(self.machine, pointers[some])
        cpus = len(addresses) // max(len(some), 1)
        limits = np.repeat(self._caches["limit"][some], cpus)
        yield self._array_caches(addresses, limits)

    def nodes(self) -> Iterator[Region]:
        """Yield nodes with their shared and alien array caches."""
        nodes = self._allocator.nodes.rows
        yield region("cache nodes", nodes.addresses, nodes.structure.size)
        shared = nodes["shared"]
        yield self._array_caches(shared[self._memory.is_kernel_address(shared)])
        tables = nodes["alien"]
        tables = tables[self._memory.is_kernel_address(tables)]
        word = self._memory.word_size
        yield region("array caches", tables, self.machine.node_ids * word)
        at = (tables[:, None] + each(0, word, self.machine.node_ids)).reshape(-1)
        gathered = self._memory.gather(at, word)
        aliens = gathered.bytes.view(self._memory.word)[:, 0].astype(np.uint64)
        aliens = aliens[self._memory.is_kernel_address(aliens)]
        if len(aliens):
            alien = self.machine.structure("struct alien_cache")
            yield region("array caches", aliens, alien.size)
            yield self._array_caches(aliens + np.uint64(alien.offset("ac")))

    def _array_caches(self, addresses: U64, limits: Optional[U64] = None) -> Region:
        rows = self.machine.rows("struct array_cache", addresses)
        if limits is None:
            limits = rows["limit"]
        limits = np.minimum(limits, _MAX_ENTRIES)
        word, head = self._memory.word_size, rows.structure.offset("entry")
        return region("array caches", addresses, np.uint64(head) + limits * np.uint64(word))

    def objects(self) -> Iterator[Region]:
        """Yield what SLAB keeps in the pages of slabs, and index arrays elsewhere."""
        for number in range(len(self._caches)):
            rows = self._allocator.ownership.rows_of(number)
            size = int(self._caches["freelist_size"][number])
            pointers = self._index["freelist"][rows]
            yield region("index arrays", pointers[self._memory.is_kernel_address(pointers)], size)
            # At the end of a slab, where a damaged pointer no longer leads.
            span = np.uint64(self._memory.page_size) << self._index.orders[rows].astype(np.uint64)
            yield region("index arrays", self._index.addresses[rows] + span - np.uint64(size), size)
            if int(self._caches["flags"][number]) & _DEBUG_FLAGS:
                objects = CacheObjects(self._allocator, number, self._index)
                for batch in batches(self._index, rows, self._memory.page_size):
                    slots, here = self._slots(number, batch, objects.base(batch))
                    yield from debugging(slots, objects.free(batch[here], slots.number))

    def _slots(self, number: int, rows: I64, base: U64) -> Tuple[Slots, Bools]:
        # The slots of those slabs whose first object is where it can be.
        def value(member: str) -> int:
            return int(self._caches[member][number])

        lead = value("obj_offset") if self._caches.structure.has("obj_offset") else 0
        first = base - np.uint64(lead)
        span = self._memory.page_size << value("gfporder")
        here = first - self._index.addresses[rows] < np.uint64(span)
        slots = Slots(
            start=first[here],
            span=0,
            stride=max(value("size"), 1),
            number=value("num"),
            lead=lead,
            size=value("object_size"),
        )
        return slots, here
