# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All declarations together
-------------------------

What cannot be declared, because the kernel lacks it or is damaged there, is
named and left out; the rest is captured all the same.
"""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, List, Set, Tuple

import numpy as np
from drgn import FaultError

from ..allocators import open_allocator
from ..allocators.caches import Caches, read_caches
from ..allocators.slab.allocator import SlabAllocator
from ..allocators.slub.allocator import SlubAllocator
from ..index import SlabIndex
from ..machine import Machine
from ..pages.scan import scan
from ..regions import Region, region
from . import ground
from .slab import SlabRegions
from .slabs import MAX_ORDER
from .slub import SlubRegions


def declared_regions(machine: Machine) -> Tuple[List[Region], Set[str]]:
    """
    Return every region of a program, and the names of what could not be declared.

    :raises SlabTypeError: if the kernel is not one this package understands.
    """
    regions: List[Region] = []
    missing: Set[str] = set()

    def take(name: str, declare: Callable[[], Iterable[Region]]) -> None:
        try:
            regions.extend(declare())
        except (FaultError, LookupError):
            missing.add(name)

    take("variables", lambda: ground.variables(machine))
    take("memory map", lambda: ground.memory_map(machine))
    take("sections", lambda: ground.sections(machine))
    take("nodes", lambda: ground.nodes(machine))
    take("KFENCE", lambda: ground.kfence(machine))
    take("page tables", lambda: ground.translation(machine))
    index = SlabIndex(machine, scan(machine).heads, mapped=True)
    allocator = open_allocator(machine, read_caches(machine))
    allocator.discover(index)
    caches = allocator.caches
    take("slab caches", lambda: _caches(machine, caches))
    take("slab pages", lambda: _slab_pages(machine, index))
    if isinstance(allocator, SlabAllocator):
        slab = SlabRegions(allocator, index)
        take("per-CPU caches", slab.cpus)
        take("cache nodes", slab.nodes)
        take("objects", slab.objects)
    elif isinstance(allocator, SlubAllocator):
        slub = SlubRegions(allocator, index)
        take("per-CPU caches", slub.cpus)
        take("cache nodes", slub.nodes)
        take("deferred frees", slub.deferred)
        take("objects", slub.objects)
        take("stack traces", slub.traces)
    return regions, missing


def _caches(machine: Machine, caches: Caches) -> Iterator[Region]:
    yield region("slab caches", caches.addresses, caches.rows.raw.shape[1])
    for pointer in caches.rows["name"].tolist():
        try:
            name = machine.prog.read_c_string(pointer, max_size=256)
        except FaultError:
            continue
        yield region("slab caches", pointer, len(name) + 1)


def _slab_pages(machine: Machine, index: SlabIndex) -> Iterator[Region]:
    orders = np.minimum(index.orders, MAX_ORDER).astype(np.uint64)
    sizes = np.uint64(machine.memory.page_size) << orders
    yield region("slab pages", index.addresses, sizes, masked=True)
