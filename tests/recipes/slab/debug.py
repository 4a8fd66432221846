# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to what CONFIG_DEBUG_SLAB keeps around objects, and to the poison in them."""

from __future__ import annotations

from typing import Tuple

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..overlay import Write
from .machine import Machine, Slab
from .suite import recipe

RED_ZONE, POISON, STORE_USER = 0x400, 0x800, 0x10000

Victim = Tuple[Slab, int]
"""A slab, and the index of an object in it."""


def _has(slab: Slab, flags: int) -> bool:
    return bool(slab.cache.object.flags.value_() & flags == flags)


def _used(machine: Machine, flags: int) -> Victim:
    # An object that its user holds.
    for slab in machine.all_slabs(lambda slab: slab.kind == "full" and _has(slab, flags)):
        parked = machine.parked(slab)
        for index in range(slab.cache.num):
            if index not in parked:
                return slab, index
    raise NoVictim("no object in use of a cache with such debugging")


def _free(machine: Machine, flags: int) -> Victim:
    # A free object that holds no index array.
    for slab in machine.all_slabs(lambda slab: _has(slab, flags) and len(slab.free) > 2):
        for index in slab.free:
            if slab.slot(index) + slab.cache.obj_offset != slab.freelist:
                return slab, index
    raise NoVictim("no free object of a cache with such debugging")


def _cached(machine: Machine, flags: int) -> Victim:
    # An object in an array cache.
    for array in machine.all_arrays(lambda array: array.kind == "cpu"):
        for entry in array.entries:
            home = machine.home(entry)
            if home is not None and home[0].active < home[0].cache.num and _has(home[0], flags):
                return home
    raise NoVictim("no object of a cache with such debugging in an array")


def _bytes(victim: Victim, offset: int, data: bytes, code: str, place: str) -> Injury:
    # *offset* counts from the slot, from its end if negative.
    slab, index = victim
    at = slab.slot(index) + (offset if offset >= 0 else slab.cache.size + offset)
    address = slab.slot(index) + slab.cache.obj_offset
    return on_slab(slab, code, Write(at, data), object=address, place=place)


def _lead(victim: Victim) -> int:
    return victim[0].cache.obj_offset


@recipe
def first_red_zone_overwritten(machine: Machine) -> Injury:
    victim = _used(machine, RED_ZONE)
    return _bytes(victim, _lead(victim) - 1, b"\x00", "redzone", "first red zone")


@recipe
def second_red_zone_overwritten(machine: Machine) -> Injury:
    """One byte beyond the end, where the object fills its slot."""
    victim = _used(machine, RED_ZONE | STORE_USER)
    return _bytes(victim, -16, b"\x12", "redzone", "second red zone")


@recipe
def red_zone_of_free_object_overwritten(machine: Machine) -> Injury:
    victim = _free(machine, RED_ZONE | STORE_USER)
    return _bytes(victim, -16, b"\xab", "redzone", "second red zone")


@recipe
def poison_overwritten(machine: Machine) -> Injury:
    victim = _free(machine, POISON)
    return _bytes(victim, _lead(victim) + 1, b"\x78", "poison", "poison")


@recipe
def poison_end_overwritten(machine: Machine) -> Injury:
    victim = _free(machine, POISON)
    end = _lead(victim) + int(victim[0].cache.object.object_size) - 1
    return _bytes(victim, end, b"\x6b", "poison", "poison")


@recipe
def poison_of_cached_object_overwritten(machine: Machine) -> Injury:
    victim = _cached(machine, POISON)
    return _bytes(victim, _lead(victim) + 3, b"\x00", "poison", "poison")


@recipe
def poison_behind_index_array_overwritten(machine: Machine) -> Injury:
    slab = machine.slab(
        "index array in a poisoned object",
        lambda slab: (
            slab.cache.mode == "objfreelist"
            and bool(slab.free)
            and _has(slab, POISON)
            and int(slab.cache.object.object_size) > slab.cache.freelist_size + 8
        ),
    )
    where = slab.cache.obj_offset + slab.cache.freelist_size
    return _bytes((slab, slab.free[-1]), where, b"\x00", "poison", "poison")


@recipe
def last_caller_cleared(machine: Machine) -> Injury:
    return _bytes(_used(machine, STORE_USER), -8, bytes(8), "track", "last caller")
