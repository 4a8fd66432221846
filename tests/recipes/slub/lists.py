# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to the lists of nodes, and to the list of caches."""

from __future__ import annotations

from typing import Any

from .. import both
from ..changes import GARBAGE, move, push, put, unlink, when
from ..language import NOW, Root
from ..victims import beside, first, given, listed, member_of, quiet, slab, stands
from .machine import Machine
from .suite import LISTS, NODE, SUITE, full_slab, recipe

_LIST = listed(4)
_LISTED = member_of(_LIST, 1)
# Before Linux 6.2, the link of a slab is what makes any other page a tail.
_BROKEN = Root(
    "list-links", place=lambda slab: slab.where, found=NOW, also=LISTS | {"page-tail-head"}
)

both.links(SUITE, LISTS, NODE, least=4, at=1)
both.nodes_of_cache(SUITE, LISTS)
for _name, _victim, _link, _to in (
    ("next-link-of-first-garbage", member_of(_LIST, 0), "next", GARBAGE),
    ("next-link-of-last-garbage", member_of(_LIST, -1), "next", GARBAGE),
    ("next-leads-to-head-too-early", _LISTED, "next", lambda slab: slab.node.head()),
    ("next-link-misaligned", _LISTED, "next", lambda v: v.other[2].link + 8),
    ("prev-of-last-garbage", member_of(_LIST, -1), "prev", GARBAGE),
    ("next-on-full-list-garbage", member_of(listed(4, "full"), 1), "next", GARBAGE),
    (
        "next-leads-to-another-cache",
        beside(
            _LISTED,
            "list of another cache",
            lambda other, slab: other.where == "partial" and other.cache is not slab.cache,
        ),
        "next",
        lambda v: v.other.link,
    ),
):
    recipe(_name, _victim, put(f"slab_list.{_link}", _to), _BROKEN)

_HEAD = Root("list-broken", also=LISTS)
recipe("list-head-next-garbage", _LIST, put("next", GARBAGE), _HEAD)

# Membership.

# It looks like a slab that was just taken off its list.
recipe(
    "partial-slab-lost-without-mark",
    given(
        lambda machine: machine.mark,
        "no mark on partial slabs before 6.8",
        first(
            "slab with free objects on a list",
            lambda machine: (slab for slab in _LIST(machine).slabs if slab.free),
        ),
    ),
    unlink() + put("flags", lambda slab: slab.kept("flags") & ~slab.machine.mark),
    Root("slab-in-transit", also=NODE, changing=True),
)
recipe(
    "full-slab-on-partial",
    full_slab(),
    when(stands("full"), unlink()) + push(lambda slab: slab.node.head()),
    Root("list-wrong", place="partial", also=NODE),
)


def _has_full(slab: Any) -> bool:
    return any(other.where == "full" for other in slab.machine.slabs_of(slab.cache))


both.wrong_list(
    SUITE,
    "partial-slab-on-full",
    slab("slab of a cache with full slabs on a list", quiet, _has_full),
    "full",
    NODE,
)
recipe(
    "slab-on-list-of-another-cache",
    beside(
        _LISTED,
        "list of another cache",
        lambda other, slab: other.where == "partial" and other.cache.size != slab.cache.size,
    ),
    move(lambda v: v.other.node.head()),
    Root(
        "list-wrong",
        cache=lambda v: v.other.cache.name,
        node=lambda v: v.other.nid,
        place="partial",
        also=NODE | {"list-missing"},
        others=lambda v: frozenset({v.cache.name}),
    ),
)
recipe(
    "slab-on-list-of-another-node",
    _LISTED,
    move(lambda slab: slab.cache.node(1).head()),
    Root("slab-node-wrong", also=NODE, astray=True),
)

# The list of caches.


def _cache(machine: Machine) -> Any:
    return machine.caches[2]


_CACHES = Root("cache-list", cache=None, place="slab_caches", found=NOW)
_SELF = put("list.next", lambda cache: cache.spot("list").address)
recipe("next-cache-garbage", _cache, put("list.next", GARBAGE), _CACHES)
recipe("next-cache-itself", _cache, _SELF, _CACHES)
recipe("previous-cache-garbage", _cache, put("list.prev", GARBAGE), _CACHES)
