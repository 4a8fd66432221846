# SPDX-License-Identifier: LGPL-2.1-or-later
"""The entries of SLAB's array caches: read at once, followed to slabs, entered cache by cache."""

from __future__ import annotations

from typing import List

import numpy as np

from ...distinct import distinct
from ...index import KnownBy, SlabIndex
from ...ledger import I64, U64, Bools, Containers, Ledger, State, Suspect, Walk
from ...machine import Machine
from ..arrays import enter_arrays
from ..caches import Caches
from ..over import slabs_over
from .arrays import CPU, ArrayCaches
from .cache import SlabCache
from .cpunodes import correct, cpu_nodes
from .tuning import Tuned


class Entries:
    """
    What the arrays hold that can be trusted.

    An array of which one entry is not in the target has none.
    """

    def __init__(self, machine: Machine, arrays: ArrayCaches, tuned: Tuned) -> None:
        self._machine = machine
        self._memory = memory = machine.memory
        self._arrays = arrays
        self._sound = tuned.sound
        word = memory.word_size
        told = np.where(tuned.trusted, arrays.avail, 0)
        array = np.repeat(np.arange(len(told)), told)
        position = np.arange(len(array)) - (np.cumsum(told) - told)[array]
        first = arrays.address + np.uint64(machine.structure("struct array_cache").offset("entry"))
        gathered = memory.gather(first[array] + (position * word).astype(np.uint64), word)
        self._read: Bools = arrays.ok.copy()
        self._read[array[~gathered.ok]] = False
        whole = self._read[array]
        slots = gathered.bytes.view(memory.word)[:, 0].astype(np.uint64)
        self._array: I64 = array[whole]
        self._slot: U64 = slots[whole]
        self._count: I64 = np.where(self._read, told, 0)
        self._twice = self._of_two_caches()
        self.suspects: List[Suspect] = []
        """What is wrong with the nodes of CPUs."""

    def _of_two_caches(self) -> U64:
        # Arrays follow each other by cache.
        order = np.argsort(self._slot, kind="stable")
        slots, owners = self._slot[order], self._arrays.cache[self._array[order]]
        again: Bools = (slots[1:] == slots[:-1]) & (owners[1:] != owners[:-1])
        return distinct(slots[1:][again])

    def of_two_caches(self, cache: SlabCache) -> U64:
        """Return the objects in its arrays that are in those of another cache, too."""
        return self._twice + np.uint64(cache.obj_offset)

    def locate(self, index: SlabIndex, caches: Caches) -> None:
        """Add to the index the slabs that only entries lead to, where they lead back."""
        lost = index.rows_of_addresses(self._slot) < 0
        lost &= self._memory.is_kernel_address(self._slot)
        owner = self._arrays.cache[self._array[lost]]
        over = slabs_over(index, self._slot[lost])
        index.add(over.heads[over.told == caches.addresses[owner]], KnownBy.PLACE)
        self._correct_nodes(index)

    def _correct_nodes(self, index: SlabIndex) -> None:
        machine, arrays = self._machine, self._arrays
        rows = index.rows_of_addresses(self._slot)
        of_cpu = (arrays.kind[self._array] == CPU) & (rows >= 0)
        owners, nids = arrays.owner[self._array[of_cpu]], index.nids[rows[of_cpu]]
        nodes = machine.settled(cpu_nodes)
        counted = nodes.told.copy()
        self.suspects = list(correct(machine, nodes, owners, nids, counted))
        for column in np.flatnonzero(counted != nodes.told).tolist():
            of_it = (arrays.kind == CPU) & (arrays.owner == machine.cpus[column])
            arrays.nid[of_it] = counted[column]

    def enter(
        self, cache: SlabCache, rows: I64, index: SlabIndex, ledger: Ledger, place: int
    ) -> None:
        """
        Enter one cache's arrays into its ledger.

        :param rows: Rows of the index that are the rows of ``ledger.slabs``.
        :param place: Position of :data:`.arrays.PLACES` in ``ledger.places``.
        """
        arrays = self._arrays
        mine = arrays.rows_of(cache.number)
        count = self._count[mine]
        # Nothing is missing from one that is nowhere; that is told of elsewhere.
        read = self._read[mine] | arrays.wild[mine]
        boxes = Containers.build(
            len(mine),
            place=place + arrays.kind[mine],
            owner=arrays.owner[mine],
            address=arrays.address[mine],
            counted=np.where(self._sound[mine], arrays.avail[mine], -1),
            limit=arrays.limit[mine],
            walked=count,
            state=np.where(read, Walk.WHOLE, Walk.UNREADABLE).astype(np.uint8),
            nid=arrays.nid[mine],
            busy=arrays.busy[mine],
        )
        entries = np.zeros((len(mine), int(count.max(initial=0))), np.uint64)
        inside = np.arange(entries.shape[1])[None, :] < count[:, None]
        entries[inside] = self._objects(cache)
        states = np.full(len(mine), State.FREE, np.uint8)
        enter_arrays(ledger, index, rows, boxes, entries, count, states)

    def _objects(self, cache: SlabCache) -> U64:
        # Arrays hold slots; users know the objects in them.
        owner = self._arrays.cache[self._array]
        low, high = np.searchsorted(owner, [cache.number, cache.number + 1])
        slots = self._slot[low:high]
        lead = np.where(self._memory.is_kernel_address(slots), cache.obj_offset, 0)
        return slots + lead.astype(np.uint64)
