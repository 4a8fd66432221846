# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pointers into the middle of an object
-------------------------------------

The structures that all caches keep of nodes are objects of a few slabs, and in each
slab objects begin at one distance from each other. A pointer that leads between two
beginnings is damaged; what is read through it is no structure.
"""

from __future__ import annotations

import numpy as np

from ..index import slabs_at
from ..ledger import U64, Bools
from ..machine import Machine
from .caches import Caches, same_cache
from .whereabouts import find_slab

_FEWEST = 8  # pointers, before anything is usual among them
_SHARE = 10  # of which all but one have what is usual
_MOST = 64  # that are looked up


def inside_objects(machine: Machine, caches: Caches, pointers: U64) -> Bools:
    """
    Return which pointers lead into objects, and not to where these begin.

    Only those are looked up that are less aligned than nearly all others, and only where
    two more lead into the same slab, and all of these fit each other.

    :param pointers: Of one kind of structure, of all caches.
    """
    found = np.zeros(len(pointers), np.bool_)
    there = np.flatnonzero(pointers)
    if len(there) < _FEWEST:
        return found
    aligned = pointers[there] & (~pointers[there] + np.uint64(1))
    usual = np.sort(aligned)[len(there) // _SHARE]
    for row in there[aligned < usual][:_MOST].tolist():
        found[row] = _between(machine, caches, pointers, int(pointers[row]))
    return found


def _between(machine: Machine, caches: Caches, pointers: U64, pointer: int) -> bool:
    memory = machine.memory
    if not memory.in_direct_map(np.array([pointer], np.uint64))[0]:
        return False
    page = find_slab(machine, (pointer - memory.linear_base) >> memory.page_shift).page
    if page is None:
        return False
    slab = slabs_at(machine, np.array([page], np.uint64))
    cache = int(same_cache(slab["slab_cache"], caches)[0])
    size = int(caches.rows["size"][cache]) if cache >= 0 else 0
    if size < memory.word_size:
        return False
    start = int(slab.addresses[0])
    span = memory.page_size << min(int(slab.orders[0]), 10)
    inside = (pointers >= np.uint64(start)) & (pointers < np.uint64(start + span))
    others = [at for at in set(pointers[inside].tolist()) if at != pointer]
    rests = {(at - pointer) % size for at in others}
    return len(others) > 1 and len(rests) == 1 and rests != {0}
