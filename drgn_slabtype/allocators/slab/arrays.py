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

from ...ledger import I64, U64, Bools, Place, Suspect
from ...machine import Machine
from ...machine.columns import Rows
from ...machine.locks import LockStates, lock_states
from ...regions import Region, region
from ..caches import Caches, read_caches
from ..locks import lock_suspects
from ..nodes import Nodes, read_nodes
from ..percpu import PerCpu, every_copy
from ..pointers import as_shared, repeated, wild_pointer, wild_pointers
from .cpunodes import cpu_nodes

CPU, SHARED, ALIEN = range(3)
PLACES = (
    Place("cpu array", counted=True, per_cpu=True),
    Place("shared array", counted=True),
    Place("alien array", counted=True),
)
"""What array caches are as places, by kind."""

_MOST_KEPT = 1 << 12  # entries of an array cache that a capture holds


class _Found(NamedTuple):
    # Where array caches are: columns of equal length.
    cache: I64
    kind: I64
    owner: I64
    nid: I64
    pointer: U64
    holder: U64  # address of the pointer; 0 where each CPU has one of its own
    locked: Bools  # by a lock of its own


class AlienTables(NamedTuple):
    """The tables through which nodes find their alien arrays, where they have one."""

    cache: I64
    """Position of the cache."""
    nid: I64
    address: U64
    holder: U64
    """Where the node's pointer to it stands."""
    wild: Bools
    """Which can be in no target."""
    again: Bools
    """Which are another node's as well."""

    def suspects(self, cache: int) -> List[Suspect]:
        """Return the findings that nodes of a cache have lost their tables."""
        found = []
        for row in np.flatnonzero((self.wild | self.again) & (self.cache == cache)).tolist():
            nid, at, word = int(self.nid[row]), int(self.address[row]), int(self.holder[row])
            what, place = f"alien arrays of node {nid}", PLACES[ALIEN].name
            one = wild_pointer(what, at, node=nid, place=place, word=word)
            found.append(one if self.wild[row] else as_shared(one))
        return found


class AlienRows(NamedTuple):
    """What alien tables hold: an array for the objects of every other node."""

    pointers: U64
    """Shape (tables, nodes)."""
    ok: Bools
    """Which tables could be read."""


class ArrayCaches(NamedTuple):
    """Every ``struct array_cache`` of the machine: columns, sorted by cache."""

    cache: I64
    """Position of the cache."""
    kind: I64
    """:data:`CPU`, :data:`SHARED` or :data:`ALIEN`."""
    owner: I64
    """CPU; for shared and alien arrays the node that has it."""
    nid: I64
    """Node whose objects it holds; -1 if that is not known."""
    pointer: U64
    """What leads to it: the address of an alien array is that of the struct around it."""
    holder: U64
    """Where that stands; 0 for those of CPUs."""
    busy: Bools
    """Whether a lock was held under which it is filled or emptied."""
    address: U64
    """``struct array_cache *``."""
    wild: Bools
    """Which can be in no target."""
    again: Bools
    """Which are another's as well; CPUs' follow from one pointer, and are not looked at."""
    ok: Bools
    """Which could be read up to their entries."""
    avail: I64
    limit: I64
    batchcount: I64
    touched: I64
    locks: List[Tuple[int, Suspect]]
    """What is to be said of the locks of alien arrays, with the position of the cache."""

    def rows_of(self, cache: int) -> I64:
        """Return the rows that belong to one cache; they follow each other."""
        low, high = np.searchsorted(self.cache, [cache, cache + 1])
        return np.arange(low, high)

    def name(self, row: int) -> str:
        """Return the place of an array with its owner."""
        whose = "CPU" if self.kind[row] == CPU else "node"
        return f"{PLACES[self.kind[row]].name} of {whose} {self.owner[row]}"


def read_alien_tables(machine: Machine, nodes: Nodes) -> AlienTables:
    """Return the tables of all nodes; there are none with one node, or with ``noaliencache``."""
    rows = np.flatnonzero(nodes.rows["alien"])
    tables = nodes.rows["alien"][rows]
    gathered = machine.memory.gather(tables, machine.node_ids * machine.memory.word_size)
    # A table of nothing is there for a machine of one node alone.
    there = gathered.ok & gathered.bytes.any(axis=1)
    wild = wild_pointers(machine, tables, machine.memory.word_size, there)
    holder = _members_of_nodes(nodes, "alien")[rows]
    again = repeated(tables, holder)
    return AlienTables(nodes.cache[rows], nodes.nid[rows], tables, holder, wild, again)


def alien_rows(machine: Machine, tables: AlienTables) -> AlienRows:
    """Return the pointers that alien tables hold."""
    word = machine.memory.word
    gathered = machine.memory.gather(tables.address, machine.node_ids * word.itemsize)
    return AlienRows(gathered.bytes.view(word).astype(np.uint64), gathered.ok)


def _members_of_nodes(nodes: Nodes, member: str) -> U64:
    return nodes.rows.addresses + np.uint64(nodes.rows.structure.offset(member))


