# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to ``struct kmem_cache``: what all slabs contradict at once."""

from __future__ import annotations

from typing import Dict, List

from .language import Injury, NoVictim
from .machine import has_member
from .overlay import Write
from .slubmachine import Cache, Machine
from .slubsuite import LISTS, SUITE, recipe
from .writes import GARBAGE

# What the slabs show when they are read with the wrong eyes.
_ALL = LISTS | {
    "cache-wrong",
    "claim-foreign",
    "claim-live",
    "claim-twice",
    "container-limit",
    "container-state",
    "count-mismatch",
    "count-range",
    "freelist-cycle",
    "freelist-pointer",
    "slab-objects-wrong",
    "slab-order-wrong",
}


def _cache(machine: Machine) -> Cache:
    # One with several slabs that have several free objects each.
    for cache in machine.caches:
        mine = [slab for slab in machine.slabs.values() if slab.cache is cache]
        some = [slab for slab in mine if len(slab.free) > 1]
        lived_in = cache.name.startswith(("kmem_cache", "kmalloc"))
        if len(some) > 3 and not lived_in:
            return cache
    raise NoVictim("no cache with several slabs that have free objects")


def _wrong(machine: Machine, cache: Cache, *writes: Write) -> Injury:
    return Injury(writes, "cache-wrong", cache.name, also=_ALL)


@recipe
def secret_of_cache_wrong(machine: Machine) -> Injury:
    cache = _cache(machine)
    if cache.random is None:
        raise NoVictim("free pointers are not hardened")
    return _wrong(machine, cache, machine.cache_member(cache, "random", cache.random ^ GARBAGE))


@recipe
def free_pointer_offset_of_cache_wrong(machine: Machine) -> Injury:
    """As they stand, wrong free pointers may well be NULL: each slab shows for itself then."""
    cache = _cache(machine)
    if cache.random is None:
        raise NoVictim("free pointers are not hardened")
    return _wrong(machine, cache, machine.cache_member(cache, "offset", cache.offset ^ 8))


