# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to the counts of slabs and nodes, and to frozen and the partial mark."""

from __future__ import annotations

from typing import Any

from .. import both
from ..changes import add, flip, put
from ..language import NOW, WAS, Root
from ..victims import PARTIAL, given, quiet, slab, stands
from .machine import Machine
from .suite import NODE, ON_CPU, SUITE, full_slab, kept, recipe

_ALSO = frozenset({"list-wrong", "list-missing", "slab-frozen", "count-mismatch"})
_MISMATCH = Root("count-mismatch", expected=WAS, found=NOW, also=_ALSO)
_RANGE = _MISMATCH.but(code="count-range", expected=lambda slab: slab.objects)
_FULL = full_slab(lambda slab: slab.objects > 2 and not slab.frozen)
_ON_CPU = slab("CPU slab", stands("cpu"), lambda slab: slab.counted > 1)
_EMPTY = slab("empty slab", stands("partial"), lambda slab: not slab.counted and slab.objects > 1)
_SMALL = slab("slab", quiet, lambda slab: slab.objects < 0x7FFF)

recipe("inuse-one-too-high", PARTIAL, add("inuse", 1), _MISMATCH)
recipe("inuse-one-too-low", PARTIAL, add("inuse", -1), _MISMATCH)
recipe("inuse-zero", PARTIAL, put("inuse", 0), _MISMATCH)
recipe("inuse-all", PARTIAL, put("inuse", lambda slab: slab.objects), _MISMATCH)
recipe("inuse-more-than-objects", PARTIAL, put("inuse", lambda slab: slab.objects + 1), _RANGE)
# Below zero: one free too many in an empty slab.
recipe("inuse-65535", _SMALL, put("inuse", 0xFFFF), _RANGE)
recipe("inuse-of-full-slab-too-low", _FULL, add("inuse", -1), _MISMATCH)
recipe("inuse-of-cpu-slab-too-low", _ON_CPU, add("inuse", -1), _MISMATCH)
recipe("inuse-of-cpu-partial-too-high", kept(2), add("inuse", 1), _MISMATCH)
recipe("inuse-of-empty-slab-one", _EMPTY, put("inuse", 1), _MISMATCH)

_OBJECTS = Root("slab-objects-wrong", expected=WAS)
recipe("objects-one-too-many", PARTIAL, add("objects", 1), _OBJECTS)
recipe("objects-one-too-few", PARTIAL, add("objects", -1), _OBJECTS)
recipe("objects-zero", PARTIAL, put("objects", 0), _OBJECTS)

# Nodes.

both.counters(
    SUITE,
    lambda machine: PARTIAL(machine).node,
    (
        ("nr-partial-too-high", "nr_partial", 1, "node-list-length"),
        ("nr-partial-too-low", "nr_partial", -1, "node-list-length"),
        ("nr-partial-below-zero", "nr_partial", -(1 << 20), "node-list-length"),
        ("nr-slabs-too-high", "nr_slabs.counter", 1, "node-slabs"),
        ("nr-slabs-too-low", "nr_slabs.counter", -1, "node-slabs"),
        ("total-objects-too-high", "total_objects.counter", 1, "node-objects"),
        ("total-objects-too-low", "total_objects.counter", -1, "node-objects"),
    ),
)

# Frozen.

_FROZEN = Root("slab-frozen", also=NODE)


def _kept(what: str, frozen: bool) -> Any:
    return slab(what, stands("cpu partial"), lambda slab: slab.frozen is frozen)


def _in_transit(slab: Any) -> bool:
    return bool(slab.where != "full" and slab.machine.has_cpu_slabs)


recipe("frozen-on-partial", PARTIAL, put("frozen", 1), _FROZEN)
# It looks like a slab that a CPU is about to take, or has just given up.
recipe(
    "frozen-and-full",
    _FULL,
    put("frozen", 1),
    _FROZEN.but(
        code=lambda slab: "slab-in-transit" if _in_transit(slab) else "slab-frozen",
        changing=_in_transit,
    ),
)
_CPU_FROZEN = slab("CPU slab", stands("cpu"), lambda slab: slab.frozen)
recipe("cpu-slab-not-frozen", _CPU_FROZEN, put("frozen", 0), _FROZEN)
_KEPT_FROZEN = _kept("frozen slab kept by a CPU", True)
recipe("cpu-partial-not-frozen", _KEPT_FROZEN, put("frozen", 0), _FROZEN)
_KEPT_THAWED = _kept("slab kept by a CPU and not frozen", False)
recipe("cpu-partial-frozen", _KEPT_THAWED, put("frozen", 1), _FROZEN)

# The partial mark.


def _marked(machine: Machine) -> bool:
    return bool(machine.mark)


for _name, _victim, _root in (
    ("partial-mark-lost", PARTIAL, _FROZEN),
    ("partial-mark-on-cpu-slab", ON_CPU, Root("slab-frozen")),
    ("partial-mark-on-cpu-partial", kept(0), Root("slab-frozen")),
    ("partial-mark-on-full-slab", _FULL, Root("slab-frozen")),
):
    _victim = given(_marked, "no mark on partial slabs before 6.8", _victim)
    recipe(_name, _victim, flip("flags", lambda slab: slab.machine.mark), _root)
