# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Slots of slabs
--------------

What both allocators need to say which bytes of a slab are theirs.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

import numpy as np

from ..allocators.base import Allocator
from ..index import SlabIndex
from ..ledger import I64, U64, Bools
from ..regions import Region, region

MAX_ORDER = 10
"""No slab is larger; a greater order is damage."""

MAX_OBJECTS = 32767
"""As many as ``slab->objects``, a field of 15 bits, can count."""

_BATCH_BYTES = 32 << 20  # slab memory read at a time


class Slots(NamedTuple):
    """Some slabs of one cache and order."""

    start: U64
    """Address of slot 0 of each slab."""
    span: int
    """Bytes of each slab from there."""
    stride: int
    """Bytes from one slot to the next."""
    number: int
    """Slots of each slab."""
    lead: int
    """Bytes of a slot before its object."""
    size: int
    """Bytes of the object that belong to its user."""

    @property
    def addresses(self) -> U64:
        """Shape (slabs, number): where each slot begins."""
        return self.start[:, None] + each(0, self.stride, self.number)


class CacheObjects:
    """
    The objects of one cache as its ledger has them.

    :param number: Position of the cache.
    """

    def __init__(self, allocator: Allocator, number: int, index: SlabIndex) -> None:
        ledger = allocator.collect(number, index)
        rows = allocator.ownership.rows_of(number)
        claims = ledger.claims.take(ledger.claims.slab >= 0)
        self._row = rows[claims.slab]
        self._index = claims.index
        self._rows = rows
        self._base = ledger.slabs.base

    def base(self, rows: I64) -> U64:
        """Return the address of the first object of each slab."""
        return self._base[np.searchsorted(self._rows, rows)]

    def free(self, rows: I64, number: int) -> Bools:
        """
        Return which objects of some slabs any place claims: shape (slabs, number).

        :param rows: Rows of the index, ascending.
        :param number: Objects of each slab.
        """
        free = np.zeros((len(rows), number), np.bool_)
        if len(rows):
            at = np.minimum(np.searchsorted(rows, self._row), len(rows) - 1)
            here = (rows[at] == self._row) & (self._index >= 0) & (self._index < number)
            free[at[here], self._index[here]] = True
        return free


def debugging(slots: Slots, free: Bools) -> Iterator[Region]:
    """
    Yield what surrounds the objects of a cache under debugging, and all of its free objects.

    :param free: Shape (slabs, number).
    """
    taken, tail = slots.addresses[~free], slots.lead + slots.size
    rest = max(slots.stride - tail, 0)
    yield region("debugging", slots.addresses[free], slots.stride, code=True)
    yield region("debugging", taken, slots.lead)
    yield region("debugging", taken + np.uint64(tail), rest, code=True)
    used = slots.number * slots.stride
    yield region("debugging", slots.start + np.uint64(used), max(slots.span - used, 0))


def batches(index: SlabIndex, rows: I64, page_size: int) -> Iterator[I64]:
    """Yield rows in ascending order, some at a time, each time of one order only."""
    orders = index.orders[rows]
    for order in np.unique(orders[orders <= MAX_ORDER]).tolist():
        some = np.sort(rows[orders == order])
        step = max(1, _BATCH_BYTES // (page_size << order))
        for first in range(0, len(some), step):
            yield some[first : first + step]


def each(start: int, step: int, count: int) -> U64:
    """Return *count* numbers from *start*, *step* apart."""
    return np.uint64(start) + np.uint64(step) * np.arange(count, dtype=np.uint64)