@recipe
def size_of_cache_wrong(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _wrong(machine, cache, machine.cache_member(cache, "size", cache.size + 8))


@recipe
def order_of_cache_wrong(machine: Machine) -> Injury:
    cache = _cache(machine)
    oo = cache.object.oo.x.value_()
    return _wrong(machine, cache, machine.cache_member(cache, "oo.x", oo + (4 << 16)))


# Members that follow from each other.


def _member(machine: Machine, cache: Cache, name: str, number: int) -> Injury:
    return _wrong(machine, cache, machine.cache_member(cache, name, number))


@recipe
def object_size_of_cache_too_great(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "object_size", cache.inuse + 1)


@recipe
def object_size_of_cache_too_small(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "object_size", cache.object_size - 16)


@recipe
def inuse_of_cache_beyond_the_slot(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "inuse", cache.size + 8)


@recipe
def inuse_of_cache_too_small(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "inuse", cache.inuse - 8)


@recipe
def align_of_cache_zero(machine: Machine) -> Injury:
    return _member(machine, _cache(machine), "align", 0)


@recipe
def align_of_cache_wrong(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "align", 2 * (cache.size & -cache.size))


@recipe
def free_pointer_offset_of_cache_beyond_the_slot(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "offset", cache.size)


@recipe
def red_left_pad_of_cache_wrong(machine: Machine) -> Injury:
    cache = _cache(machine)
    kept = cache.object.red_left_pad.value_()
    return _member(machine, cache, "red_left_pad", kept + 64)


@recipe
def usersize_of_cache_beyond_the_object(machine: Machine) -> Injury:
    """More of an object could be copied to users than it has."""
    cache = _cache(machine)
    return _member(machine, cache, "usersize", cache.object_size + 1)


@SUITE.waits_for("any number can be set in /sys/kernel/slab/CACHE/min_partial")
def min_partial_of_cache_garbage(machine: Machine) -> Injury:
    return _member(machine, _cache(machine), "min_partial", GARBAGE)


# Pointers.


@recipe
def name_of_cache_garbage(machine: Machine) -> Injury:
    cache = _cache(machine)
    write = machine.cache_member(cache, "name", GARBAGE)
    name = f"(cache 0x{cache.address:x})"
    return Injury([write], "cache-wrong", name, also=_ALL, others=frozenset({cache.name}))


@recipe
def name_of_cache_null(machine: Machine) -> Injury:
    cache = _cache(machine)
    write = machine.cache_member(cache, "name", 0)
    name = f"(cache 0x{cache.address:x})"
    return Injury([write], "cache-wrong", name, also=_ALL, others=frozenset({cache.name}))


@recipe
def random_seq_of_cache_garbage(machine: Machine) -> Injury:
    return _member(machine, _cache(machine), "random_seq", GARBAGE)


@recipe
def random_seq_of_cache_misaligned(machine: Machine) -> Injury:
    cache = _cache(machine)
    kept = cache.object.random_seq.value_() if has_member(cache.object, "random_seq") else 0
    if not kept:
        raise NoVictim("no random order")
    return _member(machine, cache, "random_seq", kept + 2)


@recipe
def constructor_of_cache_garbage(machine: Machine) -> Injury:
    return _member(machine, _cache(machine), "ctor", GARBAGE)


@recipe
def node_pointer_wild(machine: Machine) -> Injury:
    cache = _cache(machine)
    return Injury(
        [machine.node_pointer(cache, 0, GARBAGE)],
        "container-state",
        cache.name,
        node=0,
        found=GARBAGE,
        also=LISTS | {"claim-foreign"},
    )


def _per_cpu(machine: Machine, cache: Cache, name: str, pointer: int, place: str) -> Injury:
    return Injury(
        [machine.cache_member(cache, name, pointer)],
        "container-state",
        cache.name,
        place=place,
        found=pointer,
        also=LISTS,
    )


def _with_cpu_slabs(machine: Machine) -> Cache:
    # One of whose slabs CPUs have some.
    if not machine.cpu_slabs:
        raise NoVictim("no CPU slabs")
    return machine.cpu_slabs[0].cache


@recipe
def cpu_slab_pointer_garbage(machine: Machine) -> Injury:
    return _per_cpu(machine, _with_cpu_slabs(machine), "cpu_slab", GARBAGE, "cpu slab")


@recipe
def cpu_slab_pointer_null(machine: Machine) -> Injury:
    return _per_cpu(machine, _with_cpu_slabs(machine), "cpu_slab", 0, "cpu slab")


@recipe
def cpu_slab_pointer_misaligned(machine: Machine) -> Injury:
    cache = _with_cpu_slabs(machine)
    pointer = cache.object.cpu_slab.value_() + 8
    return _per_cpu(machine, cache, "cpu_slab", pointer, "cpu slab")


def with_sheaves(machine: Machine) -> Cache:
    """Return a cache whose CPUs have sheaves with objects."""
    sheaf = machine.sheaf(
        "sheaf with objects",
        lambda sheaf: (
            len(sheaf.entries) > 2 and not sheaf.cache.name.startswith(("kmem_cache", "kmalloc"))
        ),
    )
    return sheaf.cache


@recipe
def cpu_sheaves_pointer_garbage(machine: Machine) -> Injury:
    return _per_cpu(machine, with_sheaves(machine), "cpu_sheaves", GARBAGE, "cpu sheaves")


@recipe
def cpu_sheaves_pointer_null(machine: Machine) -> Injury:
    return _per_cpu(machine, with_sheaves(machine), "cpu_sheaves", 0, "cpu sheaves")


@recipe
def cpu_sheaves_pointer_misaligned(machine: Machine) -> Injury:
    cache = with_sheaves(machine)
    pointer = cache.object.cpu_sheaves.value_() + 4
    return _per_cpu(machine, cache, "cpu_sheaves", pointer, "cpu sheaves")


@recipe
def barn_pointer_garbage(machine: Machine) -> Injury:
    cache = with_sheaves(machine)
    if machine.prog.type("struct kmem_cache_node").has_member("barn"):
        write = machine.node_member(cache, 0, "barn", GARBAGE)
    else:
        write = machine.node_pointer(cache, 0, GARBAGE, "barn")
    return Injury([write], "container-state", cache.name, node=0, place="barn", found=GARBAGE)


# Sheaves are made for what the cache says.


@recipe
def sheaf_capacity_too_great(machine: Machine) -> Injury:
    cache = with_sheaves(machine)
    kept = cache.object.sheaf_capacity.value_()
    return _member(machine, cache, "sheaf_capacity", 2 * kept + 8)


@recipe
def sheaf_capacity_garbage(machine: Machine) -> Injury:
    return _member(machine, with_sheaves(machine), "sheaf_capacity", 0x6B6B6B6B)


@recipe
def sheaf_capacity_too_small(machine: Machine) -> Injury:
    """Smaller than what most of its sheaves hold."""
    many: Dict[int, List[int]] = {}
    for sheaf in machine.sheaves:
        many.setdefault(sheaf.cache.address, []).append(len(sheaf.entries))
    for address, held in many.items():
        least = sorted(held)[-3:][0] if len(held) > 2 else 0
        if least > 1:
            return _member(machine, machine.by_address[address], "sheaf_capacity", least - 1)
    raise NoVictim("no cache with three sheaves that hold objects")
