# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB's array caches
-------------------

Objects on their way between users and slabs wait in arrays: one per CPU, one
shared by the CPUs of a node, and, for objects freed on another node, one alien
array per pair of nodes. All of them count as in use in their slabs.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Tuple

import numpy as np

from ...index import KnownBy, SlabIndex
from ...ledger import I64, U64, Bools, Containers, Ledger, Place, State, Suspect, Walk
from ...machine import Machine
from ...machine.columns import Rows
from ...machine.locks import LockStates, lock_states
from ..arrays import enter_arrays
from ..caches import Caches
from ..locks import lock_suspects
from ..nodes import Nodes
from ..percpu import PerCpu, per_cpu_addresses, per_cpu_structures
from .cache import SlabCache

CPU, SHARED, ALIEN = range(3)
PLACES = (
    Place("cpu array", counted=True, per_cpu=True),
    Place("shared array", counted=True),
    Place("alien array", counted=True),
)

# What shared and alien arrays hold in batchcount, which they do not use.
_NO_BATCHCOUNT = 0xBAADF00D
_MOST_ENTRIES = 1 << 16  # more than any array cache is tuned to


class _Found(NamedTuple):
    # Where array caches are: columns of equal length.
    cache: I64
    kind: I64
    owner: I64
    nid: I64
    address: U64
    held: Bools


