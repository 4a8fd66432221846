# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What KASAN's shadow says of objects
-----------------------------------

Whoever gives an object back makes its shadow say that nobody may touch it before
any place records the object, and it stays so until after it was taken off again.
The reverse is no promise: objects that lie in a mempool are in use and may not be
touched. Nor is anything said of those that may be touched after they were freed.
"""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..index import SlabIndex
from ..ledger import I64, U64, Bools, Ledger, State, Zone
from ..machine import Machine
from ..machine.shadow import FREED, GRANULE, shadow
from ..regions import Region, region
from .kept import slab_spans
from .quarantine import QUARANTINE

_BATCH_BYTES = 4 << 20  # of the shadow, held at a time


def shadow_zones(machine: Machine, ledger: Ledger, typesafe: bool) -> Iterator[Zone]:
    """
    Yield the shadow of every object that was given back, if there is a shadow.

    :param ledger: With all claims of the cache.
    :param typesafe: Whether its objects may be touched after they were freed.
    """
    said = None if typesafe else machine.settled(shadow)
    size, stride = ledger.facts.object_size, ledger.facts.stride
    if said is None or not 0 < size <= stride or stride % GRANULE:
        return
    claims, slabs = ledger.claims, ledger.slabs
    inside = np.uint64(size) <= np.uint64(machine.memory.page_size) << _orders(ledger)
    rows = np.flatnonzero(_given_back(ledger))
    rows = rows[inside[claims.slab[rows]]]
    first = np.unique(_keys(ledger)[rows], return_index=True)[1]
    rows = rows[first]
    slab, index = claims.slab[rows].astype(np.int64), claims.index[rows].astype(np.int64)
    address = slabs.base[slab] + index.astype(np.uint64) * np.uint64(stride)
    step = max(1, _BATCH_BYTES * GRANULE // size)
    for at in range(0, len(rows), step):
        some = slice(at, at + step)
        found = said.read(address[some], size)
        where = said.of(address[some])[found.ok]
        bytes = found.bytes[found.ok]
        expected = np.where(bytes < GRANULE, np.uint8(FREED), bytes)
        beside = slab[some][found.ok], index[some][found.ok], where
        yield Zone("shadow", "KASAN's shadow", *beside, bytes, expected)


def _orders(ledger: Ledger) -> U64:
    # Of the memory that each slab has, whatever the cache says of its objects.
    orders: U64 = np.maximum(ledger.slabs.readable, 0).astype(np.uint64)
    return orders


def _keys(ledger: Ledger) -> U64:
    # One number for each object of the cache.
    most = np.int64(int(ledger.slabs.objects.max(initial=0)) + 1)
    keys: U64 = (ledger.claims.slab.astype(np.int64) * most + ledger.claims.index).astype(np.uint64)
    return keys


def _given_back(ledger: Ledger) -> Bools:
    claims, slabs = ledger.claims, ledger.slabs
    known = (claims.slab >= 0) & (claims.index >= 0)
    quarantined = np.array([place is QUARANTINE for place in ledger.places], np.bool_)
    free = known & ((claims.state == State.FREE) | quarantined[claims.place])
    # A constructor of a slab that is being made touches each of its objects.
    unsure = slabs.fresh | slabs.excused | slabs.failed
    sure: Bools = free & ~claims.passing & ~unsure[claims.slab]
    lived_in = _keys(ledger)[known & (claims.state == State.LIVE)]
    return sure & ~np.isin(_keys(ledger), lived_in)


def regions(index: SlabIndex, owner: I64) -> Iterator[Region]:
    """
    Yield the shadow of all slabs.

    :param owner: Position of the cache of each row of the index.
    """
    said = index.machine.settled(shadow)
    if said is not None:
        starts, sizes = slab_spans(index)
        found = region("KASAN's shadow", said.of(starts), sizes // np.uint64(GRANULE))
        # A page of it is zeroes if no object in 32 KiB was freed, nor has a red zone.
        yield found._replace(unused=owner)
