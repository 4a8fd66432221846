# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to what ``slub_debug`` promises, the cases of the kernel's own test among them."""

from __future__ import annotations

from typing import Any, Callable, Iterator

from drgn import Architecture, offsetof, sizeof

from ..changes import Number, flip, of, put, store
from ..language import NOW, Root, Victim
from ..overlay import order_of
from ..things import Beside, Item
from ..victims import given, picks, quiet, slab
from .machine import Machine
from .suite import pointer, recipe
from .things import Cache, Slab, flag_bits

# What follows when an object's own metadata lie in the bytes written over.
_BYTES = frozenset({"redzone", "poison", "padding", "track"})
_CODES = {"poison": "poison", "padding after the slot": "padding"}
_CODES["caller of the allocation"] = "track"


def _debugged(what: str, where: Callable[[Cache], Any]) -> Victim[Any]:
    return given(
        lambda machine: any(cache.debug for cache in machine.caches),
        "no cache is debugged",
        slab(what, quiet, lambda slab: where(slab.cache) and slab.used()),
    )


def _used(victim: Victim[Any], at: int = 0) -> Victim[Any]:
    return lambda machine: victim(machine).used()[at]


def _free(victim: Victim[Any], at: int = 1) -> Victim[Any]:
    def pick(machine: Machine) -> Item:
        slab = victim(machine)
        return Item(slab, slab.free[at])

    return pick


def _bytes(name: str, victim: Victim[Any], at: Number, data: Any, place: str) -> None:
    # *at* counts from the object.
    root = Root(_CODES.get(place, "redzone"), place=place)
    recipe(name, victim, store(lambda item: item.address + of(at, item), data), root)


def _asked(cache: Cache) -> int:
    # Where the size is that was asked for: behind the two tracks.
    return cache.behind_pointer + 2 * sizeof(cache.machine.prog.type("struct track"))


_RED = _debugged(
    "red zones behind objects",
    lambda cache: "RED_ZONE" in cache.flags and cache.inuse > cache.object_size,
)
_LEFT = _debugged("left red zones", lambda cache: cache.pad > 0)
_POISONED = _debugged(
    "poisoned cache of 64 bytes",
    lambda cache: "OBJECT_POISON" in cache.flags and cache.object_size >= 64,
)


def _end(item: Any) -> int:
    return int(item.cache.object_size)


_bytes("kunit-clobber-zone", _used(_RED), _end, b"\x12", "right red zone")


@picks("object that the allocator lives in")
def _lived_in(machine: Machine) -> Iterator[Item]:
    own = {cache.address for cache in machine.caches}
    for found in machine.slabs.values():
        if found.cache.name == "kmem_cache" and "RED_ZONE" in found.cache.flags:
            yield from (item for item in found.used() if item.address in own)


_bytes("red-zone-of-a-cache", _lived_in, _end, b"\x41" * 4, "right red zone")
_bytes("kunit-first-word", _free(_POISONED), 0, b"\x78", "poison")
_bytes("kunit-clobber-50th-byte", _free(_POISONED), 50, b"\x9a", "poison")
_bytes("kunit-clobber-redzone-free", _free(_RED), _end, b"\xab", "right red zone")
_bytes("left-red-zone-of-used-object", _used(_LEFT), -1, b"\x00", "left red zone")
_bytes(
    "left-red-zone-of-free-object",
    _free(_LEFT),
    lambda item: -item.cache.pad,
    lambda item: bytes(item.cache.pad),
    "left red zone",
)
_bytes("poison-end", _free(_POISONED), lambda item: _end(item) - 1, b"\x6b", "poison")
# Somebody stored a pointer into a free object.
_bytes(
    "used-after-free",
    _free(_POISONED, 2),
    16,
    lambda item: item.slab.first.to_bytes(8, order_of(item.machine.prog)),
    "poison",
)


# Written over the end of an object in use, where nothing guards it.
_CODES["free pointer of an object in use"] = "padding"
_bytes(
    "free-pointer-of-used-object",
    _used(_debugged("free pointers behind objects", lambda cache: cache.offset >= cache.inuse)),
    lambda item: item.cache.offset,
    b"overflow",
    "free pointer of an object in use",
)


def _not_last(machine: Machine) -> Item:
    some = _RED(machine).used()
    found: Item = some[some[0].address == some[0].slab.slot(some[0].slab.objects - 1)]
    return found


# One object runs over into the next: two red zones and what lies between.
_bytes(
    "overflow-into-next-object",
    _not_last,
    _end,
    lambda item: b"A" * (item.cache.inuse - _end(item)),
    "right red zone",
)
_bytes(
    "track-of-allocation-wiped",
    _used(_debugged("tracks", lambda cache: "STORE_USER" in cache.flags)),
    lambda item: (
        item.cache.behind_pointer + offsetof(item.machine.prog.type("struct track"), "addr")
    ),
    bytes(8),
    "caller of the allocation",
)
# Text begins with no byte that an address of the kernel's has.
_bytes(
    "track-of-allocation-text",
    _used(_debugged("tracks", lambda cache: "STORE_USER" in cache.flags)),
    lambda item: (
        item.cache.behind_pointer + offsetof(item.machine.prog.type("struct track"), "addr")
    ),
    b"overflow",
    "caller of the allocation",
)


