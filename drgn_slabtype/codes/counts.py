# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel counts against freelists and slabs."""

from __future__ import annotations

from typing import Mapping

from .commits import NO_SLAB, STRUCT_SLAB
from .explained import Code, Measure

_OBJECTS = Measure("count", "objects")
_SLABS = Measure("count", "slabs")

CODES: Mapping[str, Code] = {
    "count-range": Code(
        "count",
        "The slab counts more objects in use than it has.",
        "`inuse` (SLAB: `active`) is between 0 and the number of objects of the slab; "
        "`check_slab()` asks so in debug caches (`inuse %u > max %u`).",
        ("a write over the word of the counters", "a count taken down too often, by a double free"),
        ("`slabs CACHE --slab ADDRESS`", "`page ADDRESS`: the words around the counters"),
        (STRUCT_SLAB,),
        measure=_OBJECTS,
    ),
    "count-mismatch": Code(
        "count",
        "The slab's count disagrees with its freelist.",
        "`inuse` and `freelist` change together (in one `cmpxchg_double` or under the slab's lock; "
        "SLAB: in `slab_get_obj()` and `slab_put_obj()` under `list_lock`), so that "
        "`inuse` is the number of objects that are not on the slab's freelist. `on_freelist()` "
        "checks and mends it in debug caches (`Wrong object count`).",
        (
            "a freelist cut short by a write to a freed object: the missing objects are lost until "
            "reboot",
            "a double free",
            "a write over the counters",
        ),
        (
            "`slabs CACHE --slab ADDRESS`: every object of the slab, with its state",
            "`objects CACHE --unknown`: those of which nobody knows who has them",
            "`slub_debug=FZPU,CACHE` at the next boot, to catch whoever writes to freed objects",
        ),
        (STRUCT_SLAB,),
        more="`expected` is what the freelist says, `found` what the kernel counts.",
        measure=_OBJECTS,
    ),
    "node-free-objects": Code(
        "count",
        "The node's free_objects is not the sum over its slabs.",
        "SLAB: `free_objects` of a `struct kmem_cache_node` is the sum of `num - active` over the "
        "slabs on its lists; `cache_grow_end()`, `cache_alloc_refill()` and `free_block()` move "
        "both under `list_lock`.",
        ("an active count that is one off", "a write over the node's structure"),
        ("`slabs CACHE --node NODE`", "`object ADDRESS` with the address of the counter"),
        (NO_SLAB,),
        more="As a root it is often the only trace of an active count that is one off: the index "
        "array has, by definition, as many live entries as the count says.",
        measure=_OBJECTS,
    ),
    "node-slabs": Code(
        "count",
        "The node's number of slabs differs from the slabs found.",
        "SLUB with `CONFIG_SLUB_DEBUG`: `inc_slabs_node()` counts a slab when it is made, "
        "`dec_slabs_node()` when it is discarded; `validate_slab_node()` compares.",
        (
            "a slab is gone from every place that could lead to it",
            "a slab was freed without being counted",
            "a write over the node's structure",
        ),
        (
            "`slabs CACHE --node NODE`",
            "`caches CACHE --per-node`",
            "`vmstat-slab`, if it was found too",
        ),
        more="A node without memory at boot counts the slab of `kmem_cache_node` that it got from "
        "another; of that cache it is no finding if the nodes together count what there is.",
        measure=_SLABS,
    ),
    "node-objects": Code(
        "count",
        "The node's number of objects is not the sum over its slabs.",
        "SLUB with `CONFIG_SLUB_DEBUG`: `total_objects` goes up by the objects of a slab in "
        "`inc_slabs_node()`, down in `dec_slabs_node()`.",
        (
            "a slab is gone from every place that could lead to it",
            "a slab was freed without being counted",
            "a write over the node's structure",
        ),
        ("`slabs CACHE --node NODE`", "`caches CACHE --per-node`"),
        measure=_OBJECTS,
    ),
    "node-list-length": Code(
        "count",
        "A node list's length is not what the kernel counts.",
        "`nr_partial` goes with `add_partial()` and `remove_partial()`; SLAB's `total_slabs` and "
        "`free_slabs` with every slab that is made, freed, or put on or off `slabs_free`. All of "
        "it under `list_lock`.",
        (
            "a slab was taken off a list or put on it without being counted",
            "a list that lost slabs to a damaged link",
            "a write over the node's structure",
        ),
        (
            "`slabs CACHE --partial`",
            "other findings about the same node: `list-links`, `list-broken`",
        ),
        measure=_SLABS,
    ),
}
