# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sheaves and barns (SLUB since Linux 6.18)
-----------------------------------------

A sheaf is an array of free objects that count as in use in their slabs. Each
CPU has a main sheaf, perhaps a spare and one being filled by kfree_rcu(); each
node has a barn of full and empty ones.

Since Linux kernel commit 2d517aa09bbc ("slab: add opt-in caching layer of
percpu sheaves") (in v6.18). A sheaf that a caller holds, or that waits for its
grace period, cannot be reached from the cache: its objects look allocated.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from drgn import FaultError

from ...index import SlabIndex
from ...ledger import I64, U64, Containers, Ledger, State, Suspect, Walk
from ...machine import Machine
from ...machine.columns import Rows
from ...machine.locks import lock_states
from ..arrays import enter_arrays
from ..caches import Caches
from ..locks import lock_suspects
from ..nodes import Nodes, node_pointers
from ..percpu import per_cpu_structures

_MAX_SHEAVES = 4096  # a barn's soft limit is 10 of each kind
_MAX_CAPACITY = 1 << 16
_SEVERAL = 3  # sheaves that are not damaged alike by chance


class Found(NamedTuple):
    """One sheaf and who has it."""

    cache: int
    """Position of the cache whose CPU or node has it."""
    place: str
    owner: int
    """CPU or node."""
    address: int
    """``struct slab_sheaf *``."""
    busy: bool
    """Whether the lock of the barn, or of the CPU's sheaves, was held."""

    @property
    def name(self) -> str:
        """The place with its owner."""
        return f"{self.place} of {'node' if 'barn' in self.place else 'CPU'} {self.owner}"

    def suspect(self, what: str, expected: Optional[int], found: int) -> Suspect:
        """Return the finding that the place holds something it must not."""
        per_node = "barn" in self.place
        return Suspect(
            "container-state",
            f"sheaf 0x{self.address:x} in {self.name} {what}",
            node=self.owner if per_node else None,
            cpu=None if per_node else self.owner,
            place=self.name,
            expected=expected,
            found=found,
            moving=self.busy,
        )


class Sheaves:
    """Every sheaf that can be reached from a cache."""

    def __init__(self, machine: Machine, caches: Caches, nodes: Nodes) -> None:
        self.machine = machine
        self._memory = machine.memory
        self._capacity = caches.rows["sheaf_capacity"].astype(np.int64)
        self._addresses = caches.addresses
        self._sizes = caches.rows["object_size"].astype(np.int64)
        self.found: List[Found] = []
        self.suspects: Dict[int, List[Suspect]] = {}
        self.barns: U64 = np.zeros(0, np.uint64)
        """``struct node_barn *`` of every cache and node."""
        self._read_cpus(caches)
        self._read_barns(caches, nodes)
        self.sound: U64 = np.zeros(0, np.uint64)
        """Addresses of the sheaves that are what their places say."""
        self._by_cache: Dict[int, List[Found]] = {}
        self._sort_out()

    def _sort_out(self) -> None:
        # Sets aside what is no sheaf of its cache, or stands in a second place.
        addresses = np.array([sheaf.address for sheaf in self.found], np.uint64)
        width = self.machine.structure("struct slab_sheaf").offset("objects")
        heads = self.machine.rows("struct slab_sheaf", addresses, width)
        aligned = addresses % np.uint64(self._memory.word_size) == 0
        plausible = (self._memory.is_kernel_address(addresses) & aligned).tolist()
        seen: Dict[int, str] = {}
        sound = []
        for at, sheaf in enumerate(self.found):
            owner, size = int(heads["cache"][at]), int(heads["size"][at])
            own = int(self._addresses[sheaf.cache])
            wrong: Optional[Tuple[str, Optional[int], int]] = None
            if not plausible[at]:
                wrong = "is none", None, sheaf.address
            elif heads.ok[at] and owner != own and (owner or size or self._capacity[sheaf.cache]):
                wrong = "is none of this cache", own, owner
            elif owner == own and sheaf.address in seen:
                wrong = f"is also in {seen[sheaf.address]}", None, sheaf.address
            if wrong is not None:
                self._suspect(sheaf.cache, sheaf.suspect(*wrong))
                continue
            if owner == own:
                seen[sheaf.address] = sheaf.name
                sound.append(sheaf.address)
            self._by_cache.setdefault(sheaf.cache, []).append(sheaf)
        self.sound = np.array(sound, np.uint64)

    def _read_cpus(self, caches: Caches) -> None:
        # Before Linux 7.0, caches without sheaves have no such structures.
        needed = caches.listed & (self._capacity != 0)
        word = self._memory.word_size
        per_cpu = per_cpu_structures(self.machine, caches.rows, "cpu_sheaves", word, needed)
        for number in np.flatnonzero(per_cpu.wild).tolist():
            self.suspects[number] = per_cpu.suspects(number, "cpu sheaves")
        cache = per_cpu.cache
        rows = self.machine.rows("struct slub_percpu_sheaves", per_cpu.addresses)
        cpus = self.machine.cpus[per_cpu.column]
        locks = lock_states(self.machine, rows, "lock")
        for at, suspect in lock_suspects(locks, cpus=cpus, place="cpu sheaves"):
            self._suspect(int(cache[at]), suspect)
        for place in ("main", "spare", "rcu_free"):
            pointers = rows[place]
            # Each CPU has a main sheaf, be it one that stands in for none.
            there = (pointers != 0) | (rows.ok & (place == "main"))
            for at in np.flatnonzero(there).tolist():
                owner = int(cpus[at])
                held = bool(locks.held[at])
                self.found.append(
                    Found(int(cache[at]), f"{place} sheaf", owner, int(pointers[at]), held)
                )

    def _read_barns(self, caches: Caches, nodes: Nodes) -> None:
        cache, nid, addresses = _barn_pointers(self.machine, caches, nodes)
        self.barns = addresses
        wild = ~self._memory.is_kernel_address(addresses)
        wild |= addresses % np.uint64(self._memory.word_size) != 0
        for at in np.flatnonzero(wild).tolist():
            what = f"pointer to the barn of node {nid[at]} leads to 0x{addresses[at]:x}"
            suspect = Suspect(
                "container-state", what, node=int(nid[at]), place="barn", found=int(addresses[at])
            )
            self._suspect(int(cache[at]), suspect)
        rows = self.machine.rows("struct node_barn", addresses)
        locks = lock_states(self.machine, rows, "lock")
        held = locks.held
        for at, suspect in lock_suspects(locks, nodes=nid, place="barn"):
            self._suspect(int(cache[at]), suspect)
        link = self.machine.structure("struct slab_sheaf").offset("barn_list")
        for kind in ("full", "empty"):
            heads = addresses + np.uint64(rows.structure.offset(f"sheaves_{kind}"))
            kept = rows[f"nr_{kind}"].astype(np.int64)
            for at in np.flatnonzero(rows.ok).tolist():
                number, node, busy = int(cache[at]), int(nid[at]), bool(held[at])
                sheaves, end = self._walk(int(heads[at]), link)
                self.found += [
                    Found(number, f"{kind} barn", node, sheaf, busy) for sheaf in sheaves
                ]
                if end is not Walk.WHOLE or len(sheaves) != kept[at]:
                    code, what = {
                        Walk.WHOLE: ("container-count", f"{len(sheaves)} are listed"),
                        Walk.POINTER: ("list-broken", "the list does not close"),
                        Walk.UNREADABLE: ("unreadable", "the list is not in the target"),
                    }[end]
                    self._suspect(
                        number,
                        Suspect(
                            code,
                            f"barn of node {node} counts {kept[at]} {kind} sheaves, {what}",
                            node=node,
                            place=f"{kind} barn of node {node}",
                            expected=len(sheaves),
                            found=int(kept[at]),
                            moving=busy,
                        ),
                    )

    def _suspect(self, cache: int, suspect: Suspect) -> None:
        self.suspects.setdefault(cache, []).append(suspect)

    def _walk(self, head: int, link: int) -> Tuple[List[int], Walk]:
        found: List[int] = []
        seen = {head}
        at = head
        for _ in range(_MAX_SHEAVES):
            try:
                following = self.machine.prog.read_word(at)
                if following == head:
                    return found, Walk.WHOLE
                kernel = self._memory.is_kernel_address(np.array([following], np.uint64))[0]
                if following in seen or not kernel:
                    return found, Walk.POINTER
                if self.machine.prog.read_word(following + self._memory.word_size) != at:
                    return found, Walk.POINTER
            except FaultError:
                return found, Walk.UNREADABLE
            seen.add(following)
            found.append(following - link)
            at = following
        return found, Walk.POINTER

    def enter(
        self,
        cache: int,
        rows: I64,
        index: SlabIndex,
        owner: I64,
        ledger: Ledger,
        places: Dict[str, int],
    ) -> None:
        """
        Enter one cache's sheaves into its ledger.

        :param rows: Rows of the index that are the rows of ``ledger.slabs``.
        :param owner: Position of the cache of each row of the index.
        :param places: Position in ``ledger.places`` by name.
        """
        ledger.suspects += self.suspects.get(cache, [])
        mine = self._by_cache.get(cache, [])
        if not mine:
            return
        addresses = np.array([sheaf.address for sheaf in mine], np.uint64)
        room = self._room(addresses, index, owner)
        capacity, fits = int(self._capacity[cache]), int(room.max())
        readable = min(capacity, fits if fits >= 0 else _MAX_CAPACITY)
        layout = self.machine.structure("struct slab_sheaf")
        width = layout.offset("objects") + readable * self._memory.word_size
        content = self.machine.rows("struct slab_sheaf", addresses, width)
        size = content["size"].astype(np.int64)
        ledger.suspects += self._judge(cache, mine, content, size)
        # The bootstrap sheaf stands in for one where a cache has none.
        own = (content["cache"] == self._addresses[cache]) & content.ok
        own_known = own & (room >= 0)
        ledger.suspects += _judge_capacity(capacity, room[own_known], size[own_known])
        capacity = readable
        count = np.where(own, np.minimum(size, capacity), 0)
        boxes = Containers.build(
            len(mine),
            place=np.array([places[sheaf.place] for sheaf in mine], np.int64),
            owner=np.array([sheaf.owner for sheaf in mine], np.int64),
            address=addresses,
            counted=np.where(own, size, 0),
            limit=capacity,
            walked=count,
            state=np.where(content.ok, Walk.WHOLE, Walk.UNREADABLE),
            busy=np.array([sheaf.busy for sheaf in mine], np.bool_),
        )
        objects = np.ascontiguousarray(content.raw[:, layout.offset("objects") :])
        entries = objects.view(self._memory.word).astype(np.uint64)
        waiting = np.array([sheaf.place == "rcu_free sheaf" for sheaf in mine], np.bool_)
        states = np.where(waiting, State.WAITING, State.FREE).astype(np.uint8)
        enter_arrays(ledger, index, rows, boxes, entries.reshape(len(mine), -1), count, states)

    def _room(self, addresses: U64, index: SlabIndex, owner: I64) -> I64:
        # How many objects there is room for in the memory of each sheaf; -1 for
        # one that is in pages of its own, or in KFENCE's.
        room = np.full(len(addresses), -1, np.int64)
        rows = index.rows_of_addresses(addresses)
        known = np.flatnonzero(rows >= 0)
        known = known[owner[rows[known]] >= 0]
        header = self.machine.structure("struct slab_sheaf").offset("objects")
        bytes_left = self._sizes[owner[rows[known]]] - header
        room[known] = np.maximum(bytes_left // self._memory.word_size, -1)
        return room

    def _judge(self, cache: int, mine: List[Found], content: Rows, size: I64) -> Iterator[Suspect]:
        for at, sheaf in enumerate(mine):
            if sheaf.place == "empty barn" and size[at]:
                yield sheaf.suspect("is not empty", 0, int(size[at]))
            elif sheaf.place == "full barn" and content.ok[at] and not size[at]:
                yield sheaf.suspect("is empty", int(self._capacity[cache]), 0)


def _judge_capacity(capacity: int, room: I64, size: I64) -> Iterator[Suspect]:
    # All sheaves of a cache are allocated for its capacity.
    if not len(room):
        return
    fits = int(room.max())
    over = int(np.count_nonzero(size > capacity))
    if capacity > fits:
        what = f"sheaf_capacity is {capacity}, and its sheaves have room for {fits} objects"
        yield Suspect("cache-wrong", what, found=capacity)
    elif over >= _SEVERAL and size.max() <= fits:
        what = f"sheaf_capacity is {capacity}, and {over} of its sheaves hold more"
        yield Suspect("cache-wrong", what, found=capacity)


def read_sheaves(machine: Machine, caches: Caches, nodes: Nodes) -> Optional[Sheaves]:
    """Read the sheaves of all caches; ``None`` before Linux 6.18."""
    if not machine.structure("struct kmem_cache").has("cpu_sheaves"):
        return None
    return Sheaves(machine, caches, nodes)


def _barn_pointers(machine: Machine, caches: Caches, nodes: Nodes) -> Tuple[I64, I64, U64]:
    # Before Linux 7.1, the node points to its barn.
    if machine.structure("struct kmem_cache").has("per_node"):
        return node_pointers(machine, caches, "barn")
    barn = nodes.rows["barn"]
    there = barn != 0
    return nodes.cache[there], nodes.nid[there], barn[there]