@picks("object that is larger than what was asked for")
def _larger_than_asked(machine: Machine) -> Iterator[Beside]:
    # Objects of kmalloc(), and the sizes asked for, where the kernel keeps them (6.2 on).
    for found in filter(quiet, machine.all_slabs()):
        if not {"KMALLOC", "STORE_USER", "RED_ZONE"} <= found.cache.flags:
            continue
        for item in found.used():
            asked = machine.prog.read_u32(item.address + _asked(found.cache))
            rest = _end(item) - asked
            if rest < 4 or asked < 8:
                continue
            if machine.prog.read(item.address + asked, rest) == b"\xcc" * rest:
                yield Beside(item, asked)


_bytes(
    "kunit-kmalloc-redzone-access",
    _larger_than_asked,
    lambda v: v.other,
    b"\x18\x19",
    "red zone after the size asked for",
)

# Padding.


def _has_vector(slab: Slab) -> bool:
    # Since Linux 7.0 a vector of slabobj_ext may lie in the slab itself.
    if not slab.machine.prog.type(slab.layout).has_member("obj_exts"):
        return False
    return 0 <= slab.kept("obj_exts") - slab.start < slab.span


def _padded(slab: Slab) -> bool:
    return slab.quiet and "OBJECT_POISON" in slab.cache.flags and not _has_vector(slab)


def _roomy(slab: Slab) -> bool:
    return slab.cache.size - slab.cache.pad - _asked(slab.cache) >= 16


def _rest(slab: Slab) -> int:
    # Where the last slot ends.
    return slab.start + slab.objects * slab.cache.size


_bytes(
    "slot-padding",
    _used(slab("padding between objects", _padded, _roomy, Slab.used)),
    lambda item: item.cache.size - item.cache.pad - 1,
    b"\x00",
    "padding after the slot",
)
recipe(
    "slab-tail-padding",
    slab(
        "padding at the end of a slab",
        _padded,
        lambda slab: slab.start + slab.span - _rest(slab) >= 8,
    ),
    store(lambda slab: _rest(slab) + 4, b"\x00"),
    Root("padding", place="padding at the end of the slab"),
)

# Of caches whose objects must not be poisoned: they have a constructor, or are read
# after they are freed.
_bytes(
    "slot-padding-of-unpoisoned-cache",
    _used(
        slab(
            "padding between objects that are not poisoned",
            lambda slab: slab.quiet and not _has_vector(slab),
            lambda slab: {"POISON", "STORE_USER"} <= slab.cache.flags,
            lambda slab: "OBJECT_POISON" not in slab.cache.flags,
            _roomy,
            Slab.used,
        )
    ),
    lambda item: item.cache.size - item.cache.pad - 1,
    b"\x00",
    "padding after the slot",
)

# Free pointers.

_POINTER = Root("freelist-pointer", place="freelist", also=_BYTES)
_OUTSIDE = _debugged(
    "free pointers outside of objects", lambda cache: cache.debug and cache.offset >= cache.inuse
)


def _pointer_byte(slab: Slab) -> int:
    return slab.free[1] + slab.cache.offset


recipe(
    "kunit-next-pointer",
    _POISONED,
    store(_pointer_byte, lambda s: bytes([s.machine.prog.read_u8(_pointer_byte(s)) ^ 0xFF])),
    _POINTER,
)
# What the kernel's repair leaves: the chain ends where it was damaged.
recipe(
    "kunit-next-pointer-restored-to-null",
    _POISONED,
    put(pointer(1), 0),
    _POINTER.but(code="count-mismatch"),
)
recipe(
    "free-pointer-outside-the-object-garbage", _OUTSIDE, store(_pointer_byte, b"\x42" * 8), _POINTER
)


@picks("caches whose objects all know who allocated them")
def _tracked(machine: Machine) -> Iterator[Cache]:
    debugged = [cache for cache in machine.caches if cache.debug]
    if debugged and all("STORE_USER" in cache.flags for cache in debugged):
        yield from (cache for cache in debugged if machine.slabs_of(cache) and not cache.lived_in)


recipe(
    "tracking-flag-lost",
    _tracked,
    flip("flags", lambda cache: flag_bits(cache.machine.prog)["STORE_USER"]),
    Root("cache-wrong", found=NOW),
)


# KASAN.


def _has_shadow(machine: Machine) -> bool:
    # Of generic KASAN, on x86-64 (arch/x86/Kconfig: KASAN_SHADOW_OFFSET).
    platform = machine.prog.platform
    info = machine.prog.type("struct kmem_cache")
    if (
        platform is None
        or platform.arch != Architecture.X86_64
        or not info.has_member("kasan_info")
    ):
        return False
    return info.member("kasan_info").type.has_member("alloc_meta_offset")


_WATCHED = given(
    _has_shadow,
    "no KASAN has a shadow here",
    slab(
        "free objects that may not be touched",
        quiet,
        lambda slab: "TYPESAFE_BY_RCU" not in slab.cache.flags and len(slab.free) > 1,
    ),
)
recipe(
    "free-object-may-be-touched",
    _free(_WATCHED),
    store(
        lambda item: ((item.address >> 3) + 0xDFFFFC0000000000) & (1 << 64) - 1,
        lambda item: bytes(-(-_end(item) // 8)),
    ),
    Root("shadow", place="KASAN's shadow"),
)
