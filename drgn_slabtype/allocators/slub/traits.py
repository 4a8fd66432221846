# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the slabs of a kernel show of it
-------------------------------------

How free pointers are stored, how the state of a slab shows and what stands in
its page_type word: no type or symbol tells, so the slabs have to, many of them,
since one may be damaged.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from ...index import SlabIndex, slabs_at
from ...ledger import I64
from ...machine import Machine
from ..caches import Caches, read_caches, same_cache
from ..nodes import read_nodes
from .freelists import Encoding, decode
from .state import Era, detect_era

_MOST = 2000  # slabs that are asked how free pointers are stored


class Traits(NamedTuple):
    """What all slabs of a kernel have in common."""

    era: Era = Era.UNKNOWN
    encoding: Encoding = Encoding.PLAIN
    word: Optional[int] = None
    """What the page_type word of each slab holds."""


def find_traits(index: SlabIndex, caches: Caches, owner: I64, on_partial: I64) -> Traits:
    """
    Return what slabs have in common.

    :param owner: Position of the cache of each row of the index; -1 for none.
    :param on_partial: Rows of the slabs on partial lists.
    """
    return Traits(
        detect_era(index.machine, index, on_partial),
        _encoding(index, caches, owner),
        _most_common(index.words[owner >= 0]),
    )


def sampled_traits(machine: Machine) -> Traits:
    """Return the same by the first slab of each partial list, for readings of a few slabs."""
    caches = machine.settled(read_caches)
    rows = read_nodes(machine, caches).rows
    first = rows["partial.next"] - np.uint64(
        machine.structure(f"struct {machine.layout.slab_struct}").offset("slab_list")
    )
    index = slabs_at(machine, first[rows.ok])
    owner = np.where(index.marked, same_cache(index["slab_cache"], caches), -1)
    return find_traits(index, caches, owner, np.flatnonzero(owner >= 0))


def _most_common(words: npt.NDArray[np.uint32]) -> Optional[int]:
    # SLUB leaves the word as the page allocator or the slab mark has made it.
    values, times = np.unique(words, return_counts=True)
    return int(values[np.argmax(times)]) if len(values) else None


def _encoding(index: SlabIndex, caches: Caches, owner: I64) -> Encoding:
    # The first stored pointer of many slabs: one bad pointer cannot decide.
    if not caches.rows.structure.has("random"):
        return Encoding.PLAIN
    source = index.machine.memory
    votes = dict.fromkeys((Encoding.SWAPPED, Encoding.XOR), 0)
    rows = np.flatnonzero((owner >= 0) & (index["freelist"] != 0))[:_MOST]
    cache = owner[rows]
    where = index["freelist"][rows] + caches.rows["offset"][cache]
    gathered = source.gather(where, source.word_size)
    stored = gathered.bytes.view(source.word)[:, 0].astype(np.uint64)
    start = index.addresses[rows]
    for encoding in votes:
        found = decode(encoding, stored, where, 0) ^ caches.rows["random"][cache]
        found = source.tags.removed(found)
        near = (found == 0) | (found - start < index.spans[rows])
        votes[encoding] = int((near & gathered.ok).sum())
    return max(votes, key=lambda encoding: votes[encoding])
