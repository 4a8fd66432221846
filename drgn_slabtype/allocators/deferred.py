# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Deferred frees (SLUB since Linux 6.18)
--------------------------------------

kfree_nolock() and its kin leave objects on per-CPU lists that an irq_work
empties. The lists are shared by all caches, almost always empty, and their
objects still count as in use.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple

import numpy as np
from drgn import FaultError, Program

from ..columns import structure
from ..index import SlabIndex
from ..ledger import I64, Containers, Ledger, State, Walk
from ..memory import memory
from .arrays import enter_arrays, local_rows
from .percpu import per_cpu_addresses, possible_cpus
from .slubcache import SlubCache

_MAX_ENTRIES = 1 << 20


class DeferredList(NamedTuple):
    """One per-CPU ``struct llist_head``."""

    place: str
    cpu: int
    address: int
    """Of the list head."""
    nodes: List[int]
    """Addresses of the ``struct llist_node`` or ``struct rcu_head`` inside objects."""
    whole: bool
    """Whether the list came to its end."""


class Deferred:
    """The deferred frees of all CPUs."""

    def __init__(self, lists: List[DeferredList]) -> None:
        self.lists = lists

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
                state=Walk.WHOLE if found.whole else Walk.UNREADABLE,
            )
            state = State.FREE if found.place == "deferred" else State.WAITING
            count = np.array([len(objects)], np.int64)
            states = np.array([state], np.uint8)
            enter_arrays(ledger, index, rows, box, objects[None, :], count, states)


def read_deferred(prog: Program) -> Deferred:
    """Read the per-CPU lists of deferred frees; none before Linux 6.18."""
    # Since Linux 7.3 the variable is named deferred_percpu_work.
    for name in ("deferred_percpu_work", "defer_free_objects"):
        try:
            variable = prog[name]
        except LookupError:
            continue
        layout = structure(prog, variable.type_.type_name())
        assert variable.address_ is not None
        heads = per_cpu_addresses(prog, np.array([variable.address_], np.uint64))[0]
        members = {"objects": "deferred", "objects_by_rcu": "deferred by rcu"}
        return Deferred(
            [
                _walk(prog, place, cpu, head + layout.offset(member))
                for cpu, head in zip(possible_cpus(prog).tolist(), heads.tolist())
                for member, place in members.items()
                if layout.has(member)
            ]
        )
    return Deferred([])


def _walk(prog: Program, place: str, cpu: int, head: int) -> DeferredList:
    nodes, whole = _follow(prog, head)
    return DeferredList(place, cpu, head, nodes, whole)


def _follow(prog: Program, head: int) -> Tuple[List[int], bool]:
    source = memory(prog)
    nodes: List[int] = []
    seen = set()
    at = head
    while len(nodes) < _MAX_ENTRIES:
        try:
            at = prog.read_word(at)
        except FaultError:
            return nodes, False
        if not at:
            return nodes, True
        if at in seen or not source.is_kernel_address(np.array([at], np.uint64))[0]:
            return nodes, False
        seen.add(at)
        nodes.append(at)
    return nodes, False
