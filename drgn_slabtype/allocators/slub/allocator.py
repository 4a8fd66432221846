# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLUB (Linux 5.10 on)
--------------------

A slab's free objects form a chain from ``slab->freelist``; ``inuse`` counts
the objects that are not on it, wherever else they may be.
"""

from __future__ import annotations

from functools import cache, cached_property, partial
from itertools import chain
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ...index import KnownBy, SlabIndex
from ...ledger import (
    I64,
    U64,
    Containers,
    Ledger,
    ListKind,
    Place,
    Suspect,
    Walk,
    Zone,
)
from ...machine import Machine
from ...machine.activities import SLUB_CPU_SLABS
from ...machine.kfence import kfence_pool
from ...regions import Declaration
from ...rules.members import judge_pointers, judge_slub
from ..ahead import shares
from ..base import Fits, Ownership, decide_ownership
from ..caches import Caches, cache_pointers, read_caches
from ..common import ByOthers
from ..destroyed import note_destroyed
from ..lists import Walked, find_emptied
from ..live import LIVE, LiveObjects
from ..members import at_member
from ..nodes import lists_by_cache, memberships, node_pointers, own_nodes, read_nodes
from ..quarantine import QUARANTINE, read_quarantine
from ..sequences import Orders
from ..shadowed import shadow_zones
from .asked import DebugTraits, debug_traits
from .barns import barn_pointers
from .cache import SlubCache, slab_flags, slub_members
from .cpufreelists import enter_cpu_freelists
from .cpuslabs import read_cpu_slabs
from .debug import ContentReader
from .deferred import read_deferred
from .fit import object_homes, settled_orders, slab_fits
from .freelists import FreelistReader
from .freepointers import FreePointers, read_free_pointers, words_needed
from .lost import adopt_misnamed, find_unmarked, shortages
from .regions import declarations
from .sheafobjects import enter_sheaves
from .sheaves import read_sheaves, sheaves_of, sound_sheaves_in
from .table import enter_counters, excuse_slabs, misfits, note_failed, read_slabs
from .traits import Traits, find_traits, sampled_traits
from .unfollowed import damaged_member
from .usedpointers import used_pointers

PLACES = (
    Place("freelist", counted=False, bad="freelist-pointer", repeat="freelist-cycle"),
    Place(
        "cpu freelist",
        counted=True,
        per_cpu=True,
        bad="freelist-pointer",
        repeat="freelist-cycle",
        activity=SLUB_CPU_SLABS,
    ),
    Place("main sheaf", counted=True, per_cpu=True),
    Place("spare sheaf", counted=True, per_cpu=True),
    Place("rcu_free sheaf", counted=True, per_cpu=True),
    Place("full barn", counted=True),
    Place("empty barn", counted=True),
    Place("deferred", counted=True, per_cpu=True),
    Place("deferred by rcu", counted=True, per_cpu=True),
    QUARANTINE,
    LIVE,
)
_PLACE = {place.name: number for number, place in enumerate(PLACES)}


class SlubAllocator:
    """
    The SLUB allocator of one machine.

    :param caches: All caches; of those that are chosen, nodes, CPUs and places are read.
    """

    name = "SLUB"

    def __init__(self, machine: Machine, caches: Caches) -> None:
        self.machine = machine
        self.caches = caches
        self.pool = machine.settled(kfence_pool)
        self.nodes = read_nodes(machine, caches)
        self.cpu_slabs = read_cpu_slabs(machine, caches)
        self.sheaves = read_sheaves(machine, caches, self.nodes)
        self.deferred = read_deferred(machine)
        self.quarantine = machine.settled(read_quarantine)
        self.traits = Traits()
        self._knows_traits = False
        self.ownership = Ownership(np.zeros(0, np.int64), np.zeros(0, np.int64))
        flags, cpus = slab_flags(machine), len(machine.cpus)
        self._cache = cache(partial(SlubCache, caches, flags=flags, cpus=cpus))
        self._walks: List[Walked] = []
        self._lists: Dict[int, List[Walked]] = {}
        self._live = LiveObjects([])
        objects, sizes = (caches.rows[name].astype(np.int64) for name in ("oo.x", "size"))
        self._orders = Orders(self, objects & 0xFFFF, np.maximum(sizes, 1))
        self._others: Optional[ByOthers] = ByOthers(machine, caches)
        self._ahead: Optional[FreePointers] = None

    @cached_property
    def debug(self) -> DebugTraits:
        """What debugging does alike in all caches."""
        return self.machine.settled(debug_traits)

    # All chosen caches ---------------------------------------------------------

    def discover(self, index: SlabIndex) -> None:
        """Find out where slabs stand; see :meth:`.base.Allocator.discover`."""
        index.known_by[self.pool.contains(index.addresses)] |= np.uint8(KnownBy.KFENCE)
        kinds = {"partial": ListKind.PARTIAL}
        # Without CONFIG_SLUB_DEBUG there is no list of full slabs.
        if self.nodes.rows.structure.has("full"):
            kinds["full"] = ListKind.FULL
        if index.whole:
            self._walks = find_emptied(index, self.nodes.walk(index, kinds))
        else:
            self._walks = self.nodes.stand(index, kinds, _list_of)
        self._lists = lists_by_cache(self._walks)
        held = []
        if self.cpu_slabs is not None:
            self.cpu_slabs.locate(index, self.caches, self._fits(index))
            held = self.cpu_slabs.owners()
        self._decide(index, held)
        index.settle(settled_orders(index, self.caches, self.ownership.cache))
        if index.whole and not self._knows_traits:
            partial = [w.rows for w in self._walks if w.head.kind is ListKind.PARTIAL]
            rows = np.concatenate([*partial, np.zeros(0, np.int64)])
            self.traits = find_traits(index, self.caches, self.ownership.cache, rows)
        elif not self._knows_traits:
            self.traits = self.machine.settled(sampled_traits)
        self._live = LiveObjects(self._own_structures(index))
        self._live.locate(index, self.ownership.cache)
        self.deferred.locate(index, self.ownership.cache)
        self.quarantine.locate(index, self.caches, self.ownership.cache)

    def believe(self, other: SlubAllocator) -> None:
        """Take over how slabs are made; see :meth:`.base.Allocator.believe`."""
        self.traits, self._knows_traits = other.traits, True
        self._others = None

    def _fits(self, index: SlabIndex) -> Fits:
        return lambda rows, numbers: slab_fits(index, self.caches, rows, numbers)

    def _decide(self, index: SlabIndex, held: Sequence[Tuple[int, int]]) -> None:
        # Which cache each slab belongs to, with what nothing leads to.
        fits = self._fits(index)
        self.ownership = decide_ownership(index, self.caches, self._walks, held, fits)
        short = shortages(index, self.nodes, self.ownership) if index.mapped else []
        if short:
            if find_unmarked(index, self.caches, short):
                self.ownership = decide_ownership(index, self.caches, self._walks, held, fits)
                short = shortages(index, self.nodes, self.ownership)
            adopt_misnamed(index, self.caches, self.ownership, short)

    def _own_structures(self, index: SlabIndex) -> List[U64]:
        own = [self.caches.addresses, own_nodes(self.machine, self.caches)]
        if self.caches.rows.structure.has("random_seq"):
            orders = self.caches.rows["random_seq"]
            own.append(orders[orders % np.uint64(self.machine.memory.word_size) == 0])
        if self.sheaves is None:
            return own
        if index.whole:
            return [*own, self.sheaves.barns, self.sheaves.sound]
        barns = self.machine.settled(every_barn)
        return [*own, barns, sound_sheaves_in(index, self.caches)]

    def homes(self, index: SlabIndex, addresses: U64) -> I64:
        """Return the cache whose object begins at each address; else -1."""
        return object_homes(index, self.caches, self.ownership.cache, addresses)

    def unreadable(self, number: int) -> List[str]:
        """Return what could not be read; see :meth:`.base.Allocator.unreadable`."""
        lost = self.nodes.unreadable(number)
        lost += [] if self.sheaves is None else self.sheaves.lost.get(number, [])
        return lost + (self.cpu_slabs.unreadable(number) if self.cpu_slabs is not None else [])

    def elsewhere(self) -> List[Suspect]:
        """Return the damage that is in no cache; see :meth:`.base.Allocator.elsewhere`."""
        return [*self.deferred.suspects, *self.quarantine.suspects()]

    def regions(self, index: SlabIndex) -> Iterator[Declaration]:
        """Declare what is read; see :meth:`.base.Allocator.regions`."""
        return declarations(self, index)

    # One cache -----------------------------------------------------------------

    def read_ahead(
        self, numbers: Sequence[int], index: SlabIndex, jobs: int
    ) -> Iterator[Sequence[int]]:
        """Read what lists of free objects are made of; see :meth:`.base.Allocator.read_ahead`."""
        held = index["freelist"] != 0
        if self.cpu_slabs is not None:
            held[self.cpu_slabs.with_freelist] = True
        of = (index, self.caches, self.ownership.cache, held)
        for share in shares(numbers, words_needed(*of)):
            self._ahead = None  # before there is more
            self._ahead = read_free_pointers(*of, [self._cache(one) for one in share.ahead], jobs)
            yield share.numbers
        self._ahead = None

    def collect(self, number: int, index: SlabIndex, about: Optional[range] = None) -> Ledger:
        """Read everything about one cache; see :meth:`.base.Allocator.collect`."""
        cache = self._cache(number)
        cache.facts.idle_word = self.traits.word
        rows, era = self.ownership.rows_of(number), self.traits.era
        slabs = read_slabs(index, self.caches, cache, rows, self.ownership, era, self.nodes)
        ledger = Ledger(cache.facts, PLACES, slabs)
        found = [
            *judge_pointers(cache_pointers(self.machine.memory, self.caches, number)),
            *judge_slub(slub_members(self.caches, cache, self.machine.memory.word_size)),
            *misfits(index, cache, rows, slabs),
            *self._orders.judge(number, cache.facts.objects_per_slab, index),
        ]
        ledger.suspects += at_member(self.caches.rows, number, found)
        if self._others is not None:
            ledger.suspects += self._others.of(cache.number, index.whole)
        memberships(self._lists.get(number, ()), rows, index, ledger)
        self.nodes.enter_lost(self.machine, number, ledger)
        self.nodes.enter_locks(number, ledger)
        if self.cpu_slabs is not None:
            self.cpu_slabs.enter(number, rows, index, ledger)
        heads, taken = index["freelist"][rows], self.cpu_slabs is not None
        excuse_slabs(ledger, cache, era, self.nodes, heads, taken)
        note_failed(ledger, cache, index["frozen"][rows] != 0, heads)
        self._freelists(cache, rows, index, ledger, about)
        sheaves = sheaves_of(self.machine, self.caches, number, self.sheaves)
        if sheaves is not None:
            owner = self.ownership.cache
            enter_sheaves(sheaves, self.caches, number, rows, index, owner, ledger, _PLACE)
        self.deferred.enter(cache, rows, index, ledger, _PLACE)
        self.quarantine.enter(number, rows, index, ledger, _PLACE[QUARANTINE.name])
        self._live.enter(number, rows, index, ledger, _PLACE[LIVE.name])
        if index.whole:
            enter_counters(ledger, cache, self.nodes, taken)
        note_destroyed(ledger, self.caches, number)
        if about is None:
            ledger.zones = _promised(self, cache, ledger)
        return ledger

    def _freelists(
        self, cache: SlubCache, rows: I64, index: SlabIndex, ledger: Ledger, about: Optional[range]
    ) -> None:
        slabs = ledger.slabs
        ahead = None if self._ahead is None else self._ahead.at(rows)
        of = (self.machine.memory, cache, self.traits.encoding)
        reader = FreelistReader(*of, about, ahead)
        own = Containers.build(
            len(rows),
            place=_PLACE["freelist"],
            address=slabs.page,
            slab=np.arange(len(rows), dtype=np.int64),
            counted=slabs.objects - slabs.counted,
            limit=slabs.objects,
            walked=0,
            state=Walk.WHOLE,
            busy=slabs.fresh,
        )
        heads = index["freelist"][rows]
        reader.enter(ledger, own, heads, index.structure.offset("freelist"))
        if self.cpu_slabs is not None:
            theirs, first = enter_cpu_freelists(
                self.cpu_slabs, reader, cache, rows, index, ledger, _PLACE
            )
            own, heads = Containers.join([own, theirs]), np.concatenate([heads, first])
        # What free objects show comes before what two members say of each other.
        ledger.suspects[:0] = damaged_member(self.caches.rows, *of, ledger, own, heads)


def every_barn(machine: Machine) -> U64:
    """Return the barns of all caches, chosen or not."""
    caches = machine.settled(read_caches)
    return barn_pointers(machine, caches, read_nodes(machine, caches, every=True), True)[2]


def _list_of(index: SlabIndex) -> I64:
    # Which list of its node each slab stands on, if it is on one.
    full = (index["freelist"] == 0) & (index["inuse"] == index["objects"])
    return np.where(full, ListKind.FULL, ListKind.PARTIAL).astype(np.int64)


def _promised(allocator: SlubAllocator, cache: SlubCache, ledger: Ledger) -> Iterator[Zone]:
    # The bytes that debugging and KASAN promise.
    machine, caches = allocator.machine, allocator.caches
    by_kasan = shadow_zones(machine, ledger, cache.typesafe_by_rcu)
    if not cache.debug:
        return by_kasan
    nodes = node_pointers(machine, caches, "node", True)[2]
    reader = ContentReader(machine, cache, allocator.debug, ledger, nodes)
    ledger.suspects += reader.suspects()
    pointers = used_pointers(machine, cache, ledger, allocator.traits.encoding, nodes)
    return chain(reader.zones(), pointers, by_kasan)
