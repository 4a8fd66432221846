# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to ``struct kmem_cache``: what all slabs contradict at once."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List

from .. import both
from ..changes import GARBAGE, Spot, add, flip, put
from ..language import NOW, Root, Victim
from ..machine import has_member
from ..things import Beside
from ..victims import CACHE, first, picks
from .machine import Machine
from .suite import LISTS, SUITE, recipe
from .things import Cache

# What the slabs show when they are read with the wrong eyes.
_WRONG = Root(
    "cache-wrong",
    also=LISTS
    | {
        "cache-wrong",
        "claim-foreign",
        "claim-live",
        "claim-twice",
        "container-limit",
        "container-state",
        "count-mismatch",
        "count-range",
        "freelist-cycle",
        "freelist-pointer",
        "slab-objects-wrong",
        "slab-order-wrong",
    },
)


def _only(what: str, where: Any) -> Victim[Any]:
    # The cache that has slabs, if it is such a one.
    return first(what, lambda machine: filter(where, [CACHE(machine)]))


_HARDENED = _only("hardened free pointers", lambda cache: cache.random is not None)
both.pointers_of_cache(SUITE, _WRONG.says["also"], [GARBAGE, 0])
recipe("secret-of-cache-wrong", _HARDENED, flip("random", GARBAGE), _WRONG)
# As they stand, wrong free pointers may well be NULL: each slab shows for itself then.
recipe("free-pointer-offset-of-cache-wrong", _HARDENED, flip("offset", 8), _WRONG)
SUITE.group(
    CACHE,
    _WRONG,
    {
        "size-of-cache-wrong": add("size", 8),
        "order-of-cache-wrong": add("oo.x", 4 << 16),
        # Members that follow from each other.
        "object-size-of-cache-too-great": put("object_size", lambda c: c.inuse + 1),
        "object-size-of-cache-too-small": add("object_size", -16),
        "inuse-of-cache-beyond-the-slot": put("inuse", lambda c: c.size + 8),
        "inuse-of-cache-too-small": add("inuse", -8),
        "align-of-cache-zero": put("align", 0),
        "align-of-cache-wrong": put("align", lambda c: 2 * (c.size & -c.size)),
        "free-pointer-offset-of-cache-beyond-the-slot": put("offset", lambda c: c.size),
        # More of an object could be copied to users than it has.
        "usersize-of-cache-beyond-the-object": put("usersize", lambda c: c.object_size + 1),
        "red-left-pad-of-cache-wrong": add("red_left_pad", 64),
    },
)
recipe(
    "min-partial-of-cache-garbage",
    CACHE,
    put("min_partial", GARBAGE),
    _WRONG,
    waits_for="any number can be set in /sys/kernel/slab/CACHE/min_partial",
)

# Pointers.


def _shuffled(cache: Cache) -> bool:
    return has_member(cache.object, "random_seq") and bool(cache.kept("random_seq"))


_SHUFFLED = _only("random order", _shuffled)
recipe("random-seq-of-cache-misaligned", _SHUFFLED, add("random_seq", 2), _WRONG)
_STATE = Root("container-state", found=NOW)
_NODES: Dict[str, Any] = {"wild": GARBAGE, "null": 0}
# Between two words, and between where two nodes begin.
_NODES.update({"odd": lambda cache: cache.nodes[0] + 1, "inside": lambda c: c.nodes[0] + 8})
for _kind, _node in _NODES.items():
    recipe(
        f"node-pointer-{_kind}",
        CACHE,
        put(lambda cache: cache.node_pointer(), _node),
        _STATE.but(node=0, also=LISTS | {"claim-foreign"}),
    )


@picks("sheaf with objects")
def _of_sheaves(machine: Machine) -> Iterator[Cache]:
    for sheaf in machine.sheaves:
        if len(sheaf.entries) > 2 and not sheaf.cache.lived_in:
            yield sheaf.cache


_OF_CPU_SLABS = first("CPU slabs", lambda machine: (c.cache for c in machine.cpu_slabs))
for _pointer, _victim, _off in (("cpu_slab", _OF_CPU_SLABS, 8), ("cpu_sheaves", _of_sheaves, 4)):
    _root = _STATE.but(place=_pointer.replace("_", " "), also=LISTS)
    both.per_cpu_pointer(SUITE, _victim, _pointer, _off, _root)


def _barn(cache: Cache) -> Spot:
    if cache.machine.prog.type("struct kmem_cache_node").has_member("barn"):
        return cache.node().spot("barn")
    return cache.node_pointer("barn")


_BARN = _STATE.but(node=0, place="barn")
recipe("barn-pointer-garbage", _of_sheaves, put(_barn, GARBAGE), _BARN)


@picks("two caches with empty barns")
def _two_barns(machine: Machine) -> Iterator[Beside]:
    used = {sheaf.cache for sheaf in machine.sheaves if "barn" in sheaf.place}
    empty = [cache for cache in machine.caches if any(cache.barns) and cache not in used]
    if len(empty) > 1:
        yield Beside(empty[-1], empty[0])


recipe(
    "barn-of-another-cache",
    _two_barns,
    put(lambda v: _barn(v.victim), lambda v: v.other.barns[0]),
    Root(lambda v: "cache-wrong" if _has_pairs(v.machine) else "container-state", found=NOW),
)


def _has_pairs(machine: Machine) -> bool:
    return bool(machine.prog.type("struct kmem_cache").has_member("per_node"))


# Sheaves are made for what the cache says.


@picks("cache with three sheaves that hold objects")
def _least_held(machine: Machine) -> Iterator[Beside]:
    # Caches, and what three of their sheaves hold at least.
    held: Dict[Any, List[int]] = {}
    for sheaf in machine.sheaves:
        held.setdefault(sheaf.cache, []).append(len(sheaf.entries))
    for cache, counts in held.items():
        least = sorted(counts)[-3:][0] if len(counts) > 2 else 0
        if least > 1:
            yield Beside(cache, least)


_DOUBLE = put("sheaf_capacity", lambda cache: 2 * cache.kept("sheaf_capacity") + 8)
recipe("sheaf-capacity-too-great", _of_sheaves, _DOUBLE, _WRONG)
recipe("sheaf-capacity-garbage", _of_sheaves, put("sheaf_capacity", 0x6B6B6B6B), _WRONG)
# Smaller than what most of its sheaves hold.
recipe(
    "sheaf-capacity-too-small", _least_held, put("sheaf_capacity", lambda v: v.other - 1), _WRONG
)
