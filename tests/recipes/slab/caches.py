# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to ``struct kmem_cache``, and to what it and its nodes point to."""

from __future__ import annotations

from ..language import Injury, NoVictim
from ..machine import has_member
from ..writes import GARBAGE
from .machine import Cache, Machine
from .suite import ANY, SUITE, recipe

# What the slabs show when they are read with the wrong eyes.
_ALL = ANY | {
    "cache-wrong",
    "claim-live",
    "claim-node",
    "container-limit",
    "container-state",
    "list-missing",
    "not-judged",
    "slab-base-wrong",
    "slab-in-transit",
    "slab-order-wrong",
    "unreadable",
}


def _cache(machine: Machine, mode: str = "") -> Cache:
    # One with several slabs that have several free objects each.
    for cache in machine.caches:
        some = [slab for slab in machine.slabs[cache.name] if len(slab.free) > 1]
        lived_in = cache.name.startswith(("kmem_cache", "kmalloc"))
        if len(some) > 3 and not lived_in and mode in ("", cache.mode):
            return cache
    raise NoVictim("no cache with several slabs that have free objects")


def _member(machine: Machine, cache: Cache, name: str, number: int) -> Injury:
    write = machine.cache_member(cache, name, number)
    return Injury([write], "cache-wrong", cache.name, also=_ALL)


def _changed(machine: Machine, name: str, change: int) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, name, cache.object.member_(name).value_() + change)


@recipe
def size_of_cache_wrong(machine: Machine) -> Injury:
    cache = next(
        (
            cache
            for cache in machine.caches
            if len(machine.slabs[cache.name]) > 3
            and (4096 << cache.order) // (cache.size + 64) != cache.num
            and not cache.name.startswith(("kmem_cache", "kmalloc"))
        ),
        None,
    )
    if cache is None:
        raise NoVictim("no cache of small objects")
    return _member(machine, cache, "size", cache.size + 64)


@recipe
def num_of_cache_one_too_many(machine: Machine) -> Injury:
    return _changed(machine, "num", 1)


@recipe
def num_of_cache_one_too_few(machine: Machine) -> Injury:
    return _changed(machine, "num", -1)


@recipe
def order_of_cache_wrong(machine: Machine) -> Injury:
    return _changed(machine, "gfporder", 1)


@recipe
def order_of_cache_200(machine: Machine) -> Injury:
    return _changed(machine, "gfporder", 200)


@recipe
def colours_of_cache_too_many(machine: Machine) -> Injury:
    return _changed(machine, "colour", 3)


@recipe
def colour_off_of_cache_wrong(machine: Machine) -> Injury:
    """Twice what it was, in a cache that has room for several colours."""
    for cache in machine.caches:
        if cache.object.colour.value_() > 1:
            kept = cache.object.colour_off.value_()
            return _member(machine, cache, "colour_off", 2 * kept)
    raise NoVictim("no cache with several colours")


@recipe
def colour_off_of_cache_zero(machine: Machine) -> Injury:
    for cache in machine.caches:
        if cache.object.colour.value_() > 1:
            return _member(machine, cache, "colour_off", 0)
    raise NoVictim("no cache with several colours")


@recipe
def freelist_size_of_cache_wrong(machine: Machine) -> Injury:
    return _changed(machine, "freelist_size", 8)


@recipe
def object_size_of_cache_beyond_the_slot(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "object_size", cache.size + 1)


@recipe
def batchcount_of_cache_zero(machine: Machine) -> Injury:
    return _member(machine, _cache(machine), "batchcount", 0)


@recipe
def batchcount_of_cache_over_limit(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "batchcount", cache.object.limit.value_() + 1)


@recipe
def limit_of_cache_zero(machine: Machine) -> Injury:
    return _member(machine, _cache(machine), "limit", 0)


@SUITE.waits_for("it may be being tuned: the arrays have the new numbers, the cache the old ones")
def batchcount_of_cache_halved(machine: Machine) -> Injury:
    cache = _cache(machine)
    return _member(machine, cache, "batchcount", cache.object.batchcount.value_() // 2)


@recipe
def name_of_cache_garbage(machine: Machine) -> Injury:
    cache = _cache(machine)
    write = machine.cache_member(cache, "name", GARBAGE)
    name = f"(cache 0x{cache.address:x})"
    return Injury([write], "cache-wrong", name, also=_ALL, others=frozenset({cache.name}))


@recipe
def random_seq_of_cache_garbage(machine: Machine) -> Injury:
    return _member(machine, _cache(machine), "random_seq", GARBAGE)


@recipe
def constructor_of_cache_garbage(machine: Machine) -> Injury:
    return _member(machine, _cache(machine), "ctor", GARBAGE)


@recipe
def freelist_cache_of_cache_garbage(machine: Machine) -> Injury:
    """In 5.10, where index arrays off their slabs come from."""
    cache = next((cache for cache in machine.caches if cache.mode == "off-slab"), None)
    if cache is None or not has_member(cache.object, "freelist_cache"):
        raise NoVictim("no cache for index arrays")
    return _member(machine, cache, "freelist_cache", cache.object.freelist_cache.value_() + 8)


# Arrays.


def _cpu_cache(machine: Machine, pointer: int) -> Injury:
    cache = machine.some_array("cpu").cache
    write = machine.cache_member(cache, "cpu_cache", pointer)
    return Injury([write], "container-state", cache.name, place="cpu array", found=pointer)


@recipe
def cpu_cache_pointer_garbage(machine: Machine) -> Injury:
    return _cpu_cache(machine, GARBAGE)


@recipe
def cpu_cache_pointer_null(machine: Machine) -> Injury:
    return _cpu_cache(machine, 0)


@recipe
def cpu_cache_pointer_misaligned(machine: Machine) -> Injury:
    kept = machine.some_array("cpu").cache.object.cpu_cache.value_()
    return _cpu_cache(machine, kept + 4)


@recipe
def shared_array_pointer_garbage(machine: Machine) -> Injury:
    array = machine.some_array("shared", 0)
    write = machine.node_member(array.cache, array.owner, "shared", GARBAGE)
    return Injury(
        [write], "container-state", array.cache.name, node=array.owner, place="shared array"
    )


@recipe
def alien_arrays_pointer_garbage(machine: Machine) -> Injury:
    array = machine.some_array("alien", 0)
    write = machine.node_member(array.cache, array.owner, "alien", GARBAGE)
    return Injury(
        [write], "container-state", array.cache.name, node=array.owner, place="alien array"
    )
