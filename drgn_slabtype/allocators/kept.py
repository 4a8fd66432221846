# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is kept of the pages of slabs
----------------------------------

Objects belong to their users; what is around them, and free objects, belong to
the allocator. Both allocators say in the same way which bytes are theirs.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Tuple

import numpy as np

from ..distinct import distinct
from ..index import SlabIndex
from ..ledger import I64, U64, Bools
from ..regions import Region, region, steps
from .base import Allocator
from .quarantine import QUARANTINE

_MAX_ORDER = 10  # no slab is larger; a greater order is damage
_BATCH_BYTES = 8 << 20  # slab memory read at a time


class Cut(NamedTuple):
    """How some slabs of one cache and order are cut into slots."""

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
        return self.start[:, None] + steps(0, self.stride, self.number)


class CacheObjects:
    """
    The objects of one cache as its ledger has them.

    :param number: Position of the cache.
    """

    def __init__(self, allocator: Allocator, number: int, index: SlabIndex) -> None:
        ledger = allocator.collect(number, index)
        rows = allocator.ownership.rows_of(number)
        # What is in quarantine still holds what its user left.
        held = np.array([place is QUARANTINE for place in ledger.places], np.bool_)
        claims = ledger.claims.take((ledger.claims.slab >= 0) & ~held[ledger.claims.place])
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


def slab_spans(index: SlabIndex) -> Tuple[U64, U64]:
    """Return where the memory of each slab begins, and how many bytes it has."""
    orders = slab_orders(index).astype(np.uint64)
    return index.addresses, np.uint64(index.machine.memory.page_size) << orders


def slab_orders(index: SlabIndex) -> I64:
    """Return the order of the memory of each slab: what is read, whatever a damaged page says."""
    return np.where(index.settled >= 0, index.settled, np.minimum(index.orders, _MAX_ORDER))


def slab_pages(index: SlabIndex) -> Iterator[Region]:
    """Yield the memory of all slabs, masked."""
    yield region("slab pages", *slab_spans(index), masked=True)


def debugging(cut: Cut, free: Bools) -> Iterator[Region]:
    """
    Yield what surrounds the objects of a cache under debugging, and all of its free objects.

    :param free: Shape (slabs, number).
    """
    taken, tail = cut.addresses[~free], cut.lead + cut.size
    rest = max(cut.stride - tail, 0)
    yield region("debugging", cut.addresses[free], cut.stride, code=True)
    yield region("debugging", taken, cut.lead)
    yield region("debugging", taken + np.uint64(tail), rest, code=True)
    used = cut.number * cut.stride
    yield region("debugging", cut.start + np.uint64(used), max(cut.span - used, 0))


def batches(index: SlabIndex, rows: I64) -> Iterator[I64]:
    """Yield rows in ascending order, some at a time, each time of one order only."""
    orders, page = slab_orders(index)[rows], index.machine.memory.page_size
    for order in distinct(orders).tolist():
        some = np.sort(rows[orders == order])
        step = max(1, _BATCH_BYTES // (page << order))
        for first in range(0, len(some), step):
            yield some[first : first + step]
