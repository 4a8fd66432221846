# SPDX-License-Identifier: LGPL-2.1-or-later
"""The suite that SLAB's recipes enter themselves into, and what they share."""

from __future__ import annotations

from ..language import Suite
from .machine import Machine

SUITE: Suite[Machine] = Suite("SLAB", Machine)
recipe = SUITE.recipe
state = SUITE.state

NODE = frozenset({"node-free-objects", "node-list-length"})
"""Sums of a node that are off because of a slab."""
LISTS = NODE | {"list-missing", "list-twice", "list-wrong"}
"""Where slabs are found to stand when a list is damaged."""
COUNT = NODE | {"list-wrong", "freelist-array", "freelist-index", "freelist-duplicate"}
"""What a wrong count shows besides."""
ANY = COUNT | {"count-range", "claim-twice", "claim-foreign", "count-mismatch"}
"""What a slab shows that is read with the wrong eyes."""
