# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to ``struct kmem_cache``: what all slabs contradict at once."""

from __future__ import annotations

from drgn import offsetof

from .language import Injury, NoVictim
from .overlay import Write
from .slubmachine import Cache, Machine
from .slubsuite import LISTS, recipe
from .writes import GARBAGE, value

# What the slabs show when they are read with the wrong eyes.
_ALL = LISTS | {
    "cache-wrong",
    "claim-foreign",
    "claim-twice",
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
    cache = _cache(machine)
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


@recipe
def node_pointer_wild(machine: Machine) -> Injury:
    cache = _cache(machine)
    layout = machine.prog.type("struct kmem_cache")
    if layout.has_member("per_node"):
        at = offsetof(layout, "per_node") + offsetof(layout.member("per_node").type.type, "node")
    else:
        at = offsetof(layout, "node")
    return Injury(
        [value(cache.address + at, GARBAGE)],
        "container-state",
        cache.name,
        node=0,
        found=GARBAGE,
        also=LISTS | {"claim-foreign"},
    )
