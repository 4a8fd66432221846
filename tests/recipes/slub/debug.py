# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to what ``slub_debug`` promises, the cases of the kernel's own test among them."""

from __future__ import annotations

from typing import Callable

from drgn import offsetof, sizeof

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..overlay import Write
from ..writes import value
from .machine import Cache, Machine, Slab
from .suite import pointer, recipe

# What follows when an object's own metadata lie in the bytes written over.
_BYTES = frozenset({"redzone", "poison", "padding", "track"})


def _victim(machine: Machine, what: str, where: Callable[[Cache], bool]) -> Slab:
    if not any(cache.debug for cache in machine.caches):
        raise NoVictim("no cache is debugged")
    return machine.slab(
        what, lambda slab: slab.quiet and where(slab.cache) and bool(machine.used(slab))
    )


def _bytes(slab: Slab, code: str, object: int, at: int, data: bytes, place: str) -> Injury:
    write = Write(object + at, data)
    address = object if place != "padding at the end of the slab" else None
    return on_slab(slab, code, write, object=address, place=place)


def _red(machine: Machine) -> Slab:
    return _victim(
        machine,
        "red zones behind objects",
        lambda cache: "RED_ZONE" in cache.flags and cache.inuse > cache.object_size,
    )


def _poisoned(machine: Machine) -> Slab:
    return _victim(
        machine,
        "poisoned cache of 64 bytes",
        lambda cache: "OBJECT_POISON" in cache.flags and cache.object_size >= 64,
    )


@recipe
def kunit_clobber_zone(machine: Machine) -> Injury:
    slab = _red(machine)
    size = slab.cache.object_size
    return _bytes(slab, "redzone", machine.used(slab)[0], size, b"\x12", "right red zone")


@recipe
def kunit_next_pointer(machine: Machine) -> Injury:
    slab = _poisoned(machine)
    at = slab.free[1] + slab.cache.offset
    old = machine.prog.read_u8(at)
    return on_slab(slab, "freelist-pointer", value(at, ~old, 1), place="freelist", also=_BYTES)


@recipe
def kunit_next_pointer_restored_to_null(machine: Machine) -> Injury:
    """What the kernel's repair leaves: the chain ends where it was damaged."""
    slab = _poisoned(machine)
    write = pointer(machine, slab, slab.free[1], 0)
    return on_slab(slab, "count-mismatch", write, place="freelist", also=_BYTES)


@recipe
def kunit_first_word(machine: Machine) -> Injury:
    slab = _poisoned(machine)
    return _bytes(slab, "poison", slab.free[1], 0, b"\x78", "poison")


@recipe
def kunit_clobber_50th_byte(machine: Machine) -> Injury:
    slab = _poisoned(machine)
    return _bytes(slab, "poison", slab.free[1], 50, b"\x9a", "poison")


@recipe
def kunit_clobber_redzone_free(machine: Machine) -> Injury:
    slab = _red(machine)
    size = slab.cache.object_size
    return _bytes(slab, "redzone", slab.free[1], size, b"\xab", "right red zone")


@recipe
def kunit_kmalloc_redzone_access(machine: Machine) -> Injury:
    """Bytes beyond the size asked for, where the kernel keeps that size (6.2 on)."""
    wanted = {"KMALLOC", "STORE_USER", "RED_ZONE"}
    for slab in machine.slabs.values():
        if not slab.quiet or not wanted <= slab.cache.flags:
            continue
        for object in machine.used(slab):
            asked = machine.prog.read_u32(object + _asked(machine, slab.cache))
            rest = slab.cache.object_size - asked
            if rest < 4 or asked < 8:
                continue
            if machine.prog.read(object + asked, rest) == b"\xcc" * rest:
                place = "red zone after the size asked for"
                return _bytes(slab, "redzone", object, asked, b"\x18\x19", place)
    raise NoVictim("no object that is larger than what was asked for")


def _asked(machine: Machine, cache: Cache) -> int:
    # Behind the two tracks.
    end = cache.inuse + (8 if cache.offset >= cache.inuse else 0)
    return end + 2 * sizeof(machine.prog.type("struct track"))


