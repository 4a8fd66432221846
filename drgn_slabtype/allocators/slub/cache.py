# SPDX-License-Identifier: LGPL-2.1-or-later
"""The members of SLUB's ``struct kmem_cache`` that reading its slabs needs."""

from __future__ import annotations

from typing import Mapping

from ...ledger import Facts
from ...machine import Machine
from ...rules.members import SlubMembers, usual_inuse
from ..caches import Caches

# Values of the macros before Linux kernel commit cc61eb85b1a7 ("mm, slab: use
# an enum to define SLAB_ cache creation flags") (in v6.9); unchanged for years.
_MACROS = {
    "CONSISTENCY_CHECKS": 0x100,
    "RED_ZONE": 0x400,
    "POISON": 0x800,
    "KMALLOC": 0x1000,
    "STORE_USER": 0x10000,
    "TYPESAFE_BY_RCU": 0x80000,
    "TRACE": 0x200000,
    "OBJECT_POISON": 0x80000000,
}


def slab_flags(machine: Machine) -> Mapping[str, int]:
    """
    Return the values of ``kmem_cache.flags`` bits by name, without ``SLAB_``.

    The enum's bit numbers depend on the configuration, the macros' values do not.
    """
    try:
        machine.prog["_SLAB_RED_ZONE"]
    except LookupError:
        return _MACROS
    return {name: 1 << int(machine.prog["_SLAB_" + name]) for name in _MACROS}


def checked_by(flags: Mapping[str, int]) -> int:
    """Return the bits with any of which the kernel handles a cache on its slow, checked paths."""
    bits = 0
    for name in ("RED_ZONE", "POISON", "STORE_USER", "TRACE", "CONSISTENCY_CHECKS"):
        bits |= flags[name]
    return bits


class SlubCache:
    """One slab cache."""

    def __init__(self, caches: Caches, number: int, flags: Mapping[str, int], cpus: int) -> None:
        rows = caches.rows

        def value(member: str, default: int = 0) -> int:
            return int(rows[member][number]) if rows.structure.has(member) else default

        set_flags = value("flags")

        def has(flag: str) -> bool:
            return bool(set_flags & flags[flag])

        self.number = number
        self.offset = value("offset")
        """Offset of the free pointer in an object, in bytes."""
        self.red_zone = has("RED_ZONE")
        self.poison = has("OBJECT_POISON")
        """Whether free objects are poisoned."""
        self.padded = has("POISON")
        """Whether padding is: that of caches whose objects must not be poisoned, too."""
        self.store_user = has("STORE_USER")
        self.kmalloc = has("KMALLOC")
        self.typesafe_by_rcu = has("TYPESAFE_BY_RCU")
        self.debug = bool(set_flags & checked_by(flags))
        """Whether the kernel handles the cache on its slow, checked paths."""
        self.red_left_pad = value("red_left_pad") if self.red_zone else 0
        """Bytes before the first object."""
        self.align = value("align")
        self.kasan_alloc = value("kasan_info.alloc_meta_offset")
        """Offset of what KASAN keeps of the allocation, from the object; 0: none."""
        self.kasan_free = value("kasan_info.free_meta_offset")
        """The same of the free; 0: in the object, or none."""
        self.object_size = value("object_size")
        self.size = max(value("size"), 1)
        self.inuse = value("inuse")
        """Bytes of an object up to its metadata; what they must be, where it is in no slot."""
        if self.inuse > self.size:
            word = rows.structure.size_of("ctor")
            self.inuse = usual_inuse(self.object_size, self.red_zone, word)
        self.random = value("random", -1)
        """Secret of hardened free pointers; -1 without CONFIG_SLAB_FREELIST_HARDENED."""
        usual, least = value("oo.x"), value("min.x")
        self.order = min(usual >> 16, 24)
        self.min_order = min(least >> 16, 24)
        self.orders = tuple((x >> 16, x & 0xFFFF) for x in (usual, least))
        """(order, objects of a slab) of ``oo`` and ``min``."""
        # What a CPU can have taken off its chain of partial slabs to give back.
        # Since Linux 5.16 the limit is in slabs; before, in objects.
        chain = value("cpu_partial_slabs", value("cpu_partial"))
        # Since "slab: add optimized sheaf refill from partial list" (in v7.0), a
        # sheaf is filled from as many slabs of the partial list as it takes, off
        # it all at once.
        self.hands_out_several = rows.structure.has("sheaf_capacity") and not (
            rows.structure.has("cpu_slab")
        )
        """Whether a new slab may lose several objects before it stands anywhere."""
        capacity = value("sheaf_capacity") if self.hands_out_several else 0
        self.facts = Facts(
            caches.names[number],
            int(rows.addresses[number]),
            self.object_size,
            self.size,
            usual & 0xFFFF,
            in_flight=cpus * (1 + chain),
            refill=cpus * (capacity + (usual & 0xFFFF)) if capacity > 0 else 0,
        )


def slub_members(caches: Caches, cache: SlubCache, word: int) -> SlubMembers:
    """
    Return the members of a cache that follow from each other, as they are in memory.

    :param word: Bytes of a pointer.
    """
    rows, number = caches.rows, cache.number

    def value(member: str) -> int:
        return int(rows[member][number])

    def has(member: str) -> bool:
        return rows.structure.has(member)

    behind = cache.padded or cache.typesafe_by_rcu or value("ctor") != 0
    return SlubMembers(
        word,
        value("size"),
        cache.object_size,
        value("inuse"),
        value("align"),
        cache.offset,
        cache.red_zone,
        value("red_left_pad") if has("red_left_pad") else None,
        (value("useroffset"), value("usersize")) if has("usersize") else None,
        not (behind or cache.red_zone),
    )
