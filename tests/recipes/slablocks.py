# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to SLAB's locks."""

from __future__ import annotations

from drgn import Object, container_of

from .language import Injury
from .locks import IMPOSSIBLE, TEXT, wrong_lock, wrong_zone_lock
from .slabmachine import Machine
from .slabsuite import recipe


@recipe
def list_lock_text(machine: Machine) -> Injury:
    cache = machine.cache("dentry")
    return wrong_lock(machine.node(cache).list_lock, TEXT, cache.name, 0)


@recipe
def list_lock_one_bit(machine: Machine) -> Injury:
    cache = machine.cache("dentry")
    return wrong_lock(machine.node(cache).list_lock, IMPOSSIBLE, cache.name, 0)


@recipe
def alien_lock_text(machine: Machine) -> Injury:
    array = machine.some_array("alien", 0)
    inner = Object(machine.prog, "struct array_cache *", value=array.address)
    around = container_of(inner, "struct alien_cache", "ac")
    return wrong_lock(around.lock, TEXT, array.cache.name, array.owner, "alien array")


@recipe
def zone_lock_text(machine: Machine) -> Injury:
    return wrong_zone_lock(machine)
