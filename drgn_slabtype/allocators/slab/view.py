# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All slabs of SLAB at once
-------------------------

What is asked of every slab of the machine before its caches are judged one by
one: counts and first objects, wherever the layout keeps them, which slabs are
loose, and which objects other memory of the allocator lies in.
"""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ...distinct import among
from ...index import KnownBy, SlabIndex
from ...ledger import I64, U64, Bools
from ...machine.columns import numbers_at
from ...pagetype.detect import PageTypeLayout
from ..caches import Caches
from ..lists import Walked
from ..whereabouts import in_stray_slab
from .cache import MAX_SLAB_ORDER

_TYPESAFE_BY_RCU = 0x80000


class SlabView:
    """
    Columns over the rows of an index.

    :param owner: Position of the cache of each row; -1 for none.
    :param walks: All lists of all nodes.
    """

    def __init__(
        self, index: SlabIndex, caches: Caches, owner: I64, walks: Sequence[Walked]
    ) -> None:
        layout = index.machine.layout
        self._index = index
        self._caches = caches
        self._owner = owner
        self.active: I64 = slab_counts(index)
        """Objects in use by the slab's own count."""
        self.told: U64 = _first(layout, index)
        """Address of the first slot as each slab has it (``s_mem``)."""
        self.orders: I64 = np.where(owner >= 0, self._asked_orders(), -1)
        """Order that its cache asks for; its own where none is so high; -1 where there is none."""
        self.loose: Bools = loose_slabs(index, self.active, walks)
        """Which slabs are on no list, and not because a list has lost them."""
        self.first: U64 = self._only_place()
        """The same, or where it can only be if that word leads out of the slab."""
        by_rcu = (self.of_cache("flags") & np.uint64(_TYPESAFE_BY_RCU)) != 0
        self.detached: Bools = self.loose & (self.active == 0) & by_rcu
        """Which slabs wait for RCU to give back their pages."""

    def _asked_orders(self) -> I64:
        asked = self.of_cache("gfporder")
        own = np.minimum(self._index.orders, MAX_SLAB_ORDER)
        return np.where(asked <= MAX_SLAB_ORDER, asked, own).astype(np.int64)

    def _only_place(self) -> U64:
        # Colours are places of the first slot; many caches have room for a single one.
        start = self._index.addresses
        lost = (self.told - start) >> np.uint64(self._index.machine.memory.page_shift)
        astray = lost >> np.maximum(self.orders, 0).astype(np.uint64) != 0
        astray &= (self._owner >= 0) & (self.of_cache("colour") < 2)
        return np.where(astray, start, self.told)

    def of_cache(self, member: str) -> U64:
        """Return a member of the cache of each slab; 0 for slabs of no cache."""
        if not len(self._caches):
            return np.zeros(len(self._owner), np.uint64)
        return np.where(self._owner >= 0, self._caches.rows[member][self._owner], np.uint64(0))

    def in_strays(self, addresses: U64) -> Bools:
        """Return which addresses lie in slabs of no cache, of which nothing tells what is there."""
        found = np.zeros(len(addresses), np.bool_)
        if self._index.whole:
            away = np.flatnonzero(self._index.rows_of_addresses(addresses) < 0)
            found[away] = in_stray_slab(self._index, addresses[away])
        return found

    def homes(self, addresses: U64) -> I64:
        """Return the cache whose object begins at each address; else -1."""
        rows = self._index.rows_of_addresses(addresses)
        if not len(self._owner) or not len(self._caches):
            return np.full(len(addresses), -1, np.int64)
        base = self.first
        if self._caches.rows.structure.has("obj_offset"):
            base = base + self.of_cache("obj_offset")
        offset = addresses - base[rows]
        stride = np.maximum(self.of_cache("size")[rows], np.uint64(1))
        good = (offset % stride == 0) & (offset // stride < self.of_cache("num")[rows])
        good &= rows >= 0
        return np.where(good, self._owner[rows], -1)


def loose_slabs(index: SlabIndex, active: I64, walks: Sequence[Walked]) -> Bools:
    """
    Return which slabs are on no list, and not because a list has lost them.

    :param active: Objects in use, of each slab.
    :param walks: All lists of all nodes.
    """
    # list_del() poisons the links of a slab that is given back; a list on
    # the stack of other such slabs, a fresh page and RCU leave other things
    # there. The links of a slab that was lost still lead to its neighbours.
    listed = (index.known_by & np.uint8(KnownBy.KFENCE)) != 0
    for walked in walks:
        listed[walked.rows] = True
    loose = np.zeros(len(index), np.bool_)
    rows = np.flatnonzero(~listed)
    heads = np.array([walked.head.address for walked in walks], np.uint64)
    links = np.uint64(index.structure.offset("slab_list"))

    def known(link: U64) -> Bools:
        # Which lead to a list, or to a slab that is on one or could be.
        there = index.rows_of_pages(link - links)
        slab = (there >= 0) & (listed[there] | (active[there] != 0))
        return slab | among(link, heads)

    following, previous = (index[f"slab_list.{name}"][rows] for name in ("next", "prev"))
    itself = following == index.pages[rows] + links
    loose[rows] = itself | ~(known(following) | known(previous))
    return loose


def _packed(layout: PageTypeLayout, index: SlabIndex) -> I64:
    assert layout.packed is not None
    source = index.machine.memory
    at = layout.packed.offset
    return numbers_at(index.raw, at, np.dtype(f"{source.byteorder}u4")).astype(np.int64)


def slab_counts(index: SlabIndex) -> I64:
    """Return how many objects each slab counts as in use."""
    layout = index.machine.layout
    if layout.packed is not None:
        return layout.packed.active(_packed(layout, index)).astype(np.int64)
    if layout.encoding.carries_active:
        return np.asarray(layout.encoding.active(index.words)).astype(np.int64)
    return index["active"].astype(np.int64)


def _first(layout: PageTypeLayout, index: SlabIndex) -> U64:
    if layout.packed is None:
        return index["s_mem"]
    offset = layout.packed.s_mem_offset(_packed(layout, index))
    return index.addresses + offset.astype(np.uint64)
