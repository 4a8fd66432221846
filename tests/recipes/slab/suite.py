# SPDX-License-Identifier: LGPL-2.1-or-later
"""The suite that SLAB's recipes enter themselves into, and what they share."""

from __future__ import annotations

from ..language import Suite
from .machine import Machine, Slab

SUITE: Suite[Machine] = Suite("SLAB", Machine)
recipe = SUITE.recipe
state = SUITE.state

NODE = frozenset({"node-free-objects", "node-list-length"})
"""Sums of a node that are off because of a slab."""
COUNT = NODE | {"list-wrong", "freelist-array", "freelist-index", "freelist-duplicate"}
"""What a wrong count shows besides."""
ANY = COUNT | {"count-range", "claim-twice", "claim-foreign", "count-mismatch"}
"""What a slab shows that is read with the wrong eyes."""


def partial(slab: Slab) -> bool:
    """Return whether a slab has several objects of both kinds."""
    return slab.kind == "partial" and 2 <= slab.active <= slab.cache.num - 3


def some_partial(machine: Machine) -> Slab:
    """Return a slab with several objects of both kinds."""
    return machine.slab("partial slab with several objects of both kinds", partial)
