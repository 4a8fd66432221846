# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the slabs of SLUB caches are made."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ...index import KnownBy, SlabIndex
from ...ledger import I64, U64, Bools
from ...pages.folios import head_pages
from ...rules.members import MAX_OBJECTS, MAX_ORDER
from ..caches import Caches
from .cache import slab_flags


def slab_orders(index: SlabIndex, caches: Caches, rows: I64, numbers: I64) -> I64:
    """
    Return the order each slab must have: one of its cache's two.

    That is its compound order, or the one that its object count follows from;
    a damaged one must not decide how much memory is read.

    :param rows: Of the index.
    :param numbers: Position of the cache beside each.
    """
    usual, least = _orders(caches, numbers)
    own = index.orders[rows].astype(np.uint64)
    order = np.where(own == least, least, usual)
    kept = index["objects"][rows]
    size = np.maximum(caches.rows["size"][numbers], 1)
    told = kept != slab_objects(index, order, size)
    if told.any():
        other = np.where(own == least, usual, least)
        told &= kept == slab_objects(index, other, size)
        order = np.where(told, other, order)
    return order.astype(np.int64)


def settled_orders(index: SlabIndex, caches: Caches, owner: I64) -> I64:
    """
    Return the order of each slab; -1 where it has no cache.

    :param owner: Position of the cache of each row of the index; -1 for none.
    """
    # KFENCE's pages are slabs of one page each, pages of no cache are none.
    settled = np.where(index.known_by & np.uint8(KnownBy.KFENCE), 0, -1).astype(np.int64)
    owned = (owner >= 0).nonzero()[0]
    orders = slab_orders(index, caches, owned, owner[owned])
    settled[owned] = readable_orders(index, owned, orders)
    return settled


def readable_orders(index: SlabIndex, rows: I64, orders: I64) -> I64:
    """
    Return the order of the memory that is certainly a slab's, for reading it.

    Where its compound order is another one than its cache asks for, that is the
    one whose last page is a tail of the slab: what lies behind is not its own.

    :param rows: Of the index.
    :param orders: Order that the cache asks for, beside each.
    """
    readable = orders.copy()
    doubtful = (index.orders[rows] != orders).nonzero()[0]
    if not len(doubtful):
        return readable
    own = np.minimum(index.orders[rows[doubtful]], MAX_ORDER).astype(np.int64)
    told = np.where(_reaches(index, rows[doubtful], own), own, 0)
    asked = orders[doubtful]
    readable[doubtful] = np.where(_reaches(index, rows[doubtful], asked), asked, told)
    return readable


def _reaches(index: SlabIndex, rows: I64, orders: I64) -> Bools:
    # Whether the last of so many pages is a tail whose head is the slab.
    source = index.machine.memory
    heads = index.pages[rows]
    ahead = (np.uint64(1) << orders.astype(np.uint64)) - np.uint64(1)
    last = heads + ahead * np.uint64(index.page_bytes)
    gathered = source.gather(last + np.uint64(index.machine.page.compound), source.word_size)
    links = gathered.bytes.view(source.word)[:, 0].astype(np.uint64)
    tail = gathered.ok & (links & np.uint64(1) != 0)
    return (orders == 0) | (tail & (head_pages(last, links) == heads))


def _orders(caches: Caches, numbers: I64) -> Tuple[U64, U64]:
    most = np.uint64(MAX_ORDER)
    usual, least = (caches.rows[name][numbers] >> np.uint64(16) for name in ("oo.x", "min.x"))
    return np.minimum(usual, most), np.minimum(least, most)


def slab_objects(index: SlabIndex, orders: U64, size: U64) -> U64:
    """Return how many objects of a size there is room for in a slab of each order."""
    page = np.uint64(index.machine.memory.page_size)
    return np.minimum((page << orders) // size, np.uint64(MAX_OBJECTS))


def slab_fits(index: SlabIndex, caches: Caches, rows: I64, numbers: I64) -> Bools:
    """
    Return which slabs have the order, the objects and a freelist that a cache would give them.

    :param rows: Of the index.
    :param numbers: Position of the cache beside each.
    """
    of = caches.rows
    order = np.minimum(index.orders[rows].astype(np.uint64), np.uint64(MAX_ORDER))
    usual, least = _orders(caches, numbers)
    size = np.maximum(of["size"][numbers], 1)
    objects = slab_objects(index, order, size)
    good: Bools = (order == usual) | (order == least)
    good &= (index["objects"][rows] == objects) & (index["inuse"][rows] <= objects)
    # The first object begins with the slab or after one red zone.
    head = index["freelist"][rows]
    offset = head - index.addresses[rows]
    left = _left_pads(index, caches)[numbers]
    inside = (offset % size == 0) | ((offset - left) % size == 0)
    good &= (head == 0) | (inside & (offset < objects * size + left))
    return good


def _left_pads(index: SlabIndex, caches: Caches) -> U64:
    # Bytes before the first object, of each cache. One with red zones has some, and is one
    # whose flags alone are damaged if it has so many as it would.
    of, word = caches.rows, np.uint64(index.machine.memory.word_size)
    if not of.structure.has("red_left_pad"):
        return np.zeros(len(of), np.uint64)
    pads, red = of["red_left_pad"], np.uint64(slab_flags(index.machine)["RED_ZONE"])
    likely = (pads % word == 0) & (pads < of["size"])
    return np.where(likely | (of["flags"] & red != 0), pads, np.uint64(0))


def object_homes(index: SlabIndex, caches: Caches, owner: I64, addresses: U64) -> I64:
    """
    Return the position of the cache of which an object begins at each address; else -1.

    :param owner: Position of the cache of each row of the index; -1 for none.
    """
    rows = index.rows_of_addresses(addresses)
    if not len(owner) or not len(caches):
        return np.full(len(addresses), -1, np.int64)
    of, numbers = caches.rows, owner[rows]
    offset = addresses - index.addresses[rows] - _left_pads(index, caches)[numbers]
    size = np.maximum(of["size"][numbers], np.uint64(1))
    good = (offset % size == 0) & (offset // size < index["objects"][rows])
    return np.where(good & (rows >= 0) & (numbers >= 0), numbers, -1)
