# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to deferred frees (since Linux 6.18), and objects freed that the allocator lives in."""

from __future__ import annotations

from drgn import offsetof

from ..language import Injury, NoVictim
from ..overlay import Write
from ..writes import GARBAGE, value
from .machine import Machine
from .sheaves import entry, some_sheaf
from .suite import pointer, recipe

_TWICE = frozenset({"claim-twice"})


def _deferred(machine: Machine, target: int, cpu: int = 0) -> Write:
    return value(machine.deferred(cpu), target)


@recipe
def deferred_object_also_in_sheaf(machine: Machine) -> Injury:
    head = machine.deferred(0)
    if machine.prog.read_u64(head):
        raise NoVictim("deferred frees are pending")
    sheaf = some_sheaf(machine)
    object = sheaf.entries[1]
    node = object + sheaf.cache.offset
    home = machine.home(object)
    assert home is not None
    writes = [value(head, node), value(node, 0)]
    cache, page = sheaf.cache.name, home.page
    return Injury(writes, "claim-twice", cache, page, home.nid, object=object)


@recipe
def deferred_object_also_on_slab_freelist(machine: Machine) -> Injury:
    """The list's node overwrites the free pointer, where the chain of the slab breaks off."""
    head = machine.deferred(0)
    slab = machine.quiet()
    node = slab.free[1] + slab.cache.offset
    return Injury(
        [value(head, node), value(node, 0)],
        "freelist-pointer" if slab.cache.random else "claim-twice",
        slab.cache.name,
        slab.page,
        slab.nid,
        also=_TWICE,
    )


@recipe
def deferred_list_garbage(machine: Machine) -> Injury:
    return Injury(
        [_deferred(machine, GARBAGE)],
        "list-broken",
        cpu=0,
        place="deferred",
        found=GARBAGE,
    )


@recipe
def deferred_list_cycle(machine: Machine) -> Injury:
    object = machine.used(machine.quiet())[0]
    cache = machine.quiet().cache
    node = object + cache.offset
    return Injury(
        [_deferred(machine, node), value(node, node)],
        "list-broken",
        cpu=0,
        place="deferred",
        found=node,
        others=frozenset({cache.name}),
    )


@recipe
def deferred_object_in_no_slab(machine: Machine) -> Injury:
    """Something that no cache gave out was freed."""
    node = machine.address_of(machine.user_page()) + 64
    return Injury(
        [_deferred(machine, node), value(node, 0)],
        "claim-foreign",
        cpu=0,
        place="deferred",
        found=node,
    )


# Objects that the allocator lives in.


def _freed(machine: Machine, address: int) -> Injury:
    home = machine.home(address)
    if home is None:
        raise NoVictim("it is in no slab")
    sheaf = machine.sheaf(
        "sheaf of the cache it is from",
        lambda sheaf: (
            sheaf.cache is home.cache and sheaf.place == "main sheaf" and len(sheaf.entries) > 1
        ),
    )
    write = entry(machine, sheaf, 1, address)
    return Injury([write], "claim-live", home.cache.name, home.page, home.nid, object=address)


@recipe
def sheaf_freed(machine: Machine) -> Injury:
    for sheaf in machine.sheaves:
        try:
            return _freed(machine, sheaf.address)
        except NoVictim:
            continue
    raise NoVictim("no sheaf from a cache with sheaves")


@recipe
def barn_freed(machine: Machine) -> Injury:
    for cache in machine.caches:
        for barn in filter(None, cache.barns):
            try:
                return _freed(machine, barn)
            except NoVictim:
                continue
    raise NoVictim("no barn from a cache with sheaves")


def _freed_to_slab(machine: Machine, address: int) -> Injury:
    # On the freelist of its slab, its contents left as they are but for the pointer.
    slab = machine.home(address)
    if slab is None:
        raise NoVictim("it is in no slab")
    head = slab.free[0] if slab.free else 0
    also = frozenset({"list-missing", "slab-in-transit", "list-wrong", "list-twice", "redzone"})
    return Injury(
        [
            pointer(machine, slab, address, head),
            machine.member(slab, "freelist", address),
            machine.member(slab, "inuse", slab.inuse - 1),
        ],
        "claim-live",
        slab.cache.name,
        slab.page,
        slab.nid,
        object=address,
        also=also | {"poison", "padding"},
    )


@recipe
def cache_freed(machine: Machine) -> Injury:
    links = offsetof(machine.prog.type("struct kmem_cache"), "list")
    for cache in machine.caches:
        slab = machine.home(cache.address)
        if slab is None or slab.where != "partial":
            continue
        if not links <= slab.cache.offset < links + 16:
            return _freed_to_slab(machine, cache.address)
    raise NoVictim("no cache in a partial slab whose links a free pointer leaves whole")


@recipe
def node_freed(machine: Machine) -> Injury:
    for cache in machine.caches:
        slab = machine.home(cache.nodes[0])
        if slab is not None and slab.where == "partial" and slab.cache.offset >= 64:
            return _freed_to_slab(machine, cache.nodes[0])
    raise NoVictim("no node structure that a free pointer leaves whole")