class ArrayCaches:
    """
    Every ``struct array_cache`` of the machine, with its entries.

    :ivar addresses: Of the arrays of nodes and what leads to them, all kmalloc'ed.
    """

    def __init__(self, machine: Machine, caches: Caches, nodes: Nodes) -> None:
        self._memory = machine.memory
        self._nodes = nodes
        aliens, tables, locks = _alien_arrays(machine, nodes)
        self._of_nodes = _wild_tables(machine, nodes)
        self._of_nodes += [
            (int(aliens.cache[row]), suspect)
            for row, suspect in lock_suspects(locks, nodes=aliens.owner, place=PLACES[ALIEN].name)
        ]
        self.addresses: List[U64] = [nodes.rows["shared"], aliens.address, tables]
        word = self._memory.word_size
        self._per_cpu = per_cpu_structures(machine, caches.rows, "cpu_cache", word, caches.listed)
        parts = [_cpu_arrays(machine, self._per_cpu), _shared_arrays(nodes), aliens]
        columns = [np.concatenate(column) for column in zip(*parts)]
        order = np.argsort(columns[0], kind="stable")
        self._found = _Found(*(column[order] for column in columns))
        # The address of an alien array is that of the struct around it.
        ac = machine.structure("struct alien_cache").offset("ac")
        is_alien = self._found.kind == ALIEN
        addresses = self._found.address + np.where(is_alien, ac, 0).astype(np.uint64)
        rows = machine.rows("struct array_cache", addresses)
        self.wild: Bools = ~self._memory.is_kernel_address(addresses)
        self.wild |= addresses % np.uint64(self._memory.word_size) != 0
        self.addresses_of_arrays = addresses
        self.ok = rows.ok
        self.avail: I64 = rows["avail"].astype(np.int64)
        self.limit: I64 = rows["limit"].astype(np.int64)
        self.batchcount: I64 = rows["batchcount"].astype(np.int64)
        self._judge(caches)
        self._read_entries(rows)

    def _judge(self, caches: Caches) -> None:
        # Which arrays are what they should be. All CPUs' arrays of a cache are
        # made together; while the cache is tuned, all are new and the limit in
        # the cache is still the old one.
        found = self._found
        shared_limit = caches.rows["limit"].astype(np.int64)[found.cache]
        self.expected_limit = np.where(found.kind == CPU, shared_limit, self.limit)
        for number in np.unique(found.cache[found.kind == CPU]).tolist():
            mine = self._rows_of(number)
            mine = mine[found.kind[mine] == CPU]
            limits = self.limit[mine]
            batches = self.batchcount[mine]
            tuned = (limits == limits[0]).all() and (batches == batches[0]).all()
            if tuned and 0 < batches[0] <= limits[0] <= _MOST_ENTRIES:
                self.expected_limit[mine] = limits[0]
        own_batch = (found.kind == CPU) | (self.batchcount == _NO_BATCHCOUNT)
        self.sound = self.ok & own_batch & (self.limit == self.expected_limit)
        self.trusted = self.sound & (self.avail <= self.limit) & (self.avail <= _MOST_ENTRIES)

    def _read_entries(self, rows: Rows) -> None:
        word = self._memory.word_size
        count = np.where(self.trusted, self.avail, 0)
        self._start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
        box = np.repeat(np.arange(len(count)), count)
        position = np.arange(len(box)) - self._start[box]
        first = rows.addresses + np.uint64(rows.structure.offset("entry"))
        gathered = self._memory.gather(first[box] + (position * word).astype(np.uint64), word)
        self._entries: U64 = gathered.bytes.view(self._memory.word)[:, 0].astype(np.uint64)
        self._entry_cache: I64 = self._found.cache[box]
        lost = np.unique(box[~gathered.ok])
        self.ok[lost] = False
        self.trusted[lost] = False

    def _rows_of(self, cache: int) -> I64:
        low, high = np.searchsorted(self._found.cache, [cache, cache + 1])
        return np.arange(low, high)

    def locate(self, machine: Machine, index: SlabIndex, caches: Caches) -> None:
        """Add to the index the slabs that only entries lead to, where they lead back."""
        fields = machine.page
        lost = index.rows_of_addresses(self._entries) < 0
        lost &= self._memory.is_kernel_address(self._entries)
        physical = self._entries[lost] - np.uint64(self._memory.linear_base)
        pfns = physical >> np.uint64(self._memory.page_shift)
        pages = pfns * np.uint64(fields.size) + np.uint64(index.vmemmap)
        possible = index.is_memory_map(pages)
        pages, owner = pages[possible], self._entry_cache[lost][possible]
        word = self._memory.word_size
        links = self._memory.gather(pages + np.uint64(fields.compound), word)
        compound = links.bytes.view(self._memory.word)[:, 0].astype(np.uint64)
        heads = np.where((compound & np.uint64(1)) != 0, compound - np.uint64(1), pages)
        at = np.uint64(index.structure.offset("slab_cache"))
        pointers = self._memory.gather(heads + at, word)
        told = pointers.bytes.view(self._memory.word)[:, 0].astype(np.uint64)
        index.add(heads[links.ok & (told == caches.addresses[owner])], KnownBy.PLACE)

    def enter(
        self, cache: SlabCache, rows: I64, index: SlabIndex, ledger: Ledger, place: int
    ) -> None:
        """
        Enter one cache's arrays into its ledger.

        :param rows: Rows of the index that are the rows of ``ledger.slabs``.
        :param place: Position of :data:`PLACES` in ``ledger.places``.
        """
        mine = self._rows_of(cache.number)
        found, trusted = self._found, self.trusted[mine]
        cpus = mine[found.kind[mine] == CPU]
        count = np.where(trusted, self.avail[mine], 0)
        read = self.ok[mine] | self.wild[mine]
        state = np.where(read, Walk.WHOLE, Walk.UNREADABLE).astype(np.uint8)
        boxes = Containers.build(
            len(mine),
            place=place + found.kind[mine],
            owner=found.owner[mine],
            address=self.addresses_of_arrays[mine],
            counted=np.where(self.sound[mine], self.avail[mine], -1),
            limit=self.limit[mine],
            walked=count,
            state=state,
            nid=found.nid[mine],
            busy=self._busy(mine),
        )
        entries = np.zeros((len(mine), int(count.max(initial=0))), np.uint64)
        inside = np.arange(entries.shape[1])[None, :] < count[:, None]
        if len(mine):
            # Arrays hold slots; users know the objects in them.
            slots = self._entries[self._start[mine[0]] : self._start[mine[-1] + 1]]
            lead = np.where(self._memory.is_kernel_address(slots), cache.obj_offset, 0)
            entries[inside] = slots + lead.astype(np.uint64)
        ledger.suspects += self._per_cpu.suspects(cache.number, PLACES[CPU].name)
        ledger.suspects += _judge_tuning(cache, self.limit[cpus], self.batchcount[cpus])
        ledger.suspects += [self._lost(row) for row in mine[self.wild[mine]]]
        ledger.suspects += [one for number, one in self._of_nodes if number == cache.number]
        unsound = self.ok[mine] & ~self.sound[mine] & ~self.wild[mine]
        ledger.suspects += [self._unsound(row) for row in mine[unsound]]
        states = np.full(len(mine), State.FREE, np.uint8)
        enter_arrays(ledger, index, rows, boxes, entries, count, states)

    def _busy(self, mine: I64) -> Bools:
        # The node's lock covers its shared array, and the filling and emptying
        # of its CPUs' arrays; alien arrays are emptied under that of the node
        # the objects are from.
        found, nodes = self._found, self._nodes
        held = nodes.held & np.isin(nodes.cache, found.cache[mine])
        return found.held[mine] | np.isin(found.nid[mine], nodes.nid[held])

    def _unsound(self, row: int) -> Suspect:
        found = self._found
        kind, owner = int(found.kind[row]), int(found.owner[row])
        expected, limit = int(self.expected_limit[row]), int(self.limit[row])
        what = f"limit {limit}, not {expected}"
        if limit == expected:
            expected, limit = _NO_BATCHCOUNT, int(self.batchcount[row])
            what = f"batchcount 0x{limit:x}, not 0x{expected:x}"
        at = int(self.addresses_of_arrays[row])
        whose = f"CPU {owner}" if kind == CPU else f"node {owner}"
        return Suspect(
            "container-state",
            f"{PLACES[kind].name} of {whose} at 0x{at:x} has {what}",
            node=None if kind == CPU else owner,
            cpu=owner if kind == CPU else None,
            place=PLACES[kind].name,
            expected=expected,
            found=limit,
        )

    def _lost(self, row: int) -> Suspect:
        kind, owner = int(self._found.kind[row]), int(self._found.owner[row])
        at = int(self.addresses_of_arrays[row])
        what = f"pointer to the {PLACES[kind].name} of node {owner} leads to 0x{at:x}"
        place = PLACES[kind].name
        return Suspect("container-state", what, node=owner, place=place, found=at)

    def mark_flushes(self, cache: SlabCache, ledger: Ledger, first_box: int) -> None:
        """
        Mark the CPU arrays that were caught while their CPU gave objects back.

        The objects are in slabs or in the shared array before the CPU lowers
        ``avail`` and moves the rest down, with no lock held: its entries then
        disagree with everything else, in a pattern of its own.

        :param first_box: Row of ``ledger.containers`` of the cache's first array.
        """
        mine = self._rows_of(cache.number)
        boxes, claims = ledger.containers, ledger.claims
        odd, wrong = _odd_claims(ledger)
        for box in np.setdiff1d(claims.container[odd], claims.container[wrong]).tolist():
            row = box - first_box
            if 0 <= row < len(mine) and self._found.kind[mine[row]] == CPU:
                here = odd[claims.container[odd] == box]
                array = mine[row]
                boxes.busy[box] |= self._is_flushing(array, np.unique(claims.position[here]))

    def _is_flushing(self, array: int, odd: I64) -> bool:
        avail, limit = int(self.avail[array]), int(self.limit[array])
        batch = min(int(self.batchcount[array]), limit)
        # A CPU gives a batch back when its array is full. Other CPUs may take
        # some of the objects before it comes to lowering the count.
        if avail == limit:
            return bool(odd[-1] < batch)
        # Then it moves what stays to the front, entry by entry.
        if avail == limit - batch:
            last = min(batch, avail) - 1
            return bool(odd[-1] == last and len(odd) == last - odd[0] + 1)
        # An array that is drained is emptied in one go.
        return len(odd) == avail > 1


