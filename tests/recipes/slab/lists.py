# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to lists, and to what slabs say of themselves."""

from __future__ import annotations

from itertools import islice
from typing import Any, Dict, Iterator

from .. import both
from ..changes import GARBAGE, entry, move, put
from ..language import NOW, Root
from ..things import Beside
from ..victims import PARTIAL, beside_another_cache, first, listed, member_of, quiet, slab
from .machine import Machine
from .suite import ANY, LISTS, NODE, SUITE, recipe

_BROKEN = Root("list-links", place=lambda slab: slab.where, found=NOW, also=LISTS)
_LISTED = member_of(listed(6), 2)
_LISTED_FULL = member_of(listed(6, "full"), 2)


def _full_beside(machine: Machine) -> Iterator[Beside]:
    found = _LISTED(machine)
    every = machine.slabs_of(found.cache)
    return (Beside(found, other) for other in every if other.where == "full")


both.links(SUITE, LISTS, NODE, least=6, at=2)
both.nodes_of_cache(SUITE, LISTS | {"container-state"})
recipe("next-link-of-last-null", member_of(listed(6), -1), put("slab_list.next", 0), _BROKEN)
recipe(
    "next-leads-to-another-cache",
    beside_another_cache(_LISTED),
    put("slab_list.next", lambda v: v.other.link),
    _BROKEN,
)


recipe(
    "next-leads-to-another-list",
    first("two full slabs beside them", lambda m: islice(_full_beside(m), 1, None)),
    put("slab_list.next", lambda v: v.other.link),
    _BROKEN,
)

# Membership.

both.wrong_list(SUITE, "full-slab-on-partial", _LISTED_FULL, "partial", NODE)
both.wrong_list(SUITE, "full-slab-on-free", _LISTED_FULL, "free", NODE)
both.wrong_list(SUITE, "partial-slab-on-full", _LISTED, "full", NODE)
both.wrong_list(SUITE, "partial-slab-on-free", _LISTED, "free", NODE)
both.wrong_list(SUITE, "free-slab-on-full", member_of(listed(2, "free"), 1), "full", NODE)

# What a slab says of itself.

_TWO_PAGES = slab("slab of two pages", lambda slab: slab.cache.order == 1 and slab.counted > 0)
both.descriptors(SUITE, ANY, _TWO_PAGES, lambda cache, slab: True, {"zero": 0, "200": 200})
_BASE = Root("slab-base-wrong", also=ANY)
recipe("first-object-shifted-by-8", PARTIAL, put("s_mem", lambda slab: slab.first + 8), _BASE)
recipe(
    "first-object-shifted-by-a-slot",
    slab(
        "partial slab of a cache with one colour, with objects in arrays",
        lambda slab: quiet(slab) and slab.parked() and slab.cache.colours == 1,
    ),
    put("s_mem", lambda slab: slab.slot(1)),
    _BASE,
)
recipe(
    "first-object-nowhere",
    slab("partial slab of a cache with one colour", quiet, lambda slab: slab.cache.colours == 1),
    put("s_mem", lambda slab: 0),
    _BASE,
)
recipe(
    "first-object-nowhere-of-several-colours",
    slab("partial slab of a cache with colours", quiet, lambda slab: slab.cache.colours > 1),
    put("s_mem", lambda slab: 0),
    _BASE,
)
recipe(
    "first-object-beyond-the-colours",
    slab("partial slab of the first colour", quiet, lambda slab: slab.first == slab.start),
    put("s_mem", lambda slab: slab.first + 64 * slab.cache.colours),
    _BASE,
)
recipe(
    "node-of-page-wrong",
    slab("partial slab of node 0", quiet, lambda slab: slab.nid == 0),
    put("flags", lambda s: s.kept("flags") | 3 << (64 - s.machine.nodes_shift)),
    Root("slab-node-wrong", node=None, also=NODE | {"claim-node", "page-zone-wrong"}),
)
_NODES: Dict[str, Any] = {"wild": GARBAGE, "null": 0}
# Between two words, and between where two nodes begin.
_NODES.update({"odd": lambda cache: cache.nodes[0] + 1, "inside": lambda c: c.nodes[0] + 8})
for _kind, _node in _NODES.items():
    recipe(
        f"node-pointer-{_kind}",
        lambda machine: machine.cache("dentry"),
        put(lambda cache: cache.node_pointer(), _node),
        Root("container-state", node=0, also=LISTS, others=frozenset("*")),
    )

# Two nodes.

recipe(
    "slab-on-list-of-another-node",
    _LISTED_FULL,
    move(lambda slab: slab.cache.node(1).head("full")),
    Root("slab-node-wrong", node=None, also=NODE, astray=True),
)


def _in_use(machine: Machine, array: Any, nid: int) -> Iterator[Beside]:
    # An array, and an object in use of a full slab of a node.
    for found in machine.slabs_of(array.cache):
        if found.nid == nid and found.where == "full":
            for item in islice(found.used(), 1):
                yield Beside(array, item)


_WRONG_NODE = Root("claim-node", slab=lambda v: v.other.slab.page)
recipe(
    "entry-of-another-node",
    first(
        "full slab of a second node",
        lambda m: (found for array in m.spare_arrays() for found in _in_use(m, array, 1)),
    ),
    put(entry(1), lambda v: v.other.slot),
    _WRONG_NODE,
)
recipe(
    "alien-entry-of-own-node",
    first(
        "alien array with entries",
        lambda m: (
            found
            for array in m.containers
            if array.place == "alien array" and array.entries
            for found in _in_use(m, array, array.owner)
        ),
    ),
    put(entry(0), lambda v: v.other.slot),
    _WRONG_NODE.but(node=None),
)
