# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to what CONFIG_DEBUG_SLAB keeps around objects, and to the poison in them."""

from __future__ import annotations

from typing import Optional, Tuple

from .overlay import Write
from .recipe import Injury, recipe
from .slabmachine import Machine, Slab

RED_ZONE, POISON, STORE_USER = 0x400, 0x800, 0x10000


def _has(slab: Slab, flags: int) -> bool:
    return bool(slab.cache.object.flags.value_() & flags == flags)


def _used(machine: Machine, flags: int) -> Optional[Tuple[Slab, int]]:
    # An object that its user holds.
    for slab in machine.all_slabs(lambda slab: slab.kind == "full" and _has(slab, flags)):
        parked = machine.parked(slab)
        for index in range(slab.cache.num):
            if index not in parked:
                return slab, index
    return None


def _free(machine: Machine, flags: int) -> Optional[Tuple[Slab, int]]:
    # A free object that holds no index array.
    for slab in machine.all_slabs(lambda slab: _has(slab, flags) and len(slab.free) > 2):
        for index in slab.free:
            if slab.slot(index) + slab.cache.obj_offset != slab.freelist:
                return slab, index
    return None


def _cached(machine: Machine, flags: int) -> Optional[Tuple[Slab, int]]:
    # An object in an array cache.
    for array in machine.all_arrays(lambda array: array.kind == "cpu"):
        for entry in array.entries:
            home = machine.home(entry)
            if home is not None and home[0].active < home[0].cache.num and _has(home[0], flags):
                return home
    return None


def _bytes(
    victim: Optional[Tuple[Slab, int]], offset: int, data: bytes, code: str, place: str
) -> Optional[Injury]:
    # *offset* counts from the slot, from its end if negative.
    if victim is None:
        return None
    slab, index = victim
    at = slab.slot(index) + (offset if offset >= 0 else slab.cache.size + offset)
    address = slab.slot(index) + slab.cache.obj_offset
    return Injury(
        [Write(at, data)], code, slab.cache.name, slab.page, slab.nid, object=address, place=place
    )


def _lead(victim: Optional[Tuple[Slab, int]]) -> int:
    return victim[0].cache.obj_offset if victim else 0


@recipe
def first_red_zone_overwritten(machine: Machine) -> Optional[Injury]:
    victim = _used(machine, RED_ZONE)
    at = _lead(victim) - 1
    return _bytes(victim, at, b"\x00", "redzone", "first red zone") if victim else None


@recipe
def second_red_zone_overwritten(machine: Machine) -> Optional[Injury]:
    # One byte beyond the end, where the object fills its slot.
    victim = _used(machine, RED_ZONE | STORE_USER)
    return _bytes(victim, -16, b"\x12", "redzone", "second red zone")


@recipe
def red_zone_of_free_object_overwritten(machine: Machine) -> Optional[Injury]:
    victim = _free(machine, RED_ZONE | STORE_USER)
    return _bytes(victim, -16, b"\xab", "redzone", "second red zone")


@recipe
def poison_overwritten(machine: Machine) -> Optional[Injury]:
    victim = _free(machine, POISON)
    return _bytes(victim, _lead(victim) + 1, b"\x78", "poison", "poison")


@recipe
def poison_end_overwritten(machine: Machine) -> Optional[Injury]:
    victim = _free(machine, POISON)
    if victim is None:
        return None
    end = _lead(victim) + int(victim[0].cache.object.object_size) - 1
    return _bytes(victim, end, b"\x6b", "poison", "poison")


@recipe
def poison_of_cached_object_overwritten(machine: Machine) -> Optional[Injury]:
    victim = _cached(machine, POISON)
    return _bytes(victim, _lead(victim) + 3, b"\x00", "poison", "poison")


@recipe
def poison_behind_index_array_overwritten(machine: Machine) -> Optional[Injury]:
    def victim(slab: Slab) -> bool:
        mode = slab.cache.mode == "objfreelist" and bool(slab.free) and _has(slab, POISON)
        return mode and int(slab.cache.object.object_size) > slab.cache.freelist_size + 8

    slab = next(machine.all_slabs(victim), None)
    if slab is None:
        return None
    where = slab.cache.obj_offset + slab.cache.freelist_size
    return _bytes((slab, slab.free[-1]), where, b"\x00", "poison", "poison")


@recipe
def last_caller_cleared(machine: Machine) -> Optional[Injury]:
    return _bytes(_used(machine, STORE_USER), -8, bytes(8), "track", "last caller")
