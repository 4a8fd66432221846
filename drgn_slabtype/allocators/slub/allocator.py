# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLUB (Linux 5.10 on)
--------------------

A slab's free objects form a chain from ``slab->freelist``; ``inuse`` counts
the objects that are not on it, wherever else they may be.
"""

from __future__ import annotations

from typing import Dict, List, Optional

import numpy as np
import numpy.typing as npt

from ...index import KnownBy, SlabIndex
from ...ledger import (
    I64,
    U64,
    Bools,
    Containers,
    Ledger,
    ListKind,
    Place,
    Slabs,
    Suspect,
    Walk,
)
from ...machine import Machine
from ...machine.kfence import kfence_pool
from ..base import Ownership, decide_ownership
from ..cachefit import judge_slub
from ..caches import Caches
from ..lists import Walked, find_emptied
from ..live import LIVE, LiveObjects
from ..nodes import memberships, read_nodes
from .cache import SlubCache, slab_flags
from .cpuslabs import read_cpu_slabs
from .debug import ContentReader
from .deferred import read_deferred
from .fit import MAX_OBJECTS, readable_orders, slab_fits, slab_orders
from .freelists import Encoding, FreelistReader, decode
from .lost import adopt_misnamed, find_unmarked, shortages
from .sheaves import read_sheaves
from .state import (
    Era,
    States,
    allowed_lists,
    detect_era,
    fitting_lists,
    in_transit,
    partial_mark,
)

PLACES = (
    Place("freelist", counted=False, bad="freelist-pointer", repeat="freelist-cycle"),
    Place(
        "cpu freelist",
        counted=True,
        per_cpu=True,
        bad="freelist-pointer",
        repeat="freelist-cycle",
    ),
    Place("main sheaf", counted=True, per_cpu=True),
    Place("spare sheaf", counted=True, per_cpu=True),
    Place("rcu_free sheaf", counted=True, per_cpu=True),
    Place("full barn", counted=True),
    Place("empty barn", counted=True),
    Place("deferred", counted=True, per_cpu=True),
    Place("deferred by rcu", counted=True, per_cpu=True),
    LIVE,
)
_PLACE = {place.name: number for number, place in enumerate(PLACES)}


class SlubAllocator:
    """The SLUB allocator of one program."""

    name = "SLUB"

    def __init__(self, machine: Machine, caches: Caches) -> None:
        self.machine = machine
        self.memory = machine.memory
        self.layout = machine.layout
        self.caches = caches
        self.pool = kfence_pool(machine)
        self.nodes = read_nodes(machine, self.caches)
        self.cpu_slabs = read_cpu_slabs(machine, self.caches)
        self.sheaves = read_sheaves(machine, self.caches, self.nodes)
        self.deferred = read_deferred(machine)
        self.cpus = len(machine.cpus)
        self.encoding = Encoding.PLAIN
        self.era = Era.UNKNOWN
        self.ownership = Ownership(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._flags = slab_flags(machine)
        self._mark = np.uint64(partial_mark(machine))
        self._locked = np.uint64(1 << int(machine.prog["PG_locked"]))
        self._word: Optional[int] = None
        self._walks: List[Walked] = []
        self._live = LiveObjects([])

    def discover(self, index: SlabIndex) -> None:
        """Walk all lists and CPUs; see :meth:`.base.Allocator.discover`."""
        index.known_by[self.pool.contains(index.addresses)] |= np.uint8(KnownBy.KFENCE)
        kinds = {"partial": ListKind.PARTIAL}
        # Without CONFIG_SLUB_DEBUG there is no list of full slabs.
        if self.nodes.rows.structure.has("full"):
            kinds["full"] = ListKind.FULL
        self._walks = find_emptied(index, self.nodes.walk(index, kinds))

        def fits(rows: I64, numbers: I64) -> Bools:
            return slab_fits(index, self.caches, rows, numbers)

        held = []
        if self.cpu_slabs is not None:
            self.cpu_slabs.locate(index, self.caches, fits)
            held = self.cpu_slabs.owners()
        self.ownership = decide_ownership(index, self.caches, self._walks, held, fits)
        short = shortages(index, self.nodes, self.ownership)
        if short:
            if find_unmarked(index, self.caches, short):
                self.ownership = decide_ownership(index, self.caches, self._walks, held, fits)
                short = shortages(index, self.nodes, self.ownership)
            adopt_misnamed(index, self.caches, self.ownership, short)
        index.settle(self._settled_orders(index))
        self._word = _most_common(index.words[self.ownership.cache >= 0])
        partial = [w.rows for w in self._walks if w.head.kind is ListKind.PARTIAL]
        self.era = detect_era(
            self.machine, index, np.concatenate([*partial, np.zeros(0, np.int64)])
        )
        self.encoding = self._detect_encoding(index)
        self._live = self._own_structures()
        self._live.locate(index, self.ownership.cache)
        self.deferred.locate(index, self.ownership.cache)

    def _settled_orders(self, index: SlabIndex) -> I64:
        # KFENCE's pages are slabs of one page each, pages of no cache are none.
        settled = np.where(index.known_by & np.uint8(KnownBy.KFENCE), 0, -1).astype(np.int64)
        owned = np.flatnonzero(self.ownership.cache >= 0)
        owner = self.ownership.cache[owned]
        orders = slab_orders(index, self.caches, owned, owner)
        settled[owned] = readable_orders(index, owned, orders)
        return settled

    def _own_structures(self) -> LiveObjects:
        own = [self.caches.addresses, self.nodes.rows.addresses]
        if self.caches.rows.structure.has("random_seq"):
            sequences = self.caches.rows["random_seq"]
            own.append(sequences[sequences % np.uint64(self.memory.word_size) == 0])
        if self.sheaves is not None:
            own += [self.sheaves.barns, self.sheaves.sound]
        return LiveObjects(own)

    def _detect_encoding(self, index: SlabIndex) -> Encoding:
        # The first stored pointer of many slabs: one bad pointer cannot decide.
        if not self.caches.rows.structure.has("random"):
            return Encoding.PLAIN
        votes = dict.fromkeys((Encoding.SWAPPED, Encoding.XOR), 0)
        rows = np.flatnonzero((self.ownership.cache >= 0) & (index["freelist"] != 0))[:2000]
        cache = self.ownership.cache[rows]
        where = index["freelist"][rows] + self.caches.rows["offset"][cache]
        gathered = self.memory.gather(where, self.memory.word_size)
        stored = gathered.bytes.view(self.memory.word)[:, 0].astype(np.uint64)
        start = index.addresses[rows]
        for encoding in votes:
            found = decode(encoding, stored, where, 0) ^ self.caches.rows["random"][cache]
            near = (found == 0) | (found - start < index.spans[rows])
            votes[encoding] = int((near & gathered.ok).sum())
        return max(votes, key=lambda encoding: votes[encoding])

    def unreadable(self, number: int) -> List[str]:
        """Return what could not be read; see :meth:`.base.Allocator.unreadable`."""
        lost = self.nodes.unreadable(number)
        return lost + (self.cpu_slabs.unreadable(number) if self.cpu_slabs is not None else [])

    def elsewhere(self) -> List[Suspect]:
        """Return the damage that is in no cache; see :meth:`.base.Allocator.elsewhere`."""
        return self.deferred.suspects

    # One cache ---------------------------------------------------------------

    def collect(self, number: int, index: SlabIndex) -> Ledger:
        """Read everything about one cache; see :meth:`.base.Allocator.collect`."""
        cache = SlubCache(self.caches, number, self._flags, self.cpus)
        cache.facts.idle_word = self._word
        rows = self.ownership.rows_of(number)
        ledger = Ledger(cache.facts, PLACES, self._slabs(cache, rows, index))
        ledger.suspects += judge_slub(self.machine, self.caches, cache)
        self._geometry(cache, rows, index, ledger)
        memberships(self._walks, number, rows, index, ledger)
        self.nodes.enter_lost(number, ledger)
        self.nodes.enter_locks(number, ledger)
        local = {row: i for i, row in enumerate(rows.tolist())}
        if self.cpu_slabs is not None:
            self.cpu_slabs.enter(number, local, index, ledger)
        self._let_new(cache, ledger, index["freelist"][rows])
        self._excuse(cache, ledger)
        self._freelists(cache, rows, index, ledger, local)
        if self.sheaves is not None:
            owner = self.ownership.cache
            self.sheaves.enter(number, rows, index, owner, ledger, _PLACE)
        self.deferred.enter(cache, rows, index, ledger, _PLACE)
        self._live.enter(number, rows, index, ledger, _PLACE[LIVE.name])
        self._counters(cache, ledger)
        if cache.debug:
            untracked = self.nodes.rows.addresses
            ledger.zones = ContentReader(self.machine, cache, ledger, untracked).zones()
        return ledger

    def _slabs(self, cache: SlubCache, rows: I64, index: SlabIndex) -> Slabs:
        order = slab_orders(index, self.caches, rows, np.full(len(rows), cache.number))
        span = self.memory.page_size << order
        objects = np.minimum(span // cache.size, MAX_OBJECTS)
        inuse = index["inuse"][rows].astype(np.int64)
        frozen = index["frozen"][rows] != 0
        marked = (index.flags[rows] & self._mark) != 0
        states = States(frozen, marked, index["freelist"][rows], inuse == objects)
        return Slabs.build(
            len(rows),
            page=index.pages[rows],
            base=index.addresses[rows] + np.uint64(cache.red_left_pad),
            objects=objects,
            counted=inuse,
            nid=index.nids[rows],
            order=order,
            readable=readable_orders(index, rows, order),
            word=index.words[rows].astype(np.int64),
            marked=index.marked[rows],
            cache_pointer=index["slab_cache"][rows],
            told=self.ownership.told[rows] == cache.number,
            allowed=allowed_lists(self.era, cache, states),
            fits=fitting_lists(self.era, cache, states),
            transit=in_transit(self.era, states),
            busy=self._busy(cache, rows, index),
        )

    def _busy(self, cache: SlubCache, rows: I64, index: SlabIndex) -> Bools:
        # Without cmpxchg16b, freelist and counters change one after the other
        # under the page lock; debug caches change all under the list lock.
        locked = (index.flags[rows] & self._locked) != 0
        mine = (self.nodes.cache == cache.number) & self.nodes.held
        return locked | np.isin(index.nids[rows], self.nodes.nid[mine])

    def _let_new(self, cache: SlubCache, ledger: Ledger, freelist: U64) -> None:
        # A slab that is being made is on no list yet and has no object in use,
        # or, to Linux 6.7 and at the end of it, all of them. Its free pointers
        # are being written.
        slabs, fresh = ledger.slabs, ledger.slabs.counted == 0
        listed = np.isin(np.arange(len(slabs)), ledger.memberships.slab)
        if self.era in (Era.FROZEN, Era.UNKNOWN):
            fresh |= slabs.transit & (slabs.counted == slabs.objects) & (freelist != 0)
        else:
            fresh &= slabs.transit
        fresh &= ~listed
        # At its beginning there is no freelist, and no node counts it.
        first = (slabs.counted == 0) & (freelist == 0)
        # Where no CPU takes whole slabs, the first object is taken before it is
        # put on a list, since Linux kernel commit c7323a5ad078 ("mm/slub:
        # restrict sysfs validation to debug caches and make it safe") (in v6.1).
        if cache.debug or self.cpu_slabs is None:
            first |= (slabs.counted == 1) & ((slabs.allowed & ListKind.NOWHERE) == 0)
        first &= ~listed
        fresh |= first & self._uncounted(cache, slabs, first)
        if np.count_nonzero(fresh) <= ledger.facts.in_flight:
            slabs.transit |= fresh
            slabs.busy |= fresh

    def _uncounted(self, cache: SlubCache, slabs: Slabs, first: Bools) -> Bools:
        # Slabs of nodes that count fewer slabs than there are, by as many as
        # have their first object. Without CONFIG_SLUB_DEBUG no node counts any.
        nodes, out = self.nodes, np.ones(len(slabs), np.bool_)
        if not nodes.rows.structure.has("nr_slabs"):
            return out
        kept = nodes.rows["nr_slabs.counter"].astype(np.int64)
        for row in np.flatnonzero((nodes.cache == cache.number) & nodes.rows.ok).tolist():
            mine = slabs.nid == nodes.nid[row]
            missing = np.count_nonzero(mine) - int(kept[row])
            out[mine] = missing >= np.count_nonzero(mine & first)
        return out

    def _excuse(self, cache: SlubCache, ledger: Ledger) -> None:
        # An empty slab of a TYPESAFE_BY_RCU cache leaves its list and the
        # counters at once, and its pages after a grace period.
        slabs = ledger.slabs
        if cache.typesafe_by_rcu:
            listed = np.isin(np.arange(len(slabs)), ledger.memberships.slab)
            slabs.excused |= slabs.transit & (slabs.counted == 0) & ~listed

    def _geometry(self, cache: SlubCache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        for order, told in cache.orders:
            fit = min((self.memory.page_size << min(order, 24)) // cache.size, MAX_OBJECTS)
            if told != fit:
                what = f"a slab of order {order} holds {fit} objects, not {told}"
                ledger.suspects.append(Suspect("cache-wrong", what, expected=fit, found=told))
        orders, slabs = index.orders[rows], ledger.slabs
        kept = index["objects"][rows].astype(np.int64)
        for code, what, wrong, expected, found in (
            (
                "slab-order-wrong",
                "compound order does not fit its cache and its object count",
                orders != slabs.order,
                slabs.order,
                orders,
            ),
            (
                "slab-objects-wrong",
                "object count does not follow from the slab's order",
                kept != slabs.objects,
                slabs.objects,
                kept,
            ),
        ):
            ledger.suspects += [
                Suspect(code, what, slab=slab, expected=int(expected[slab]), found=int(found[slab]))
                for slab in np.flatnonzero(wrong).tolist()
            ]

    def _freelists(
        self,
        cache: SlubCache,
        rows: I64,
        index: SlabIndex,
        ledger: Ledger,
        local: Dict[int, int],
    ) -> None:
        slabs = ledger.slabs
        reader = FreelistReader(self.memory, cache, self.encoding)
        own = Containers.build(
            len(rows),
            place=_PLACE["freelist"],
            address=slabs.page,
            slab=np.arange(len(rows), dtype=np.int64),
            counted=slabs.objects - slabs.counted,
            limit=slabs.objects,
            walked=0,
            state=Walk.WHOLE,
            busy=slabs.busy,
        )
        reader.enter(ledger, own, index["freelist"][rows])
        if self.cpu_slabs is None:
            return
        cpus = self.cpu_slabs
        mine = np.flatnonzero((cpus.cache == cache.number) & (cpus.freelist != 0))
        home = np.array([local.get(row, -1) for row in cpus.slab_row[mine].tolist()], np.int64)
        theirs = Containers.build(
            len(mine),
            place=_PLACE["cpu freelist"],
            owner=cpus.cpu[mine],
            address=cpus.rows.addresses[mine],
            slab=home,
            walked=0,
            state=Walk.WHOLE,
        )
        # A CPU whose slab is none of the cache's is told of elsewhere.
        homeless = (home < 0) & (cpus.slab[mine] == 0)
        for box in np.flatnonzero(homeless).tolist():
            ledger.suspects.append(_homeless(cache, theirs, box, cpus.freelist[mine], index))
        reader.enter(ledger, theirs.take(home >= 0), cpus.freelist[mine][home >= 0])

    def _counters(self, cache: SlubCache, ledger: Ledger) -> None:
        members, slabs = ledger.memberships, ledger.slabs
        there = ~slabs.excused

        def partial(nid: int) -> int:
            on_list = (members.owner == nid) & (members.slab >= 0)
            return int((on_list & (members.kind == ListKind.PARTIAL)).sum())

        ledger.counters += self.nodes.counters(
            cache.number,
            {
                "nr_partial": ("node-list-length", partial),
                "nr_slabs": ("node-slabs", lambda nid: int((there & (slabs.nid == nid)).sum())),
                "total_objects": (
                    "node-objects",
                    lambda nid: int(slabs.objects[there & (slabs.nid == nid)].sum()),
                ),
            },
            self._slack(ledger),
        )

    def _slack(self, ledger: Ledger) -> Dict[str, int]:
        # A slab is counted a moment before or after it can be found.
        slabs, members = ledger.slabs, ledger.memberships
        listed = np.isin(np.arange(len(slabs)), members.slab)
        adrift = int(np.count_nonzero(slabs.transit & ~listed & ~slabs.excused))
        adrift = min(adrift, ledger.facts.in_flight)
        most = int(slabs.objects.max(initial=0))
        return {"nr_slabs": adrift, "total_objects": adrift * most}


def _most_common(words: npt.NDArray[np.uint32]) -> Optional[int]:
    # SLUB leaves the word as the page allocator or the slab mark has made it.
    values, times = np.unique(words, return_counts=True)
    return int(values[np.argmax(times)]) if len(values) else None


def _homeless(
    cache: SlubCache, boxes: Containers, box: int, heads: U64, index: SlabIndex
) -> Suspect:
    # While a CPU slab is given back, slab is cleared just before freelist.
    head = int(heads[box])
    row = int(index.rows_of_addresses(np.array([head], np.uint64))[0])
    ours = row >= 0 and int(index["slab_cache"][row]) == cache.facts.address
    return Suspect(
        "container-state",
        f"freelist of CPU {boxes.owner[box]} begins at 0x{head:x}, but the CPU has no slab",
        cpu=int(boxes.owner[box]),
        place="cpu slab",
        found=head,
        moving=ours and bool(index["frozen"][row]),
    )
