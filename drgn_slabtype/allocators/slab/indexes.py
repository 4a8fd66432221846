# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB's index arrays
-------------------

A slab's free objects are the tail of an array of indexes, ``freelist[active ..
num)``; what stands before the tail is stale. The array of an objfreelist cache
lies in the free object that its own last entry names.
"""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Optional

import numpy as np

from ...index import SlabIndex
from ...ledger import I64, U64, Bools, Slabs
from ...machine import Machine
from ...regions import Region, region
from .cache import Mode, SlabCache
from .indexahead import Ahead

Indexes = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]
_BATCH_ENTRIES = 1 << 18  # that are compared with each other at a time


class Tails(NamedTuple):
    """What arrays say when slabs count so many objects in use: shape (slabs, num)."""

    active: I64
    """Objects in use, of each slab."""
    live: Bools
    """Which entries are on its freelist."""
    bad: Bools
    """Which of them are no index."""
    repeats: Bools
    """Which of them name an index that an earlier one of the slab names."""

    @property
    def sound(self) -> Bools:
        """Which of them are neither."""
        return self.live & ~self.bad & ~self.repeats


class IndexArrays:
    """
    The index arrays of one cache's slabs.

    :param pointer: ``slab->freelist`` of each slab.
    :param in_place: Which pointers can be those of an index array of this cache.
    :param ahead: What was read of them already.
    """

    def __init__(
        self,
        machine: Machine,
        cache: SlabCache,
        slabs: Slabs,
        pointer: U64,
        in_place: Bools,
        ahead: Optional[Ahead] = None,
    ) -> None:
        self._cache = cache
        self._slabs = slabs
        self.pointer = pointer
        """``slab->freelist`` of each slab."""
        self.in_place = in_place
        """Which can be that of an index array of this cache."""
        self.width = machine.structure("freelist_idx_t").size
        """Bytes of an index."""
        stored = np.dtype(f"{machine.memory.byteorder}u{self.width}")
        dtype = stored.newbyteorder("=")
        self.entries: Indexes = np.zeros((len(pointer), cache.num), dtype)
        """Shape (slabs, num): as wide as the kernel's, of which there is one for each object."""
        self.astray: Bools = ~in_place & ~slabs.excused & (cache.mode is not Mode.OBJFREELIST)
        """Which arrays are not where the cache has them; in its objects, full slabs have none."""
        self.read: Bools = np.zeros(len(pointer), np.bool_)
        """Which arrays are in place and could be read."""
        wanted = np.flatnonzero(in_place & ~slabs.excused)
        size = cache.num * self.width
        gathered = None if ahead is None else ahead(wanted, size)
        if gathered is None:
            gathered = machine.memory.gather(pointer[wanted], size)
        self.entries[wanted] = gathered.bytes.view(stored)
        self.read[wanted] = gathered.ok

    def needed(self, active: I64) -> Bools:
        """Return which slabs have a free object, so that they need an array."""
        return (active >= 0) & (active < self._cache.num) & ~self._slabs.excused

    def tails(self, active: I64) -> Tails:
        """Return the freelists of slabs that count so many objects in use."""
        num = self._cache.num
        known = self.read & self.needed(active)
        live = (np.arange(num) >= active[:, None]) & known[:, None]
        bad: Bools = live & (self.entries >= num)
        repeats = np.zeros_like(live)
        step = max(1, _BATCH_ENTRIES // max(num, 1))
        for first in range(0, len(live), step):
            some = slice(first, first + step)
            slab, at = np.nonzero(live[some] & ~bad[some])
            keys = slab * num + self.entries[some][slab, at]
            # The last assignment wins, in arrays of one dimension, and the first entry shall.
            earliest = np.zeros(min(step, len(live)) * num, np.intp)
            earliest[keys[::-1].copy()] = at[::-1].copy()
            again = earliest[keys] != at
            repeats[first + slab[again], at[again]] = True
        return Tails(active, live, bad, repeats)

    def left_over(self, active: I64) -> Bools:
        """Return which slabs have an array in an object, though none is free."""
        if self._cache.mode is not Mode.OBJFREELIST:
            return np.zeros(len(active), np.bool_)
        return (active == self._cache.num) & (self.pointer != 0) & ~self._slabs.excused

    def misplaced(self, active: I64) -> Bools:
        """Return which slabs need an array and have none in its place."""
        return self.needed(active) & ~self.in_place

    def not_host(self, active: I64) -> Bools:
        """Return which arrays lie in an object that their own last entry does not name."""
        if self._cache.mode is not Mode.OBJFREELIST:
            return np.zeros(len(active), np.bool_)
        size = np.uint64(self._cache.size)
        host = ((self.pointer - self._slabs.base) // size).astype(np.int64)
        return self.read & self.needed(active) & (self.entries[:, -1] != host)


def right_places(cache: SlabCache, pointer: U64, start: U64, first: U64, off_slab: Bools) -> Bools:
    """
    Return which pointers lead to where the cache's mode puts an index array.

    :param start: ``slab_address()`` of each slab.
    :param first: Address of object 0 of each slab.
    :param off_slab: Which pointers lead to memory that kmalloc gave for one.
    """
    if cache.mode is Mode.OFF_SLAB:
        return off_slab
    if cache.mode is Mode.ON_SLAB:
        return pointer + np.uint64(cache.freelist_size) == start + np.uint64(cache.span)
    offset = pointer - first
    return (offset % np.uint64(cache.size) == 0) & (offset < np.uint64(cache.num * cache.size))


def regions(index: SlabIndex, cache: SlabCache, rows: I64) -> Iterator[Region]:
    """
    Yield the index arrays of one cache's slabs.

    :param rows: Rows of the index that belong to the cache.
    """
    source, size = index.machine.memory, cache.freelist_size
    pointers = index["freelist"][rows]
    yield region("index arrays", pointers[source.is_kernel_address(pointers)], size)
    # At the end of a slab, where a damaged pointer no longer leads.
    end = index.addresses[rows] + index.spans[rows]
    yield region("index arrays", end - np.uint64(size), size)
