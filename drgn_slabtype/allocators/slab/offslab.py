# SPDX-License-Identifier: LGPL-2.1-or-later
"""Index arrays that SLAB keeps in memory of their own."""

from __future__ import annotations

import numpy as np

from ...distinct import distinct
from ...index import KnownBy, SlabIndex
from ...ledger import I64, U64, Bools
from ...machine import Machine
from ...machine.kfence import KfencePool
from ..caches import Caches, in_kmalloc_table, same_cache
from ..whereabouts import find_slab
from .view import SlabView

_OFF_SLAB = 0x80000000
_LARGE_KMALLOC_PAGES = 2  # since Linux 6.1; more are not served from slabs


def off_slab_arrays(
    machine: Machine, caches: Caches, view: SlabView, pointer: U64, pool: KfencePool
) -> U64:
    """
    Return the address of each slab's index array, where kmalloc gave the memory; else 0.

    :param pointer: ``slab->freelist`` of each slab.
    """
    wanted = ((view.of_cache("flags") & np.uint64(_OFF_SLAB)) != 0) & ~view.detached
    home = view.homes(pointer)
    size = view.of_cache("freelist_size")
    good = wanted & (home >= 0)
    if len(caches):
        good &= caches.rows["object_size"][home] >= size
        good &= _gives_arrays(machine, caches, view, home)
    good |= wanted & pool.contains(pointer)
    good |= wanted & (home < 0) & view.in_strays(pointer)
    large = size > np.uint64(_LARGE_KMALLOC_PAGES * machine.memory.page_size)
    good |= wanted & large & machine.memory.is_kernel_address(pointer)
    return np.where(good, pointer, np.uint64(0))


def _gives_arrays(machine: Machine, caches: Caches, view: SlabView, home: I64) -> Bools:
    # Before Linux kernel commit e36ce448a08d ("mm/slab: use kmalloc() for
    # on-slab freelist") (in v6.1), a cache names the one its arrays are from.
    if caches.rows.structure.has("freelist_cache"):
        return caches.addresses[home] == view.of_cache("freelist_cache")
    return _is_kmalloc(machine, caches)[home]


def _is_kmalloc(machine: Machine, caches: Caches) -> Bools:
    # Which caches kmalloc() gives memory from; all of them if that is not known.
    listed = in_kmalloc_table(machine, caches.addresses)
    if listed is None:
        return np.ones(len(caches), np.bool_)
    named = [name.startswith("kmalloc-") for name in caches.names]
    # One entry may be damaged.
    return listed | np.array(named, np.bool_)


def add_hosts(index: SlabIndex, caches: Caches) -> None:
    """
    Add to an index of one slab the slab that its index array lies in.

    Where arrays of others may lie in the slab itself, nothing in it tells them
    from what users hold: a doubt that only the whole machine can settle.
    """
    machine, rows = index.machine, caches.rows
    owner = int(same_cache(index["slab_cache"], caches)[0]) if len(index) else -1
    if owner < 0:
        return
    off_slab = (rows["flags"] & np.uint64(_OFF_SLAB)) != 0
    if _may_host(machine, caches, owner, off_slab):
        index.doubts.append("index arrays of other slabs may lie in it")
    if off_slab[owner]:
        source = machine.memory
        pointer = int(index["freelist"][0])
        host = find_slab(machine, (pointer - source.linear_base) >> source.page_shift)
        if host.page is not None:
            index.add(np.array([host.page], np.uint64), KnownBy.POINTER)


def _may_host(machine: Machine, caches: Caches, owner: int, off_slab: Bools) -> bool:
    rows = caches.rows
    if rows.structure.has("freelist_cache"):
        return bool((rows["freelist_cache"][off_slab] == caches.addresses[owner]).any())
    kmalloc = _is_kmalloc(machine, caches)
    if not kmalloc[owner]:
        return False
    # Each array is in the smallest object that kmalloc() has for it.
    sizes = distinct(rows["object_size"][kmalloc])
    at = np.searchsorted(sizes, rows["freelist_size"][off_slab])
    return bool((sizes[at[at < len(sizes)]] == rows["object_size"][owner]).any())