@recipe
def left_red_zone_of_used_object(machine: Machine) -> Injury:
    slab = _victim(machine, "left red zones", lambda cache: cache.pad > 0)
    return _bytes(slab, "redzone", machine.used(slab)[0], -1, b"\x00", "left red zone")


@recipe
def left_red_zone_of_free_object(machine: Machine) -> Injury:
    slab = _victim(machine, "left red zones", lambda cache: cache.pad > 0)
    pad = slab.cache.pad
    return _bytes(slab, "redzone", slab.free[1], -pad, b"\x00" * pad, "left red zone")


@recipe
def poison_end(machine: Machine) -> Injury:
    slab = _poisoned(machine)
    last = slab.cache.object_size - 1
    return _bytes(slab, "poison", slab.free[1], last, b"\x6b", "poison")


@recipe
def used_after_free(machine: Machine) -> Injury:
    """Somebody stored a pointer into a free object."""
    slab = _poisoned(machine)
    data = slab.first.to_bytes(8, "little")
    return _bytes(slab, "poison", slab.free[2], 16, data, "poison")


@recipe
def slot_padding(machine: Machine) -> Injury:
    def roomy(slab: Slab) -> bool:
        cache = slab.cache
        room = cache.size - cache.pad - _asked(machine, cache)
        return "OBJECT_POISON" in cache.flags and room >= 16 and not _has_vector(machine, slab)

    slab = machine.slab(
        "padding between objects",
        lambda slab: slab.quiet and bool(machine.used(slab)) and roomy(slab),
    )
    at = slab.cache.size - slab.cache.pad - 1
    return _bytes(slab, "padding", machine.used(slab)[0], at, b"\x00", "padding after the slot")


def _has_vector(machine: Machine, slab: Slab) -> bool:
    # Since Linux 7.0 a vector of slabobj_ext may lie in the slab itself.
    descriptor = machine.prog.type(machine.descriptor)
    if not descriptor.has_member("obj_exts"):
        return False
    pointer = machine.prog.read_u64(slab.page + machine.offset("obj_exts"))
    return 0 <= pointer - slab.start < 4096 << slab.order


@recipe
def slab_tail_padding(machine: Machine) -> Injury:
    slab = machine.slab(
        "padding at the end of a slab",
        lambda slab: (
            slab.quiet
            and "OBJECT_POISON" in slab.cache.flags
            and (4096 << slab.order) - slab.objects * slab.cache.size >= 8
            and not _has_vector(machine, slab)
        ),
    )
    at = slab.start + slab.objects * slab.cache.size
    write = Write(at + 4, b"\x00")
    return on_slab(slab, "padding", write, place="padding at the end of the slab")


@recipe
def overflow_into_next_object(machine: Machine) -> Injury:
    """One object runs over into the next: two red zones and what lies between."""
    slab = _red(machine)
    object = machine.used(slab)[0]
    if object == slab.slot(slab.objects - 1):
        object = machine.used(slab)[1]
    size = slab.cache.object_size
    data = b"A" * (slab.cache.inuse - size)
    return _bytes(slab, "redzone", object, size, data, "right red zone")


@recipe
def track_of_allocation_wiped(machine: Machine) -> Injury:
    slab = _victim(machine, "tracks", lambda cache: "STORE_USER" in cache.flags)
    at = slab.cache.inuse + (8 if slab.cache.offset >= slab.cache.inuse else 0)
    at += offsetof(machine.prog.type("struct track"), "addr")
    object = machine.used(slab)[0]
    return _bytes(slab, "track", object, at, bytes(8), "caller of the allocation")


@recipe
def free_pointer_outside_the_object_garbage(machine: Machine) -> Injury:
    slab = _victim(
        machine,
        "free pointers outside of objects",
        lambda cache: cache.debug and cache.offset >= cache.inuse,
    )
    write = value(slab.free[1] + slab.cache.offset, 0x4242424242424242)
    return on_slab(slab, "freelist-pointer", write, place="freelist", also=_BYTES)
