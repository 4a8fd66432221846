# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Index arrays of many caches
---------------------------

The index array of every slab that has one, read in the order of memory, whichever caches
the slabs are of.
"""

from __future__ import annotations

from typing import Callable, NamedTuple, Optional, Sequence

import numpy as np

from ...index import SlabIndex
from ...ledger import I64
from ...machine.combs import Combs, Teeth, gather_combs
from ...machine.memory import Gathered
from ..ahead import places_of
from .cache import SlabCache

Ahead = Callable[[I64, int], Optional[Gathered]]
"""
Tells the index arrays of some slabs, by position, if they have so many bytes each; ``None`` where
it does not know them all.
"""


class ReadArrays(NamedTuple):
    """Index arrays, as they are stored."""

    rows: I64
    """Of the index, in ascending order."""
    sizes: I64
    """Bytes of each array."""
    begin: I64
    """Where each begins in :attr:`bytes`."""
    teeth: Teeth
    bytes: np.ndarray[tuple[int], np.dtype[np.uint8]]
    """The words that they lie in, one array after the other, in the order of memory."""

    def at(self, rows: I64) -> Ahead:
        """
        Return what tells those of some slabs.

        :param rows: Of the index: of all slabs of a cache.
        """
        return lambda some, size: self._of(rows[some], size)

    def _of(self, rows: I64, size: int) -> Optional[Gathered]:
        at = places_of(rows, self.rows, self.sizes, size)
        if at is None:
            return None
        where = self.begin[at][:, None] + np.arange(size)
        return Gathered(self.bytes.take(where), self.teeth.ok[at])


def words_needed(index: SlabIndex, owner: I64, caches: Sequence[SlabCache]) -> I64:
    """
    Return how many words are to be read of each cache, at most.

    :param owner: Position of the cache of each row of the index; -1 for none.
    :param caches: All of them.
    """
    held = owner[(owner >= 0) & (index["freelist"] != 0)]
    arrays = np.bincount(held, minlength=len(caches)).astype(np.int64)
    words: I64 = arrays * (_sizes(index, len(caches), caches) // _word_size(index) + 2)
    return words


def read_index_arrays(
    index: SlabIndex, owner: I64, some: Sequence[SlabCache], jobs: int
) -> ReadArrays:
    """
    Read the index arrays of some caches, wherever their slabs say that they are.

    :param owner: Position of the cache of each row of the index; -1 for none.
    :param jobs: How many processes read.
    """
    memory, word_size = index.machine.memory, _word_size(index)
    if memory.tags.used:
        some = ()  # tags are taken off words as if they were pointers, which these are not
    pointer, word = index["freelist"], np.uint64(word_size)
    count = 1 + max([int(owner.max(initial=-1)), *(cache.number for cache in some)])
    size = np.append(_sizes(index, count, some), 0)[owner]  # the last one is for no cache
    rows = np.flatnonzero((size > 0) & (pointer != 0))
    within = pointer[rows] % word
    words = (within + size[rows].astype(np.uint64) + word - np.uint64(1)) // word
    there = memory.reachable(pointer[rows] - within, words * word)
    rows, within, words = rows[there], within[there], words[there]
    step = np.full(len(rows), word_size, np.int64)
    where = (pointer[rows] - within, words * word)
    combs = Combs(*where, np.zeros_like(step), step, words.astype(np.int64))
    teeth = gather_combs(memory, combs, jobs)
    stored = teeth.words.astype(memory.word, copy=False).view(np.uint8)
    begin = teeth.begin * word_size + within.astype(np.int64)
    return ReadArrays(rows, size[rows], begin, teeth, stored)


def _word_size(index: SlabIndex) -> int:
    return index.machine.memory.word_size


def _sizes(index: SlabIndex, count: int, caches: Sequence[SlabCache]) -> I64:
    # Bytes of an index array of each cache, by its position; 0 for those that are not meant.
    sizes = np.zeros(count, np.int64)
    width = index.machine.structure("freelist_idx_t").size
    for cache in caches:
        sizes[cache.number] = cache.num * width
    return sizes
