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
from drgn import sizeof

from ...index import KnownBy, SlabIndex
from ...ledger import I64, U64, Bools
from ...machine import Machine
from ...machine.kfence import KfencePool
from ...pagetype.detect import PageTypeLayout
from ..base import Ownership
from ..caches import Caches
from ..lists import Walked

_OFF_SLAB = 0x80000000
_TYPESAFE_BY_RCU = 0x80000
_LARGE_KMALLOC_PAGES = 2  # since Linux 6.1; more are not served from slabs


class SlabView:
    """
    Columns over the rows of an index.

    :param walks: All lists of all nodes.
    :param heads: Addresses of the heads of those lists.
    """

    def __init__(
        self,
        machine: Machine,
        index: SlabIndex,
        caches: Caches,
        ownership: Ownership,
        walks: Sequence[Walked],
        heads: U64,
        pool: KfencePool,
    ) -> None:
        self._memory = machine.memory
        self._index = index
        self._caches = caches
        self._owner = ownership.cache
        self._pool = pool
        layout = machine.layout
        self.active: I64 = _active(layout, index)
        """Objects in use by the slab's own count."""
        self.first: U64 = _first(layout, index)
        """Address of the first slot (``s_mem``)."""
        self.loose: Bools = self._loose(walks, heads)
        """Which slabs are on no list, and not because a list has lost them."""
        order = self._of_cache("gfporder").astype(np.int64)
        index.settle(np.where(self._owner >= 0, order, -1))
        self.detached: Bools = (
            self.loose
            & (self.active == 0)
            & ((self._of_cache("flags") & np.uint64(_TYPESAFE_BY_RCU)) != 0)
        )
        """Which slabs wait for RCU to give back their pages."""
        self.index_array: U64 = self._off_slab_arrays(machine)
        """Address of each slab's index array, where kmalloc gave the memory; else 0."""

    def _of_cache(self, member: str) -> U64:
        # A member of the cache of each slab; 0 for slabs of no cache.
        if not len(self._caches):
            return np.zeros(len(self._owner), np.uint64)
        return np.where(self._owner >= 0, self._caches.rows[member][self._owner], np.uint64(0))

    def _loose(self, walks: Sequence[Walked], heads: U64) -> Bools:
        # list_del() poisons the links of a slab that is given back; a list on
        # the stack of other such slabs, a fresh page and RCU leave other things
        # there. The links of a slab that was lost still lead to its neighbours.
        index = self._index
        listed = (index.known_by & np.uint8(KnownBy.KFENCE)) != 0
        for walked in walks:
            listed[walked.rows] = True
        link = np.uint64(index.structure.offset("slab_list"))
        at = index.pages + link
        known = np.concatenate([at[listed | (self.active != 0)], heads])
        itself = index["slab_list.next"] == at
        loose: Bools = ~listed & (itself | ~np.isin(index["slab_list.next"], known))
        return loose & (itself | ~np.isin(index["slab_list.prev"], known))

    def homes(self, addresses: U64) -> I64:
        """Return the cache whose object begins at each address; else -1."""
        rows = self._index.rows_of_addresses(addresses)
        if not len(self._owner) or not len(self._caches):
            return np.full(len(addresses), -1, np.int64)
        base = self.first
        if self._caches.rows.structure.has("obj_offset"):
            base = base + self._of_cache("obj_offset")
        offset = addresses - base[rows]
        stride = np.maximum(self._of_cache("size")[rows], np.uint64(1))
        good = (offset % stride == 0) & (offset // stride < self._of_cache("num")[rows])
        good &= rows >= 0
        return np.where(good, self._owner[rows], -1)

    def _off_slab_arrays(self, machine: Machine) -> U64:
        pointer = self._index["freelist"]
        wanted = ((self._of_cache("flags") & np.uint64(_OFF_SLAB)) != 0) & ~self.detached
        home = self.homes(pointer)
        size = self._of_cache("freelist_size")
        good = wanted & (home >= 0)
        if len(self._caches):
            good &= self._caches.rows["object_size"][home] >= size
            good &= self._gives_arrays(machine, home)
        good |= wanted & self._pool.contains(pointer)
        large = size > np.uint64(_LARGE_KMALLOC_PAGES * self._memory.page_size)
        good |= wanted & large & self._memory.is_kernel_address(pointer)
        return np.where(good, pointer, np.uint64(0))

    def _gives_arrays(self, machine: Machine, home: I64) -> Bools:
        # Before Linux kernel commit e36ce448a08d ("mm/slab: use kmalloc() for
        # on-slab freelist") (in v6.1), a cache names the one its arrays are from.
        if self._caches.rows.structure.has("freelist_cache"):
            return self._caches.addresses[home] == self._of_cache("freelist_cache")
        try:
            kmalloc = machine.prog["kmalloc_caches"]
        except LookupError:
            return np.ones(len(home), np.bool_)
        start = np.array([kmalloc.address_], np.uint64)
        gathered = self._memory.gather(start, sizeof(kmalloc))
        pointers = gathered.bytes.view(self._memory.word)[0].astype(np.uint64)
        return np.isin(self._caches.addresses[home], pointers)


def _packed(layout: PageTypeLayout, index: SlabIndex) -> I64:
    assert layout.packed is not None
    source = index.machine.memory
    at = layout.packed.offset
    cut = np.ascontiguousarray(index.raw[:, at : at + 4])
    return cut.view(f"{source.byteorder}u4")[:, 0].astype(np.int64)


def _active(layout: PageTypeLayout, index: SlabIndex) -> I64:
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
