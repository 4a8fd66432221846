# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to SLUB's locks."""

from __future__ import annotations

from drgn import Object, sizeof
from drgn.helpers.linux.percpu import per_cpu_ptr

from .language import Injury, NoVictim
from .locks import IMPOSSIBLE, TEXT, wrong_lock, wrong_zone_lock
from .slubcaches import with_sheaves
from .slubmachine import Cache, Machine
from .slubsuite import recipe
from .writes import value


def _some(machine: Machine) -> Cache:
    cache = next((cache for cache in machine.caches if cache.nodes and cache.nodes[0]), None)
    if cache is None:
        raise NoVictim("no cache has a node")
    return cache


def _list_lock(machine: Machine, word: int) -> Injury:
    cache = _some(machine)
    node = Object(machine.prog, "struct kmem_cache_node *", value=cache.nodes[0])
    return wrong_lock(node.list_lock, word, cache.name, 0)


@recipe
def list_lock_text(machine: Machine) -> Injury:
    return _list_lock(machine, TEXT)


@recipe
def list_lock_one_bit(machine: Machine) -> Injury:
    return _list_lock(machine, IMPOSSIBLE)


@recipe
def barn_lock_text(machine: Machine) -> Injury:
    cache = with_sheaves(machine)
    if not cache.barns or not cache.barns[0]:
        raise NoVictim("node 0 has no barn")
    barn = Object(machine.prog, "struct node_barn *", value=cache.barns[0])
    return wrong_lock(barn.lock, TEXT, cache.name, 0, "barn")


@recipe
def cpu_sheaves_lock_wrong(machine: Machine) -> Injury:
    sheaf = machine.sheaf(
        "main sheaf with objects", lambda sheaf: sheaf.place == "main sheaf" and bool(sheaf.entries)
    )
    lock = per_cpu_ptr(sheaf.cache.object.cpu_sheaves, sheaf.owner).lock
    if not hasattr(lock, "acquired"):
        raise NoVictim("the lock of sheaves is no lock that can be tried")
    acquired = lock.acquired
    write = value(acquired.address_of_().value_(), TEXT, sizeof(acquired))
    found = TEXT & 0xFF if sizeof(acquired) == 1 else TEXT
    return Injury(
        [write], "lock-wrong", sheaf.cache.name, cpu=sheaf.owner, place="cpu sheaves", found=found
    )


@recipe
def zone_lock_text(machine: Machine) -> Injury:
    return wrong_zone_lock(machine)
