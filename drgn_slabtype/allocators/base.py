# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What an allocator module offers
-------------------------------

An allocator turns its structures into the tables of
:mod:`drgn_slabtype.ledger`. It knows places, lists and pointer formats; it
judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, List, Optional, Protocol, Sequence, Tuple

import numpy as np

from ..index import KnownBy, SlabIndex
from ..ledger import I64, U64, Bools, Ledger, Suspect
from ..regions import Declaration
from .caches import Caches, same_cache
from .lists import Walked


@dataclass
class Ownership:
    """Which cache each row of the index belongs to, decided once."""

    cache: np.ndarray[Tuple[int], np.dtype[np.int64]]
    """Position of the cache; -1 if nothing tells."""
    told: np.ndarray[Tuple[int], np.dtype[np.int64]]
    """Position of the cache that the slab's own pointer names; -1 if it names none."""

    _sorted: Optional[Tuple[I64, I64]] = field(default=None, init=False, repr=False)

    def rows_of(self, number: int) -> np.ndarray[Tuple[int], np.dtype[np.int64]]:
        """Return the rows that belong to one cache, in ascending order."""
        if self._sorted is None:
            # Of numbers of two bytes, in a tenth of the time.
            short = bool(self.cache.max(initial=0) < 1 << 15)
            rows = np.argsort(self.cache.astype(np.int16 if short else np.int64), kind="stable")
            self._sorted = rows, self.cache[rows]
        rows, numbers = self._sorted
        low, high = numbers.searchsorted([number, number + 1])
        return rows[low:high]

    def give(self, row: int, number: int) -> None:
        """Let a row of the index belong to another cache."""
        self.cache[row] = number
        self._sorted = None


class Allocator(Protocol):
    """One slab allocator of one program."""

    name: str
    """``SLAB`` or ``SLUB``."""
    caches: Caches
    ownership: Ownership
    """Which cache each slab belongs to; set by :meth:`discover`."""

    def discover(self, index: SlabIndex) -> None:
        """Walk all lists and CPUs, and add to the index the slabs that have lost their mark."""

    def believe(self, other: Any) -> None:
        """
        Take over from another reading of the same machine what does not change.

        What all caches have in common is not looked at again either.
        """

    def read_ahead(
        self, numbers: Sequence[int], index: SlabIndex, jobs: int
    ) -> Iterator[Sequence[int]]:
        """
        Yield caches in their order, some at a time, for which less is left to read now.

        What takes most of the reading is read for all of these at once.

        :param jobs: How many processes read.
        """

    def collect(self, number: int, index: SlabIndex, about: Optional[range] = None) -> Ledger:
        """
        Read everything about one cache.

        :param number: Position in :attr:`caches`.
        :param about: Addresses; of the freelists, those alone are followed then that may lead
            to one of them, and no object is looked at byte by byte.
        """

    def homes(self, index: SlabIndex, addresses: U64) -> I64:
        """Return the position of the cache of which an object begins at each address; else -1."""

    def unreadable(self, number: int) -> List[str]:
        """Return what of one cache's own structures is not in the target, in words."""

    def elsewhere(self) -> List[Suspect]:
        """Return damage to structures that belong to no cache."""

    def regions(self, index: SlabIndex) -> Iterator[Declaration]:
        """
        Declare all memory that reading every cache takes.

        :param index: Every slab, after :meth:`discover`.
        """


Fits = Callable[[I64, I64], Bools]
"""Whether the slab in each row of the index is made like one of the cache beside it."""


def decide_ownership(
    index: SlabIndex,
    caches: Caches,
    walks: Sequence[Walked],
    cpu_rows: Sequence[Tuple[int, int]],
    fits: Optional[Fits] = None,
) -> Ownership:
    """
    Decide the cache of every slab from back pointer, lists and CPUs together.

    A whole list or a CPU outweighs the slab's own pointer, as one word is
    damaged more easily than three, unless the slab is made like one of the
    cache it names and not like one of the other. Two that agree outweigh one.

    :param cpu_rows: (cache, row) of slabs that a CPU holds.
    """
    told = same_cache(index["slab_cache"], caches)
    cache = told.copy()
    cache[(index.known_by & np.uint8(KnownBy.KFENCE)) != 0] = -1
    listed = np.full(len(index), -1, np.int64)
    for walked in walks:
        listed[walked.rows] = walked.head.cache
    held = np.full(len(index), -1, np.int64)
    for number, row in cpu_rows:
        held[row] = number
    # The other claimant: a list before a CPU, but not where the CPU agrees with the slab.
    other = np.where((listed >= 0) & ((held != told) | (held < 0)), listed, held)
    agreed = (told >= 0) & ((listed == told) | (other == told))
    rows = ((other >= 0) & ~agreed).nonzero()[0]
    named = told[rows] >= 0
    mine, theirs = rows[named], other[rows[named]]
    keep = np.zeros(len(rows), np.bool_)
    if fits is not None and len(mine):
        keep[named] = fits(mine, told[mine]) & ~fits(mine, theirs)
    cache[rows[~keep]] = other[rows[~keep]]
    return Ownership(cache, told)
