# SPDX-License-Identifier: LGPL-2.1-or-later
"""The suite that SLUB's recipes enter themselves into, and what they share."""

from __future__ import annotations

from typing import Any, Callable

from ..changes import Spot
from ..language import Suite
from ..victims import container, full, slab, stands
from .machine import Machine

SUITE: Suite[Machine] = Suite("SLUB", Machine)
recipe = SUITE.recipe

NODE = frozenset({"node-list-length", "node-slabs", "node-objects"})
"""Sums of a node that are off because of a slab."""
LISTS = NODE | {"list-wrong", "list-missing", "list-twice", "slab-in-transit"}
"""Where slabs are found to stand when a list is damaged."""
TWICE = frozenset({"claim-twice"})

ON_CPU = slab("CPU slab", stands("cpu"))
SHEAF = container("main sheaf", 3, lambda sheaf: len(sheaf.entries) <= sheaf.limit)


def kept(least: int) -> Any:
    """Pick a slab that a CPU keeps for later and that has so many free objects."""
    return slab("slab kept by a CPU", stands("cpu partial"), lambda s: len(s.free) >= least)


def full_slab(*where: Callable[[Any], Any]) -> Any:
    """Pick a full slab for which conditions hold."""
    return slab("full slab", full, *where)


def pointer(position: int) -> Callable[[Any], Spot]:
    """Return where the free pointer of a free object of a slab stands, as a place for a change."""
    return lambda slab: slab.cache.pointer(slab.free[position])
