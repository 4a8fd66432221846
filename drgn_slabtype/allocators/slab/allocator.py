# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB (to Linux 6.7)
-------------------

Slabs stand on three lists of their node, by how many of their objects are in
use; free objects are in a slab's own freelist or in an array cache.
"""

from __future__ import annotations

from functools import cache, cached_property, partial
from itertools import chain
from typing import Dict, Iterator, List, Optional, Sequence

import numpy as np

from ...index import KnownBy, SlabIndex
from ...ledger import I64, U64, Ledger, ListKind, Suspect
from ...machine import Machine
from ...machine.kfence import kfence_pool
from ...regions import Declaration
from ...rules.members import Tuning, judge_pointers, judge_slab, judge_tuning
from ..ahead import shares
from ..base import Ownership, decide_ownership
from ..caches import Caches, cache_pointers, same_cache
from ..common import ByOthers
from ..destroyed import note_destroyed
from ..lists import Walked, find_emptied
from ..live import LIVE, LiveObjects
from ..members import at_member
from ..nodes import lists_by_cache, memberships, node_pointers, read_nodes
from ..percpu import per_cpu_structures
from ..quarantine import QUARANTINE, read_quarantine
from ..sequences import Orders
from ..shadowed import shadow_zones
from . import arrays, freelists, tuning
from .cache import Mode, SlabCache, freelist_cache, slab_members
from .counts import Counts
from .debug import DebugReader
from .entries import Entries
from .flushes import mark_flushes
from .indexahead import ReadArrays, read_index_arrays, words_needed
from .indexes import IndexArrays, right_places
from .missing import Missing, missing_arrays
from .offslab import add_hosts, off_slab_arrays
from .regions import declarations
from .state import allowed_lists
from .table import enter_counters, misfits, node_misfits, note_detached, read_slabs
from .view import SlabView, slab_counts

PLACES = (freelists.PLACE, *arrays.PLACES, QUARANTINE, LIVE)
_PLACE = {place.name: number for number, place in enumerate(PLACES)}
_ARRAYS = _PLACE[arrays.PLACES[0].name]

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
        self.pool = machine.settled(kfence_pool)
        self.nodes = read_nodes(machine, caches)
        word = self.memory.word_size
        self.per_cpu = per_cpu_structures(
            machine, caches, "cpu_cache", "struct array_cache", word, caches.listed
        )
        self.aliens = arrays.read_alien_tables(machine, self.nodes)
        self.arrays = arrays.read_arrays(machine, self.per_cpu, self.nodes, self.aliens)
        limits, batches = (caches.rows[name].astype(np.int64) for name in ("limit", "batchcount"))
        self.tuned = tuning.judge_arrays(self.arrays, limits, batches)
        self.entries = Entries(machine, self.arrays, self.tuned)
        self.ownership = Ownership(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self.quarantine = machine.settled(read_quarantine)
        self._cpus = len(machine.cpus)
        self._walks: List[Walked] = []
        self._lists: Dict[int, List[Walked]] = {}
        self._live = LiveObjects([])
        objects = caches.rows["num"].astype(np.int64)
        self._orders = Orders(self, objects, np.ones_like(objects))
        self._others: Optional[ByOthers] = ByOthers(machine, caches)
        of = partial(SlabCache, caches, page_size=machine.memory.page_size, cpus=self._cpus)
        self._cache = cache(of)
        self._ahead: Optional[ReadArrays] = None

    def discover(self, index: SlabIndex) -> None:
        """Find out where slabs stand; see :meth:`.base.Allocator.discover`."""
        index.known_by[self.pool.contains(index.addresses)] |= np.uint8(KnownBy.KFENCE)
        if index.whole:
            self._walks = find_emptied(index, self.nodes.walk(index, _LISTS))
            self.entries.locate(index, self.caches)
        else:
            self._walks = self.nodes.stand(index, _LISTS, self._list_of)
            add_hosts(index, self.caches)
        self._lists = lists_by_cache(self._walks)
        self.ownership = decide_ownership(index, self.caches, self._walks, ())
        self.view = SlabView(index, self.caches, self.ownership.cache, self._walks)
        index.settle(self.view.orders)
        self.off_slab = off_slab_arrays(
            self.machine, self.caches, self.view, index["freelist"], self.pool
        )
        self._live = self._own_structures(index)
        self._live.locate(index, self.ownership.cache)
        self.quarantine.locate(index, self.caches, self.ownership.cache)

    def believe(self, other: SlabAllocator) -> None:
        """Ask no other caches; see :meth:`.base.Allocator.believe`."""
        self._others, self._missing, self._of_nodes = None, {}, other._of_nodes

    def _list_of(self, index: SlabIndex) -> I64:
        # Which list of its node each slab stands on, if it is on one.
        owner = same_cache(index["slab_cache"], self.caches)
        num = self.caches.rows["num"].astype(np.int64)[owner]
        return allowed_lists(slab_counts(index), num)

    def _own_structures(self, index: SlabIndex) -> LiveObjects:
        nodes = node_pointers(self.machine, self.caches, "node", every=True)[2]
        own = [self.caches.addresses, nodes, self.off_slab]
        if self.caches.rows.structure.has("random_seq"):
            own.append(self.caches.rows["random_seq"])
        own.append(self._of_nodes)
        return LiveObjects([each[self.view.homes(each) >= 0] for each in own])

    @cached_property
    def _of_nodes(self) -> U64:
        # Arrays that nodes point to, of all caches.
        if not self.caches.chosen.all():
            return self.machine.settled(arrays.structures_of_nodes)
        of_nodes = self.arrays.pointer[self.arrays.kind != arrays.CPU]
        return np.concatenate([of_nodes, self.aliens.address])

    def homes(self, index: SlabIndex, addresses: U64) -> I64:
        """Return the cache whose object begins at each address; else -1."""
        return self.view.homes(addresses)

    def unreadable(self, number: int) -> List[str]:
        """Return what could not be read; see :meth:`.base.Allocator.unreadable`."""
        return self.nodes.unreadable(number)

    def elsewhere(self) -> List[Suspect]:
        """Return the damage that is in no cache; see :meth:`.base.Allocator.elsewhere`."""
        return [*self.quarantine.suspects(), *self.entries.suspects]

    def regions(self, index: SlabIndex) -> Iterator[Declaration]:
        """Declare what is read; see :meth:`.base.Allocator.regions`."""
        return declarations(self, index)

    # One cache ---------------------------------------------------------------

    def read_ahead(
        self, numbers: Sequence[int], index: SlabIndex, jobs: int
    ) -> Iterator[Sequence[int]]:
        """Read index arrays; see :meth:`.base.Allocator.read_ahead`."""
        caches = [self._cache(one) for one in range(len(self.caches))]
        of = (index, self.ownership.cache)
        for share in shares(numbers, words_needed(*of, caches)):
            self._ahead = None  # before there is more
            self._ahead = read_index_arrays(*of, [caches[one] for one in share.ahead], jobs)
            yield share.numbers
        self._ahead = None

    def collect(self, number: int, index: SlabIndex, about: Optional[range] = None) -> Ledger:
        """Read everything about one cache; see :meth:`.base.Allocator.collect`."""
        cache = self._cache(number)
        rows = self.ownership.rows_of(number)
        slabs = read_slabs(self.view, index, cache, rows, self.ownership, self.nodes)
        ledger = Ledger(cache.facts, PLACES, slabs)
        memberships(self._lists.get(number, ()), rows, index, ledger)
        self._members(cache, ledger, index)
        ledger.suspects += misfits(self.view, index, cache, rows)
        if index.whole:
            enter_counters(ledger, cache, self.nodes)
        self.nodes.enter_lost(self.machine, number, ledger)
        self.nodes.enter_locks(number, ledger)
        ledger.suspects += node_misfits(cache, self.nodes)
        note_detached(ledger)
        self._arrays(cache, rows, index, ledger)
        self.quarantine.enter(number, rows, index, ledger, _PLACE[QUARANTINE.name])
        self._live.enter(number, rows, index, ledger, _PLACE[LIVE.name])
        if about is not None:
            # Index arrays lead to no address.
            return ledger
        self._freelists(cache, rows, index, ledger)
        mark_flushes(self.memory, self.arrays, number, ledger, self.entries.of_two_caches(cache))
        note_destroyed(ledger, self.caches, number)
        if cache.debug:
            freelist = index["freelist"][rows]
            reader = DebugReader(self.machine, cache, ledger, freelist)
            ledger.suspects += reader.suspects()
            ledger.zones = reader.zones()
        by_kasan = shadow_zones(self.machine, ledger, cache.typesafe_by_rcu)
        ledger.zones = chain(ledger.zones, by_kasan)
        return ledger

    @cached_property
    def _missing(self) -> Missing:
        return self.machine.settled(missing_arrays)

    def _members(self, cache: SlabCache, ledger: Ledger, index: SlabIndex) -> None:
        index_size = self.machine.structure("freelist_idx_t").size
        members = slab_members(self.caches, cache, self.memory.page_size, index_size)
        pointers = cache_pointers(self.memory, self.caches, cache.number)
        found = [
            *judge_pointers(pointers),
            *judge_slab(members),
            *judge_pointers(freelist_cache(self.caches, cache)),
            *self._orders.judge(cache.number, cache.num, index),
        ]
        ledger.suspects += at_member(self.caches.rows, cache.number, found)
        if self._others is not None:
            ledger.suspects += self._others.of(cache.number, index.whole)

    def _arrays(self, cache: SlabCache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        mine = self.arrays.rows_of(cache.number)
        own = Tuning(cache.limit, cache.batchcount)
        ledger.suspects += self.per_cpu.suspects(cache.number, arrays.PLACES[arrays.CPU].name)
        agreed = tuning.common_tuning(self.arrays, mine)
        mistuned = judge_tuning(own, agreed)
        ledger.suspects += at_member(self.caches.rows, cache.number, mistuned)
        shared = int(self.caches.rows["shared"][cache.number])
        limit = self.machine.structure("struct array_cache").offset("limit")
        if agreed is not None:
            of = (self.arrays, self.tuned, mine)
            untuned = tuning.untuned_arrays(*of, shared, own, agreed, limit)
            ledger.suspects += at_member(self.caches.rows, cache.number, untuned)
            batch, own_nodes = agreed.batchcount, (self.nodes, cache.number)
            ledger.suspects += tuning.wrong_limits(*own_nodes, cache.num, batch, self._cpus)
        ledger.suspects += tuning.lost_arrays(self.arrays, mine)
        ledger.suspects += self.aliens.suspects(cache.number)
        ledger.suspects += self._missing.get(cache.facts.address, [])
        ledger.suspects += [one for at, one in self.arrays.locks if at == cache.number]
        ledger.suspects += tuning.unsound_arrays(self.arrays, self.tuned, mine)
        self.entries.enter(cache, rows, index, ledger, _ARRAYS)

    def _freelists(self, cache: SlabCache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        slabs, pointer, off_slab = ledger.slabs, index["freelist"][rows], self.off_slab[rows]
        in_place = right_places(cache, pointer, index.addresses[rows], slabs.base, off_slab != 0)
        ahead = None if self._ahead is None else self._ahead.at(rows)
        found = IndexArrays(self.machine, cache, slabs, pointer, in_place, ahead)
        counts = Counts(cache, ledger, found)
        if cache.mode is Mode.OFF_SLAB:
            unsound = counts.doubtful(slabs.counted)
            ledger.suspects += freelists.suspect_shared(pointer, off_slab, unsound)
        believed = counts.believed()
        tails = found.tails(believed)
        # A slab on no list can be one that is just being made.
        loose = self.view.loose[rows]
        slabs.fresh |= loose & (np.count_nonzero(loose) <= cache.facts.in_flight)
        busy = freelists.half_written(found, tails, slabs)
        ledger.suspects += freelists.suspect_counts(ledger, believed)
        ledger.suspects += freelists.suspect_arrays(found, tails, busy)
        freelists.enter_freelists(cache, ledger, found, tails, busy, _PLACE[freelists.PLACE.name])
