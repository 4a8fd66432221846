# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB (to Linux 6.7)
-------------------

Slabs stand on three lists of their node, by how many of their objects are in
use; free objects are in a slab's own freelist or in an array cache.
"""

from __future__ import annotations

from typing import List

import numpy as np

from ...index import KnownBy, SlabIndex
from ...ledger import I64, Ledger, ListKind, Memberships, Place, Slabs, Suspect
from ...machine import Machine
from ...machine.kfence import kfence_pool
from ..base import Ownership, decide_ownership
from ..cachefit import judge_slab
from ..caches import Caches
from ..lists import Walked, find_emptied
from ..live import LIVE, LiveObjects
from ..nodes import memberships, read_nodes
from . import arrays as slabarrays
from .arrays import ArrayCaches
from .cache import Mode, SlabCache
from .debug import DebugReader
from .indexes import IndexArrays, allowed_lists, right_places, shared_arrays
from .view import SlabView

PLACES = (
    Place("freelist", counted=False, bad="freelist-index", repeat="freelist-duplicate"),
    *slabarrays.PLACES,
    LIVE,
)
_PLACE = {place.name: number for number, place in enumerate(PLACES)}
_ARRAYS = _PLACE[slabarrays.PLACES[0].name]

_LISTS = {
    "slabs_partial": ListKind.PARTIAL,
    "slabs_full": ListKind.FULL,
    "slabs_free": ListKind.FREE,
}


class SlabAllocator:
    """The SLAB allocator of one program."""

    name = "SLAB"

    def __init__(self, machine: Machine, caches: Caches) -> None:
        self.machine = machine
        self.memory = machine.memory
        self.caches = caches
        self.pool = kfence_pool(machine)
        self.nodes = read_nodes(machine, self.caches)
        self.arrays = ArrayCaches(machine, self.caches, self.nodes)
        self.ownership = Ownership(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._cpus = len(machine.cpus)
        self._walks: List[Walked] = []
        self._live = LiveObjects([])

    def discover(self, index: SlabIndex) -> None:
        """Walk every node's lists; see :meth:`.base.Allocator.discover`."""
        index.known_by[self.pool.contains(index.addresses)] |= np.uint8(KnownBy.KFENCE)
        self._walks = find_emptied(index, self.nodes.walk(index, _LISTS))
        self.arrays.locate(self.machine, index, self.caches)
        self.ownership = decide_ownership(index, self.caches, self._walks, ())
        heads = np.array([walked.head.address for walked in self._walks], np.uint64)
        self.view = SlabView(
            self.machine, index, self.caches, self.ownership, self._walks, heads, self.pool
        )
        own = [self.caches.addresses, self.nodes.rows.addresses, *self.arrays.addresses]
        if self.caches.rows.structure.has("random_seq"):
            own.append(self.caches.rows["random_seq"])
        own.append(self.view.index_array)
        self._live = LiveObjects([each[self.view.homes(each) >= 0] for each in own])
        self._live.locate(index, self.ownership.cache)

    def unreadable(self, number: int) -> List[str]:
        """Return what could not be read; see :meth:`.base.Allocator.unreadable`."""
        return self.nodes.unreadable(number)

    def elsewhere(self) -> List[Suspect]:
        """Return nothing; see :meth:`.base.Allocator.elsewhere`."""
        return []

    # One cache ---------------------------------------------------------------

    def collect(self, number: int, index: SlabIndex) -> Ledger:
        """Read everything about one cache; see :meth:`.base.Allocator.collect`."""
        cache = SlabCache(self.caches, number, self.memory.page_size, self._cpus)
        rows = self.ownership.rows_of(number)
        ledger = Ledger(cache.facts, PLACES, self._slabs(cache, rows, index))
        memberships(self._walks, number, rows, index, ledger)
        ledger.suspects += judge_slab(self.machine, self.caches, cache)
        self._geometry(cache, rows, index, ledger)
        self._nodes(cache, ledger)
        detached = np.count_nonzero(ledger.slabs.excused)
        if detached:
            what = f"{detached} empty slabs wait on no list for RCU to give back their pages"
            ledger.notes.append(Suspect("slab-detached", what))
        self.arrays.enter(cache, rows, index, ledger, _ARRAYS)
        self._live.enter(number, rows, index, ledger, _PLACE[LIVE.name])
        self._freelists(cache, rows, index, ledger)
        self.arrays.mark_flushes(cache, ledger, 0)
        if cache.debug:
            freelist = index["freelist"][rows]
            ledger.zones = DebugReader(self.machine, cache, ledger, freelist).zones()
        return ledger

    def _slabs(self, cache: SlabCache, rows: I64, index: SlabIndex) -> Slabs:
        active, loose = self.view.active[rows], self.view.loose[rows]
        # A slab is made, and filled into the array of its CPU, before it is
        # linked, and unlinked before its pages are given back.
        making = loose & (active >= 0) & (active <= min(max(cache.batchcount, 1), cache.num))
        held = self.nodes.nid[(self.nodes.cache == cache.number) & self.nodes.held]
        return Slabs.build(
            len(rows),
            page=index.pages[rows],
            base=self.view.first[rows] + np.uint64(cache.obj_offset),
            objects=np.full(len(rows), cache.num, np.int64),
            counted=active,
            nid=index.nids[rows],
            order=cache.order,
            readable=cache.order,
            word=index.words[rows].astype(np.int64),
            marked=index.marked[rows],
            cache_pointer=index["slab_cache"][rows],
            told=self.ownership.told[rows] == cache.number,
            allowed=allowed_lists(active, cache.num),
            transit=making,
            busy=np.isin(index.nids[rows], held),
            excused=self.view.detached[rows],
        )

    def _freelists(self, cache: SlabCache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        slabs, pointer = ledger.slabs, index["freelist"][rows]
        off_slab = self.view.index_array[rows]
        in_place = right_places(cache, pointer, index.addresses[rows], slabs.base, off_slab != 0)
        arrays = IndexArrays(self.machine, cache, ledger, pointer, in_place, self.view.loose[rows])
        if cache.mode is Mode.OFF_SLAB:
            for slab in shared_arrays(off_slab, arrays.unsound()):
                ledger.suspects.append(
                    Suspect(
                        "freelist-array",
                        f"shares its freelist array at 0x{pointer[slab]:x} with another slab",
                        slab=slab,
                        place=PLACES[0].name,
                        found=int(pointer[slab]),
                    )
                )
        arrays.enter(0)

    def _nodes(self, cache: SlabCache, ledger: Ledger) -> None:
        members, slabs = ledger.memberships, ledger.slabs
        free = slabs.objects - slabs.counted

        def on_lists(nid: int) -> Memberships:
            return members.take((members.owner == nid) & (members.slab >= 0))

        ledger.counters += self.nodes.counters(
            cache.number,
            {
                "total_slabs": ("node-list-length", lambda nid: len(on_lists(nid))),
                "free_slabs": (
                    "node-list-length",
                    lambda nid: int((on_lists(nid).kind == ListKind.FREE).sum()),
                ),
                "free_objects": (
                    "node-free-objects",
                    lambda nid: int(free[on_lists(nid).slab].sum()),
                ),
            },
        )
        self.nodes.enter_lost(cache.number, ledger)
        self.nodes.enter_locks(cache.number, ledger)

    def _geometry(self, cache: SlabCache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        orders, first = index.orders[rows], self.view.first[rows]
        colour = first - index.addresses[rows]
        off_colour = colour % np.uint64(cache.colour_off) != 0
        off_colour |= colour >= np.uint64(cache.colours * cache.colour_off)
        for code, what, wrong, expected, found in (
            (
                "slab-base-wrong",
                "first object is on no colour of this cache",
                off_colour,
                index.addresses[rows],
                first,
            ),
            (
                "slab-order-wrong",
                "compound order is not the cache's",
                orders != cache.order,
                np.full(len(rows), cache.order),
                orders,
            ),
        ):
            ledger.suspects += [
                Suspect(code, what, slab=slab, expected=int(expected[slab]), found=int(found[slab]))
                for slab in np.flatnonzero(wrong).tolist()
            ]