def read_arrays(
    machine: Machine, per_cpu: PerCpu, nodes: Nodes, tables: AlienTables
) -> ArrayCaches:
    """
    Read all array caches but their entries.

    :param per_cpu: The arrays of CPUs.
    """
    aliens, locks = _alien_arrays(machine, tables)
    parts = (_cpu_arrays(machine, per_cpu), _shared_arrays(nodes), aliens)
    columns = [np.concatenate(column) for column in zip(*parts)]
    order = np.argsort(columns[0], kind="stable")
    found = _Found(*(column[order] for column in columns))
    # The node's lock covers its shared array, and the filling and emptying of
    # its CPUs' arrays; alien arrays are emptied under that of the node the
    # objects are from.
    homes = _node_keys(machine, found.cache, found.nid)
    held = _node_keys(machine, nodes.cache, nodes.nid)[nodes.held]
    lead = np.where(found.kind == ALIEN, machine.structure("struct alien_cache").offset("ac"), 0)
    address = found.pointer + lead.astype(np.uint64)
    rows = machine.rows("struct array_cache", address)
    lost = (found.kind == CPU) & np.isin(found.owner, machine.cpus[machine.per_cpu.lost])
    return ArrayCaches(
        *found[:6],
        busy=found.locked | np.isin(homes, held),
        address=address,
        wild=wild_pointers(
            machine, address, machine.memory.word_size, rows.ok | (found.kind == CPU)
        )
        & ~lost,
        again=repeated(found.pointer, found.holder) & (found.kind != CPU),
        ok=rows.ok,
        avail=_number(rows, "avail"),
        limit=_number(rows, "limit"),
        batchcount=_number(rows, "batchcount"),
        touched=_number(rows, "touched"),
        locks=[
            (int(aliens.cache[row]), suspect)
            for row, suspect in lock_suspects(locks, nodes=aliens.owner, place=PLACES[ALIEN].name)
        ],
    )


def structures_of_nodes(machine: Machine) -> U64:
    """Return the shared and alien arrays of the nodes of all caches, and their tables."""
    nodes = read_nodes(machine, machine.settled(read_caches), every=True)
    tables = read_alien_tables(machine, nodes)
    aliens = _alien_arrays(machine, tables)[0].pointer
    return np.concatenate([nodes.rows["shared"], tables.address, aliens])


def _node_keys(machine: Machine, cache: I64, nid: I64) -> I64:
    # One number for each node of each cache; -1 where the node is not known.
    return np.where(nid >= 0, cache * machine.node_ids + nid, -1)


def _number(rows: Rows, member: str) -> I64:
    return rows[member].astype(np.int64)


def _cpu_arrays(machine: Machine, found: PerCpu) -> _Found:
    count = len(found.cache)
    return _Found(
        found.cache,
        np.full(count, CPU, np.int64),
        machine.cpus[found.column],
        machine.settled(cpu_nodes).told[found.column],
        found.addresses,
        np.zeros(count, np.uint64),
        np.zeros(count, np.bool_),
    )


def _shared_arrays(nodes: Nodes) -> _Found:
    rows = np.flatnonzero(nodes.rows["shared"])
    return _Found(
        nodes.cache[rows],
        np.full(len(rows), SHARED, np.int64),
        nodes.nid[rows],
        nodes.nid[rows],
        nodes.rows["shared"][rows],
        _members_of_nodes(nodes, "shared")[rows],
        np.zeros(len(rows), np.bool_),
    )


def _alien_arrays(machine: Machine, tables: AlienTables) -> Tuple[_Found, LockStates]:
    pointers, _ = alien_rows(machine, tables)
    which, other = np.nonzero(pointers)
    found = pointers[which, other]
    locks = lock_states(machine, machine.rows("struct alien_cache", found), "lock")
    arrays = _Found(
        tables.cache[which],
        np.full(len(which), ALIEN, np.int64),
        tables.nid[which],
        other.astype(np.int64),
        found,
        tables.address[which] + (other * machine.memory.word_size).astype(np.uint64),
        locks.held,
    )
    return arrays, locks


def regions_of_cpus(machine: Machine, caches: Caches) -> Iterator[Region]:
    """Yield the array caches of all CPUs."""
    cache, addresses = every_copy(machine, caches, "cpu_cache")
    yield _region(machine, addresses, caches.rows["limit"][cache])


def regions_of_nodes(machine: Machine, nodes: Nodes) -> Iterator[Region]:
    """Yield the shared and alien array caches of all nodes."""
    source = machine.memory
    shared, tables = nodes.rows["shared"], nodes.rows["alien"]
    shared = shared[source.is_kernel_address(shared)]
    yield _region(machine, shared, machine.rows("struct array_cache", shared)["limit"])
    tables = tables[source.is_kernel_address(tables)]
    width = machine.node_ids * source.word_size
    yield region("array caches", tables, width)
    aliens = source.gather(tables, width).bytes.view(source.word).astype(np.uint64).reshape(-1)
    aliens = aliens[source.is_kernel_address(aliens)]
    if len(aliens):
        layout = machine.structure("struct alien_cache")
        yield region("array caches", aliens, layout.size)
        arrays = aliens + np.uint64(layout.offset("ac"))
        yield _region(machine, arrays, machine.rows("struct array_cache", arrays)["limit"])


def _region(machine: Machine, addresses: U64, limits: U64) -> Region:
    # Array caches up to the last entry that can be in use.
    head = machine.structure("struct array_cache").offset("entry")
    limits = np.minimum(limits, _MOST_KEPT)
    sizes = np.uint64(head) + limits * np.uint64(machine.memory.word_size)
    return region("array caches", addresses, sizes)
