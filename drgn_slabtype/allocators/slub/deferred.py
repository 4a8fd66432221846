# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Deferred frees (SLUB since Linux 6.18)
--------------------------------------

kfree_nolock() and its kin leave objects on per-CPU lists that an irq_work
empties. The lists are shared by all caches, almost always empty, and their
objects still count as in use.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, NamedTuple, Optional

import numpy as np
from drgn import FaultError

from ...arguments import named
from ...index import SlabIndex
from ...ledger import I64, Containers, Ledger, State, Suspect, Walk
from ...machine import Machine
from ...machine.kfence import kfence_pool
from ...machine.percpu import per_cpu_addresses
from ...regions import Region, region
from ..arrays import enter_arrays, local_rows
from ..lists import follow_links
from .cache import SlubCache

_MAX_ENTRIES = 1 << 20
# Since Linux 7.3 the variable is named deferred_percpu_work.
_VARIABLES = ("deferred_percpu_work", "defer_free_objects")


class DeferredList(NamedTuple):
    """One per-CPU ``struct llist_head``."""

    place: str
    cpu: int
    address: int
    """Of the list head."""
    nodes: List[int]
    """Addresses of the ``struct llist_node`` or ``struct rcu_head`` inside objects."""
    stop: Optional[int]
    """Address at which the list came to an end that is none."""
    readable: bool
    """Whether that was not for memory missing in the target."""


class Deferred:
    """The deferred frees of all CPUs."""

    def __init__(self, machine: Machine, lists: List[DeferredList]) -> None:
        self.lists = lists
        self.suspects: List[Suspect] = []
        """Damage to the lists, which belong to no cache."""
        self._pool = machine.settled(kfence_pool)

    def locate(self, index: SlabIndex, owner: I64) -> None:
        """
        Find the lists that are broken, and what is on them and in no slab.

        :param owner: Position of the cache of each row of the index.
        """
        self.suspects = []
        for found in self.lists:
            where = f"{found.place} frees of CPU {found.cpu}"
            if found.stop is not None:
                code = "list-broken" if found.readable else "unreadable"
                self._suspect(code, f"{where}: the list leads to {named(found.stop)}", found)
            nodes = np.array(found.nodes, np.uint64)
            rows = index.rows_of_addresses(nodes)
            stray = (rows < 0) & ~self._pool.contains(nodes)
            stray[rows >= 0] = owner[rows[rows >= 0]] < 0
            for node in nodes[stray].tolist():
                self._suspect("claim-foreign", f"{where}: 0x{node:x} is in no slab", found, node)

    def _suspect(
        self, code: str, message: str, of: DeferredList, found: Optional[int] = None
    ) -> None:
        self.suspects.append(
            Suspect(
                code,
                message,
                cpu=of.cpu,
                place=of.place,
                found=of.stop if found is None else found,
                address=of.address,
            )
        )

    def enter(
        self,
        cache: SlubCache,
        rows: I64,
        index: SlabIndex,
        ledger: Ledger,
        places: Dict[str, int],
    ) -> None:
        """
        Enter the objects of one cache into its ledger.

        :param rows: Rows of the index that are the rows of ``ledger.slabs``.
        :param places: Position in ``ledger.places`` by name.
        """
        for found in self.lists:
            if not found.nodes:
                continue
            nodes = np.array(found.nodes, np.uint64)
            slab = local_rows(rows, index.rows_of_addresses(nodes))
            nodes, slab = nodes[slab >= 0], slab[slab >= 0]
            if not len(nodes):
                continue
            if found.place == "deferred":
                # The node takes the place of the free pointer.
                objects = nodes - np.uint64(cache.offset)
            else:
                # The rcu head lies anywhere in the object.
                base = ledger.slabs.base[slab]
                objects = nodes - (nodes - base) % np.uint64(cache.size)
            box = Containers.build(
                1,
                place=places[found.place],
                owner=found.cpu,
                address=found.address,
                walked=len(objects),
                state=Walk.WHOLE,
            )
            state = State.FREE if found.place == "deferred" else State.WAITING
            count = np.array([len(objects)], np.int64)
            states = np.array([state], np.uint8)
            enter_arrays(ledger, index, rows, box, objects[None, :], count, states)


def read_deferred(machine: Machine) -> Deferred:
    """Read the per-CPU lists of deferred frees; none before Linux 6.18."""
    for name in _VARIABLES:
        try:
            variable = machine.prog[name]
        except LookupError:
            continue
        layout = machine.structure(variable.type_.type_name())
        assert variable.address_ is not None
        heads = per_cpu_addresses(machine, np.array([variable.address_], np.uint64))[0]
        members = {"objects": "deferred", "objects_by_rcu": "deferred by rcu"}
        return Deferred(
            machine,
            [
                _walk(machine, place, cpu, head + layout.offset(member))
                for cpu, head in zip(machine.cpus.tolist(), heads.tolist())
                for member, place in members.items()
                if layout.has(member)
            ],
        )
    return Deferred(machine, [])


def _walk(machine: Machine, place: str, cpu: int, head: int) -> DeferredList:
    source = machine.memory
    nodes: List[int] = []
    seen = set()
    at = head
    while len(nodes) < _MAX_ENTRIES:
        try:
            following = machine.memory.read_word(at)
        except FaultError:
            return DeferredList(place, cpu, head, nodes[:-1], at, False)
        at = following
        if not at:
            return DeferredList(place, cpu, head, nodes, None, True)
        if at in seen or not source.is_kernel_address(np.array([at], np.uint64))[0]:
            break
        seen.add(at)
        nodes.append(at)
    return DeferredList(place, cpu, head, nodes, at, True)


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the links of objects and sheaves whose free was put off."""
    word = machine.memory.word_size
    widths = {"objects": word, "objects_by_rcu": 2 * word, "rcu_sheaves": word}
    for name in _VARIABLES:
        try:
            variable = machine.prog[name]
        except LookupError:
            continue
        layout = machine.structure(variable.type_.type_name())
        heads = per_cpu_addresses(machine, np.array([variable.address_], np.uint64))[0]
        for head in heads.tolist():
            for member, width in widths.items():
                if layout.has(member):
                    links = follow_links(machine, head + layout.offset(member))
                    if links:
                        yield region("deferred frees", links, width)
