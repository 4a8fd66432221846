# SPDX-License-Identifier: LGPL-2.1-or-later
"""The suite that SLUB's recipes enter themselves into, and what they share."""

from __future__ import annotations

from typing import Any

from drgn import offsetof

from .language import Injury, Suite
from .overlay import Write
from .slubmachine import Cache, Machine, Slab
from .writes import field, value

SUITE: Suite[Machine] = Suite("SLUB", Machine)
recipe = SUITE.recipe

NODE = frozenset({"node-list-length", "node-slabs", "node-objects"})
"""Sums of a node that are off because of a slab."""
LISTS = NODE | {"list-wrong", "list-missing", "list-twice", "slab-in-transit"}
"""Where slabs are found to stand when a list is damaged."""
GARBAGE = 0x6B6B6B6B6B6B6B6B
"""No address of any kernel."""


def member(machine: Machine, slab: Slab, name: str, number: int) -> Write:
    """Return the write of a member of a slab's descriptor."""
    return field(machine.prog, machine.descriptor, slab.page, name, number)


def cache_member(machine: Machine, cache: Cache, name: str, number: int) -> Write:
    """Return the write of a member of ``struct kmem_cache``."""
    return field(machine.prog, "struct kmem_cache", cache.address, name, number)


def pointer(machine: Machine, slab: Slab, holder: int, target: int) -> Write:
    """Return the write of the free pointer that an object holds."""
    cache = slab.cache
    return value(holder + cache.offset, machine.code(cache, holder, target))


def link(machine: Machine, slab: Slab) -> int:
    """Return the address of a slab's ``slab_list``."""
    return slab.page + machine.offset("slab_list")


def head(machine: Machine, cache: Cache, nid: int, kind: str = "partial") -> int:
    """Return the address of a list's head."""
    return cache.nodes[nid] + offsetof(machine.prog.type("struct kmem_cache_node"), kind)


def on_slab(slab: Slab, code: str, *writes: Write, **expected: Any) -> Injury:
    """Return an injury whose root names a slab."""
    expected.setdefault("node", slab.nid)
    return Injury(writes, code, slab.cache.name, slab.page, **expected)