def _judge_tuning(cache: SlabCache, limits: I64, batches: I64) -> Iterator[Suspect]:
    # While the cache is tuned, its arrays are the new ones and its own numbers
    # the old; both are such as a cache can be tuned to.
    if not len(limits) or (limits != limits[0]).any() or (batches != batches[0]).any():
        return
    if not 0 < batches[0] <= limits[0] <= _MOST_ENTRIES:
        return
    for member, kept, own, sound in (
        ("limit", cache.limit, int(limits[0]), cache.limit > 0),
        ("batchcount", cache.batchcount, int(batches[0]), 0 < cache.batchcount <= cache.limit),
    ):
        if kept != own and not sound:
            what = f"{member} is {kept}, and the arrays of its CPUs have {own}"
            yield Suspect("cache-wrong", what, expected=own, found=kept)
            return


def _odd_claims(ledger: Ledger) -> Tuple[I64, I64]:
    # Claims of objects that are claimed more than once, or whose slab is gone;
    # and those that no work explains: inside an object, or of one that the
    # allocator lives in.
    claims = ledger.claims
    gone = claims.slab < 0
    most = int(ledger.slabs.objects.max(initial=0)) + 1
    keys = np.where(gone, -1, claims.slab * most + claims.index)
    _, which, times = np.unique(keys, return_inverse=True, return_counts=True)
    live = np.isin(keys, keys[claims.state == State.LIVE]) & ~gone
    wrong = live | (~gone & (claims.index < 0))
    return np.flatnonzero(gone | (times[which] > 1)), np.flatnonzero(wrong)


