# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB's own regions
------------------

Pages of slabs are there but masked; index arrays, red zones, last callers and
poison are kept, and so is every array cache.
"""

from __future__ import annotations

from typing import Iterator, List, Optional

import numpy as np
from drgn import Program, sizeof

from ..allocators.base import node_ids
from ..allocators.slab import SlabAllocator
from ..columns import read_rows, structure
from ..index import SlabIndex
from ..ledger import I64, U64, Bools
from ..memory import memory
from ..pagetype.detect import page_type_layout
from ..regions import Region, region
from .machine import per_cpu_addresses
from .slabs import BATCH_BYTES, Slots, batches, each, slots_regions

# The same from 5.10 to the removal of SLAB in 6.8.
_RED_ZONE, _POISON, _STORE_USER = 0x400, 0x800, 0x10000
_MAX_ENTRIES = 1 << 12  # no array cache is longer


class SlabRegions:
    """
    Declares what SLAB keeps.

    :param index: Every slab, after :meth:`SlabAllocator.discover`.
    """

    def __init__(self, allocator: SlabAllocator, index: SlabIndex) -> None:
        self.prog: Program = allocator.prog
        self._allocator = allocator
        self._caches = allocator.caches.rows
        self._index = index
        self._memory = memory(self.prog)
        self._entries: List[U64] = []

    def cpus(self) -> Iterator[Region]:
        """Yield the array caches of all CPUs."""
        pointers = self._caches["cpu_cache"]
        some = np.flatnonzero(pointers)
        addresses = per_cpu_addresses(self.prog, pointers[some])
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
        yield region("array caches", tables, node_ids(self.prog) * word)
        at = (tables[:, None] + each(0, word, node_ids(self.prog))).reshape(-1)
        gathered = self._memory.gather(at, word)
        aliens = gathered.bytes.view(self._memory.word)[:, 0].astype(np.uint64)
        aliens = aliens[self._memory.is_kernel_address(aliens)]
        if len(aliens):
            alien = structure(self.prog, "struct alien_cache")
            yield region("array caches", aliens, alien.size)
            yield self._array_caches(aliens + np.uint64(alien.offset("ac")))

    def _array_caches(self, addresses: U64, limits: Optional[U64] = None) -> Region:
        rows = read_rows(self.prog, "struct array_cache", addresses)
        if limits is None:
            limits = rows["limit"]
        limits = np.minimum(limits, _MAX_ENTRIES)
        word, head = self._memory.word_size, rows.structure.offset("entry")
        # Objects in array caches are free, which matters for poison.
        for row in np.flatnonzero(rows.ok).tolist():
            entries = each(int(addresses[row]) + head, word, int(limits[row]))
            found = self._memory.gather(entries[: int(rows["avail"][row])], word)
            self._entries.append(found.bytes.view(self._memory.word)[:, 0].astype(np.uint64))
        return region("array caches", addresses, np.uint64(head) + limits * np.uint64(word))

    def objects(self) -> Iterator[Region]:
        """Yield what SLAB keeps in the pages of slabs, and index arrays elsewhere."""
        cache_of = self._allocator.ownership.cache
        for number in range(len(self._caches)):
            rows = np.flatnonzero(cache_of == number)
            size = int(self._caches["freelist_size"][number])
            pointers = self._index["freelist"][rows]
            yield region("index arrays", pointers[self._memory.is_kernel_address(pointers)], size)
            # At the end of a slab, where a damaged pointer no longer leads.
            span = np.uint64(self._memory.page_size) << self._index.orders[rows].astype(np.uint64)
            yield region("index arrays", self._index.addresses[rows] + span - np.uint64(size), size)
            if int(self._caches["flags"][number]) & (_RED_ZONE | _POISON | _STORE_USER):
                for batch in batches(self._index, rows, self._memory.page_size, BATCH_BYTES):
                    yield from self._batch(number, batch)

    def _batch(self, number: int, rows: I64) -> Iterator[Region]:
        def value(member: str) -> int:
            return int(self._caches[member][number])

        start = self._index["s_mem"][rows]
        lead = value("obj_offset") if self._caches.structure.has("obj_offset") else 0
        span = self._memory.page_size << value("gfporder")
        slots = Slots(start, 0, max(value("size"), 1), value("num"), lead, value("object_size"))
        sane = start - self._index.addresses[rows] < np.uint64(span)
        slots = slots._replace(start=start[sane])
        yield from slots_regions(slots, self._free(rows[sane], slots))

    def _free(self, rows: I64, slots: Slots) -> Bools:
        free = np.zeros((len(rows), slots.number), np.bool_)
        dtype = np.dtype(f"{self._memory.byteorder}u{sizeof(self.prog.type('freelist_idx_t'))}")
        gathered = self._memory.gather(self._index["freelist"][rows], slots.number * dtype.itemsize)
        indexes = gathered.bytes.view(dtype).astype(np.int64)
        active = np.arange(slots.number) >= self._active(rows)[:, None]
        slab, at = np.nonzero(active & gathered.ok[:, None] & (indexes < slots.number))
        free[slab, indexes[slab, at]] = True
        entries = np.concatenate([np.zeros(0, np.uint64), *self._entries])
        known = self._index.rows_of_addresses(entries)
        slab = np.minimum(np.searchsorted(rows, known), max(len(rows) - 1, 0))
        here = rows[slab] == known if len(rows) else np.zeros(len(known), np.bool_)
        which = (entries[here] - slots.start[slab[here]]) // np.uint64(slots.stride)
        inside = which < slots.number
        free[slab[here][inside], which[inside].astype(np.int64)] = True
        return free

    def _active(self, rows: I64) -> I64:
        encoding = page_type_layout(self.prog).encoding
        if encoding.carries_active:
            return np.asarray(encoding.active(self._index.words[rows])).astype(np.int64)
        return self._index["active"][rows].astype(np.int64)
