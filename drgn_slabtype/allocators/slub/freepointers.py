# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Free pointers of many caches
----------------------------

The stored free pointer of every object in the slabs that a freelist begins in, read
in the order of memory, whichever caches the slabs are of.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np

from ...index import SlabIndex
from ...ledger import I64, Bools
from ...machine.combs import Combs, Teeth, gather_combs
from ...machine.memory import Words
from ..ahead import places_of
from ..caches import Caches
from .cache import SlubCache
from .fit import slab_objects, slab_orders


class FreePointers(NamedTuple):
    """Words of slabs, as they are stored."""

    rows: I64
    """Of the index, in ascending order."""
    objects: I64
    """Objects, and so words, of each slab."""
    teeth: Teeth

    def at(self, rows: I64) -> Callable[[I64, int], Optional[Words]]:
        """
        Return what tells those of some slabs.

        :param rows: Of the index: of all slabs of a cache.
        :return: A function of some of these, by position, and of how many objects each of them
            has; it returns ``None`` where it does not know them all.
        """
        return lambda some, objects: self._of(rows[some], objects)

    def _of(self, rows: I64, objects: int) -> Optional[Words]:
        at = places_of(rows, self.rows, self.objects, objects)
        if at is None:
            return None
        begin = self.teeth.begin[at]
        return Words(self.teeth.words.take(begin[:, None] + np.arange(objects)), self.teeth.ok[at])


def words_needed(index: SlabIndex, caches: Caches, owner: I64, held: Bools) -> I64:
    """
    Return how many free pointers there are to be read of each cache.

    :param owner: Position of the cache of each row of the index; -1 for none.
    :param held: In which rows a freelist begins.
    """
    rows = np.flatnonzero(held & (owner >= 0))
    objects = _objects(index, caches, rows, owner[rows])
    return np.bincount(owner[rows], objects, len(caches)).astype(np.int64)


def read_free_pointers(
    index: SlabIndex,
    caches: Caches,
    owner: I64,
    held: Bools,
    some: Sequence[SlubCache],
    jobs: int,
) -> FreePointers:
    """
    Read the free pointers of some caches.

    Slabs whose objects would reach beyond the memory that is certainly theirs are left out.

    :param owner: Position of the cache of each row of the index; -1 for none.
    :param held: In which rows a freelist begins.
    :param jobs: How many processes read.
    """
    memory = index.machine.memory
    first_of = np.full(len(caches) + 1, -1, np.int64)  # the last one is for no cache
    for cache in some:
        first_of[cache.number] = cache.red_left_pad + cache.offset
    rows = np.flatnonzero(held & (first_of[owner] >= 0))
    numbers = owner[rows]
    first, step = first_of[numbers], _sizes(caches, numbers)
    objects = _objects(index, caches, rows, numbers)
    width = np.left_shift(memory.page_size, index.settled[rows])
    within = first + (objects - 1) * step + memory.word_size <= width
    rows, objects, width, first, step = (
        each[within] for each in (rows, objects, width, first, step)
    )
    combs = Combs(index.addresses[rows], width.astype(np.uint64), first, step, objects)
    return FreePointers(rows, objects, gather_combs(memory, combs, jobs))


def _objects(index: SlabIndex, caches: Caches, rows: I64, numbers: I64) -> I64:
    # Objects of slabs of these caches.
    orders = slab_orders(index, caches, rows, numbers).astype(np.uint64)
    sizes = _sizes(caches, numbers).astype(np.uint64)
    return slab_objects(index, orders, sizes).astype(np.int64)


def _sizes(caches: Caches, numbers: I64) -> I64:
    return np.maximum(caches.rows["size"][numbers], 1).astype(np.int64)
