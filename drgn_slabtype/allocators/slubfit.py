# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whether a slab is made like those of a SLUB cache."""

from __future__ import annotations

import numpy as np

from ..index import SlabIndex
from ..ledger import I64, Bools
from ..memory import memory
from .caches import Caches

_MAX_ORDER = 24
_MAX_OBJECTS = 32767  # the widest that slab->objects, a field of 15 bits, can hold


def slab_fits(index: SlabIndex, caches: Caches, rows: I64, numbers: I64) -> Bools:
    """
    Return which slabs have the order, the objects and a freelist that a cache would give them.

    :param rows: Of the index.
    :param numbers: Position of the cache beside each.
    """
    of = caches.rows
    page = np.uint64(memory(index.prog).page_size)
    order = index.orders[rows].astype(np.uint64)
    usual, least = of["oo.x"][numbers] >> np.uint64(16), of["min.x"][numbers] >> np.uint64(16)
    size = np.maximum(of["size"][numbers], 1)
    span = page << np.minimum(order, _MAX_ORDER)
    objects = np.minimum(span // size, _MAX_OBJECTS)
    good: Bools = (order == usual) | (order == least)
    good &= (index["objects"][rows] == objects) & (index["inuse"][rows] <= objects)
    # The first object begins with the slab or after one red zone.
    head = index["freelist"][rows]
    offset = head - index.addresses[rows]
    left = np.zeros(len(rows), np.uint64)
    if of.structure.has("red_left_pad"):
        left = of["red_left_pad"][numbers]
    inside = (offset % size == 0) | ((offset - left) % size == 0)
    good &= (head == 0) | (inside & (offset < objects * size + left))
    return good
