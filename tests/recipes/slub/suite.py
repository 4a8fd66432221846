# SPDX-License-Identifier: LGPL-2.1-or-later
"""The suite that SLUB's recipes enter themselves into, and what they share."""

from __future__ import annotations

from ..language import Suite
from ..overlay import Write
from ..writes import value
from .machine import Machine, Slab

SUITE: Suite[Machine] = Suite("SLUB", Machine)
recipe = SUITE.recipe

NODE = frozenset({"node-list-length", "node-slabs", "node-objects"})
"""Sums of a node that are off because of a slab."""
LISTS = NODE | {"list-wrong", "list-missing", "list-twice", "slab-in-transit"}
"""Where slabs are found to stand when a list is damaged."""


def pointer(machine: Machine, slab: Slab, holder: int, target: int) -> Write:
    """Return the write of the free pointer that an object holds."""
    cache = slab.cache
    return value(holder + cache.offset, machine.code(cache, holder, target))
