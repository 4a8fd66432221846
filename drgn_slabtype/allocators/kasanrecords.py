# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What generic KASAN keeps of objects
-----------------------------------

Behind each object who allocated it, and in it or behind it who freed it last. The
offsets are the cache's own; handles lead to call traces in the stack depot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Optional

import numpy as np

from ..distinct import distinct
from ..index import SlabIndex
from ..ledger import U64, Bools
from ..machine import Machine
from ..machine.shadow import FREED_WITH_TRACK, GRANULE, shadow
from ..machine.symbols import depot_regions
from ..regions import Region, region
from .caches import Caches

if TYPE_CHECKING:
    from .base import Allocator

TRACK = "struct kasan_track"
_NO_FREE_META = (1 << 31) - 1  # KASAN_NO_FREE_META


class Records(NamedTuple):
    """Where a ``struct kasan_track`` lies, in bytes from the object's address."""

    allocated: Optional[int]
    freed: Optional[int]
    """Only what the shadow says is freed has one."""


def records(machine: Machine, caches: Caches, number: int) -> Optional[Records]:
    """
    Return where KASAN keeps who allocated and who freed the objects of a cache.

    :param number: Position of the cache.
    :return: ``None`` without generic KASAN.
    """
    if not caches.rows.structure.has("kasan_info.alloc_meta_offset"):
        return None
    alloc = int(caches.rows["kasan_info.alloc_meta_offset"][number])
    free = int(caches.rows["kasan_info.free_meta_offset"][number])
    found = Records(
        _inside(machine, "struct kasan_alloc_meta", "alloc_track", alloc) if alloc else None,
        # 0 is a place, too: within the object.
        _inside(machine, "struct kasan_free_meta", "free_track", free)
        if free < _NO_FREE_META
        else None,
    )
    return None if found == Records(None, None) else found


def _inside(machine: Machine, type: str, member: str, offset: int) -> Optional[int]:
    try:
        structure = machine.structure(type)
    except LookupError:
        return None
    return offset + structure.offset(member) if structure.has(member) else None


def is_freed(machine: Machine, addresses: U64) -> Bools:
    """Return of which objects KASAN's shadow says that it is kept who freed them."""
    said = machine.settled(shadow)
    if said is None:
        return np.zeros(len(addresses), np.bool_)
    first = said.read(addresses, GRANULE)
    freed: Bools = first.ok & (first.bytes[:, 0] == FREED_WITH_TRACK)
    return freed


def regions(allocator: Allocator, index: SlabIndex) -> Iterator[Region]:
    """Yield the records of all objects, and the call traces that they lead to."""
    machine, handles = index.machine, [np.zeros(0, np.uint64)]
    for number in range(len(allocator.caches)):
        where = records(machine, allocator.caches, number)
        if where is not None:
            for addresses in _addresses(machine, where, _objects(allocator, number, index)):
                yield region("KASAN's records", addresses, machine.structure(TRACK).size)
                handles.append(distinct(machine.rows(TRACK, addresses)["stack"]))
    if len(handles) > 1:
        yield from depot_regions(machine, np.concatenate(handles))


def _objects(allocator: Allocator, number: int, index: SlabIndex) -> U64:
    ledger = allocator.collect(number, index)
    slabs, stride = ledger.slabs, np.uint64(ledger.facts.stride)
    counts = np.maximum(slabs.objects, 0)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    place = (np.arange(len(starts)) - starts).astype(np.uint64)
    objects: U64 = np.repeat(slabs.base, counts) + place * stride
    return objects


def _addresses(machine: Machine, where: Records, objects: U64) -> List[U64]:
    found = []
    if where.allocated is not None:
        found.append(objects + np.uint64(where.allocated))
    if where.freed is not None:
        found.append(objects[is_freed(machine, objects)] + np.uint64(where.freed))
    return found
