# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Objects in KFENCE's pool
------------------------

KFENCE serves now and then an allocation of any cache from a page of its own.
Such an object is in none of the cache's slabs; its metadata tells its state.
"""

from __future__ import annotations

from typing import Counter, Iterator, List, Mapping, Optional, Tuple

from ..index import SlabIndex
from ..machine import Machine
from ..machine.kfence import KfencePool, kfence_pool
from .states import SlabObject

STATES: Mapping[str, str] = {
    "KFENCE_OBJECT_UNUSED": "free",
    "KFENCE_OBJECT_ALLOCATED": "in use",
    "KFENCE_OBJECT_RCU_FREEING": "waiting",
    "KFENCE_OBJECT_FREED": "free",
}
"""What KFENCE's states are called here."""


def state_of(machine: Machine, value: int) -> str:
    """Return the state of a KFENCE object from ``kfence_metadata.state``."""
    names = {
        number: name
        for name, number in machine.prog.type("enum kfence_object_state").enumerators or ()
    }
    return STATES.get(names.get(value, ""), "unknown")


def guarded_counts(machine: Machine) -> Counter[int]:
    """Return how many objects of each ``struct kmem_cache *`` KFENCE's pool has."""
    pool = machine.settled(kfence_pool)
    return Counter(owner for owner, _, _ in _held(machine, pool))


def guarded_objects(
    machine: Machine, pool: KfencePool, index: SlabIndex, cache: Optional[int] = None
) -> List[Tuple[int, SlabObject]]:
    """
    Return the objects in KFENCE's pool that have not come back to it.

    :param cache: ``struct kmem_cache *``; all caches if ``None``.
    :return: (``struct kmem_cache *``, object) of each.
    """
    memory = machine.memory
    found = []
    for owner, address, state in _held(machine, pool):
        if cache in (None, owner):
            page = index.page_of((address - memory.linear_base) >> memory.page_shift)
            found.append((owner, SlabObject(address, page, 0, state, "KFENCE", None)))
    return found


def _held(machine: Machine, pool: KfencePool) -> Iterator[Tuple[int, int, str]]:
    # (struct kmem_cache *, address, state) of each object that has not come back to the pool:
    # one that was freed belongs to it again.
    for rows in pool.metadata:
        columns = (rows[name].tolist() for name in ("cache", "addr", "state"))
        for owner, address, value in zip(*columns):
            if owner and pool.start <= address < pool.end:
                state = state_of(machine, value)
                if state != "free":
                    yield owner, address, state