def _cpu_arrays(machine: Machine, found: PerCpu) -> _Found:
    return _Found(
        found.cache,
        np.full(len(found.cache), CPU, np.int64),
        machine.cpus[found.column],
        _memory_nodes(machine)[found.column],
        found.addresses,
        np.zeros(len(found.cache), np.bool_),
    )


def _shared_arrays(nodes: Nodes) -> _Found:
    rows = np.flatnonzero(nodes.rows["shared"])
    return _Found(
        nodes.cache[rows],
        np.full(len(rows), SHARED, np.int64),
        nodes.nid[rows],
        nodes.nid[rows],
        nodes.rows["shared"][rows],
        np.zeros(len(rows), np.bool_),
    )


def _alien_arrays(machine: Machine, nodes: Nodes) -> Tuple[_Found, U64, LockStates]:
    # Each node has a table with an array for the objects of every other node;
    # there is none with one node, or with noaliencache.
    word, ids = machine.memory.word, machine.node_ids
    rows = np.flatnonzero(nodes.rows["alien"])
    tables = nodes.rows["alien"][rows]
    gathered = machine.memory.gather(tables, ids * word.itemsize)
    pointers = gathered.bytes.view(word).astype(np.uint64)
    which, other = np.nonzero(pointers)
    address = pointers[which, other]
    locks = lock_states(machine, machine.rows("struct alien_cache", address), "lock")
    return (
        _Found(
            nodes.cache[rows[which]],
            np.full(len(which), ALIEN, np.int64),
            nodes.nid[rows[which]],
            other.astype(np.int64),
            address,
            locks.held,
        ),
        tables,
        locks,
    )


def _wild_tables(machine: Machine, nodes: Nodes) -> List[Tuple[int, Suspect]]:
    # Tables of alien arrays that no target can have, by cache.
    tables = nodes.rows["alien"]
    wild = ~machine.memory.is_kernel_address(tables) | (tables % machine.memory.word_size != 0)
    found = []
    for row in np.flatnonzero(wild & (tables != 0)).tolist():
        nid, at = int(nodes.nid[row]), int(tables[row])
        what = f"pointer to the alien arrays of node {nid} leads to 0x{at:x}"
        place = PLACES[ALIEN].name
        suspect = Suspect("container-state", what, node=nid, place=place, found=at)
        found.append((int(nodes.cache[row]), suspect))
    return found


def _memory_nodes(machine: Machine) -> I64:
    # The node whose memory each possible CPU allocates from: cpu_to_mem().
    cpus = machine.cpus
    if machine.node_ids == 1:
        return np.zeros(len(cpus), np.int64)
    for name in ("_numa_mem_", "numa_node"):
        try:
            address = machine.prog[name].address_
        except LookupError:
            continue
        where = per_cpu_addresses(machine, np.array([address], np.uint64))[0]
        gathered = machine.memory.gather(where, 4)
        nid = gathered.bytes.view(f"{machine.memory.byteorder}i4")[:, 0].astype(np.int64)
        return np.where(gathered.ok, nid, -1)
    return np.full(len(cpus), -1, np.int64)
