# SPDX-License-Identifier: LGPL-2.1-or-later
"""Structures that a cache has once per CPU, as columns."""

from __future__ import annotations

from typing import List, NamedTuple, Tuple

import numpy as np

from ..arguments import named
from ..codes import ADDRESS
from ..ledger import I64, U64, Bools, Suspect
from ..machine import Machine
from ..machine.chunks import never_given_out
from ..machine.columns import Rows
from ..machine.percpu import outside_units, per_cpu_addresses
from ..rules.alike import understood
from .caches import Caches
from .members import at_member
from .whereabouts import not_reserved


class PerCpu(NamedTuple):
    """A structure that every cache has once per CPU."""

    cache: I64
    """Position of the cache that each copy belongs to."""
    column: I64
    """Position of its CPU among the possible ones."""
    addresses: U64
    """Address of each copy."""
    member: str
    """The member of ``struct kmem_cache`` that leads to it."""
    rows: Rows
    """Every ``struct kmem_cache``."""
    pointers: U64
    """That member, of every cache."""
    wild: Bools
    """Of every cache: whether it leads where no CPU can have anything."""

    def suspects(self, cache: int, place: str) -> List[Suspect]:
        """
        Return the finding that a cache has lost its structures.

        :param place: What is in them.
        """
        if not self.wild[cache]:
            return []
        at = int(self.pointers[cache])
        what = f"{self.member} is {named(at)}, which leads to no per-CPU memory"
        one = Suspect(
            "container-state", what, place=place, found=at, member=self.member, measure=ADDRESS
        )
        return list(at_member(self.rows, cache, [one]))


def per_cpu_structures(
    machine: Machine, caches: Caches, member: str, layout: str, alignment: int, needed: Bools
) -> PerCpu:
    """
    Follow the per-CPU pointer of every chosen cache.

    :param layout: Name of the structure's type.
    :param alignment: What the structures are allocated with, in bytes.
    :param needed: Which caches must have such structures.
    """
    pointers = caches.rows[member] * caches.chosen
    addresses = per_cpu_addresses(machine, pointers)
    astray = ~machine.memory.is_kernel_address(addresses)
    astray |= addresses % np.uint64(alignment) != 0
    astray &= ~machine.per_cpu.lost  # of these it is not known where they lead
    outside = outside_units(machine, addresses)
    astray = (
        astray.any(axis=1) | understood(np.any(outside, axis=1)) | _of_others(machine, addresses)
    )
    size = machine.structure(layout).size
    astray |= understood(never_given_out(machine, pointers, size))
    wild = np.where(pointers == 0, needed, astray) & caches.rows.ok & caches.chosen
    addresses[wild] = 0
    cache, column = np.nonzero(addresses)
    found = addresses[cache, column]
    return PerCpu(
        cache.astype(np.int64), column.astype(np.int64), found, member, caches.rows, pointers, wild
    )


def _of_others(machine: Machine, addresses: U64) -> Bools:
    # The first per-CPU memory is older than the page allocator, and what came later is
    # mapped elsewhere; but not on a machine that is made for one CPU.
    others = not_reserved(machine, addresses.reshape(-1)).reshape(addresses.shape)
    return understood(others.all(axis=1) & (addresses != 0).all(axis=1))


def every_copy(machine: Machine, caches: Caches, member: str) -> Tuple[I64, U64]:
    """
    Return where the per-CPU pointers of all caches lead, be it nowhere.

    :return: Position of the cache, and address, of each copy.
    """
    pointers = caches.rows[member]
    owner = np.flatnonzero(pointers)
    addresses = per_cpu_addresses(machine, pointers[owner])
    return np.repeat(owner, addresses.shape[1]), addresses.reshape(-1)
