# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to ``struct kmem_cache``, and to what it and its nodes point to."""

from __future__ import annotations

from typing import Any

from drgn import offsetof

from .. import both
from ..changes import GARBAGE, Spot, add, put
from ..language import NOW, Root
from ..machine import has_member
from ..things import PAGE
from ..victims import CACHE, container, first
from .suite import ANY, SUITE, recipe

# What the slabs show when they are read with the wrong eyes.
_WRONG = Root(
    "cache-wrong",
    also=ANY
    | {
        "cache-wrong",
        "claim-live",
        "claim-node",
        "container-limit",
        "container-state",
        "list-missing",
        "not-judged",
        "not-understood",
        "slab-base-wrong",
        "slab-in-transit",
        "slab-order-wrong",
        "unreadable",
    },
)


def _cache(what: str, where: Any) -> Any:
    return first(what, lambda machine: filter(where, machine.caches))


def _small(cache: Any) -> bool:
    several = len(cache.machine.slabs_of(cache)) > 3 and not cache.lived_in
    return several and (PAGE << cache.order) // (cache.size + 64) != cache.num


both.pointers_of_cache(SUITE, _WRONG.says["also"], [GARBAGE])
recipe("size-of-cache-wrong", _cache("cache of small objects", _small), add("size", 64), _WRONG)
SUITE.group(
    CACHE,
    _WRONG,
    {
        "num-of-cache-one-too-many": add("num", 1),
        "num-of-cache-one-too-few": add("num", -1),
        "num-of-cache-garbage": put("num", 0x6B6B6B6B),
        "order-of-cache-wrong": add("gfporder", 1),
        "order-of-cache-200": add("gfporder", 200),
        "colours-of-cache-too-many": add("colour", 3),
        "freelist-size-of-cache-wrong": add("freelist_size", 8),
        "object-size-of-cache-beyond-the-slot": put("object_size", lambda c: c.size + 1),
        "batchcount-of-cache-zero": put("batchcount", 0),
        "batchcount-of-cache-over-limit": put("batchcount", lambda c: c.kept("limit") + 1),
        "limit-of-cache-zero": put("limit", 0),
    },
)
_TUNED = frozenset({"container-state"})
_COLOURED = _cache("cache with several colours", lambda cache: cache.colours > 1)
_TWICE = put("colour_off", lambda cache: 2 * cache.kept("colour_off"))
recipe("colour-off-of-cache-wrong", _COLOURED, _TWICE, _WRONG)
recipe("colour-off-of-cache-zero", _COLOURED, put("colour_off", 0), _WRONG)
recipe(
    "batchcount-of-cache-halved",
    CACHE,
    put("batchcount", lambda cache: cache.kept("batchcount") // 2),
    # It may be being tuned: the arrays have the new numbers, the cache the old ones.
    Root("container-state", place="tuning", found=NOW, also=_TUNED, changing=True),
)
# In 5.10, where index arrays off their slabs come from.
recipe(
    "freelist-cache-of-cache-garbage",
    _cache(
        "cache for index arrays",
        lambda c: c.mode == "off-slab" and has_member(c.object, "freelist_cache"),
    ),
    add("freelist_cache", 8),
    _WRONG,
)

# Arrays.


_FILLED = first("array with objects", lambda m: [container("cpu array", 2)(m).cache])
_CPUS = Root("container-state", place="cpu array", found=NOW)
both.per_cpu_pointer(SUITE, _FILLED, "cpu_cache", 4, _CPUS)
for _name, _kind in (("shared-array", "shared"), ("alien-arrays", "alien")):
    _array, _found = container(f"{_kind} array", 0), Root("container-state", place=f"{_kind} array")

    def _pointer(array: Any) -> Any:
        return array.cache.node(array.owner).spot(array.place.split()[0])

    recipe(f"{_name}-pointer-garbage", _array, put(_pointer, GARBAGE), _found)
    # All other caches have theirs.
    recipe(f"{_name}-pointer-null", _array, put(_pointer, 0), _found.but(found=NOW, changing=True))


def _row(array: Any) -> Spot:
    # Where the table of its node leads to an alien array.
    prog = array.machine.prog
    table = array.cache.node(array.owner).object.alien
    lead = offsetof(prog.type("struct alien_cache"), "ac")
    rows = (Spot(prog, table.value_() + 8 * nid) for nid in range(len(array.cache.nodes)))
    return next(row for row in rows if row.number + lead == array.address)


recipe(
    "alien-array-null",
    container("alien array", 0),
    put(_row, 0),
    Root("container-state", place="alien array", found=NOW, changing=True),
)
