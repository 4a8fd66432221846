# SPDX-License-Identifier: LGPL-2.1-or-later
"""Free objects and the places that record them."""

from __future__ import annotations

from typing import Mapping

from .commits import NO_SLAB, SHEAVES, SWAPPED_SECRET
from .explained import Code, Measure

_ADDRESS = Measure("address")
_DEBUG = "`slub_debug=FZPU,CACHE` at the next boot, or KASAN, to catch the write itself"

CODES: Mapping[str, Code] = {
    "freelist-pointer": Code(
        "claim",
        "A freelist entry is not an object of its slab.",
        "A free object of SLUB holds the address of the next one at `offset`, hardened with the "
        "cache's secret and its own address with `CONFIG_SLAB_FREELIST_HARDENED`; the last holds "
        "NULL. `check_valid_pointer()` checks it in debug caches, `freelist_corrupted()` cuts the "
        "list there.",
        (
            "use after free: somebody wrote to an object after giving it back",
            "an overflow of the object before it",
        ),
        (
            "the details: what is there instead, and how else it can be read",
            "`object ADDRESS` with the object: its bytes, its neighbours, who allocated them",
            "`refs ADDRESS`: who still points to the freed object",
            _DEBUG,
        ),
        (SWAPPED_SECRET,),
        measure=_ADDRESS,
    ),
    "freelist-cycle": Code(
        "claim",
        "A freelist comes back to an object it already holds.",
        "Each object is on a freelist once. With `CONFIG_SLAB_FREELIST_HARDENED`, "
        "`set_freepointer()` stops a double free of the same object twice in a row; "
        "`on_freelist()` walks no further than there are objects.",
        ("a double free",),
        (
            "`object ADDRESS` with the object it comes back to: who freed it, with slub_debug",
            "`slabs CACHE --slab ADDRESS`: the list in its order",
            _DEBUG,
        ),
        measure=_ADDRESS,
    ),
    "freelist-index": Code(
        "claim",
        "A freelist index is not below the number of objects.",
        "SLAB: entries `active` to `num - 1` of a slab's index array are the indexes of its free "
        "objects (`get_free_obj()`, `set_free_obj()`).",
        (
            "an overflow of the object before an array at the end of a slab",
            "a write to the free object that the array lies in",
        ),
        (
            "the details: what is in the array from that entry on",
            "`object ADDRESS` with the address of the entry: what it lies in, and what before it",
        ),
        (NO_SLAB,),
        measure=Measure("index"),
    ),
    "freelist-duplicate": Code(
        "claim",
        "A freelist array holds the same index twice.",
        "SLAB: each free object has one entry of the index array. With `CONFIG_DEBUG_SLAB`, "
        "`slab_put_obj()` looks for the index first (`double free detected`).",
        ("a double free", "a write over the array"),
        ("`slabs CACHE --slab ADDRESS`", "`object ADDRESS` with the object of that index"),
        (NO_SLAB,),
        measure=Measure("index"),
    ),
    "freelist-array": Code(
        "claim",
        "The freelist array is not where this cache keeps it.",
        "SLAB: `alloc_slabmgmt()` keeps the array at the end of the slab, in an object of a "
        "kmalloc cache, or in a free object of the slab itself (`OBJFREELIST_SLAB`), the same for "
        "all slabs of a cache.",
        ("a write over `freelist` of the slab", "the object that holds the array was freed"),
        ("`object ADDRESS` with the address that was found", "`page ADDRESS`"),
        (NO_SLAB,),
        measure=_ADDRESS,
    ),
    "claim-foreign": Code(
        "claim",
        "A place holds an address that is no object of this cache.",
        "What a CPU's array, a sheaf or a list of deferred frees holds was given back to this "
        "cache and begins where an object does: `__cache_free()`, `free_to_pcs()` put it there as "
        "`kmem_cache_free()` got it.",
        (
            "an object freed into the wrong cache",
            "an interior pointer that was freed",
            "a write over the place",
        ),
        (
            "`object ADDRESS` with what was found: the object, and its own cache",
            "the other entries: `objects CACHE --free`, or findings about the same place",
        ),
        (SHEAVES,),
        measure=_ADDRESS,
    ),
    "claim-node": Code(
        "claim",
        "A place holds an object of a node it must not hold.",
        "SLAB: a CPU's array and a node's shared array hold objects of their own node, an alien "
        "array those of another: `__cache_free_alien()` sorts them.",
        ("a write over the place", "an object freed past `cache_free_alien()`"),
        ("`object ADDRESS`: the node of its slab", "`caches CACHE --per-node`"),
        (NO_SLAB,),
        measure=Measure("number", "nodes"),
    ),
    "claim-twice": Code(
        "claim",
        "An object is recorded as free in two places, or twice in one.",
        "An object that was given back is in one place: on its slab's freelist, on a CPU's, in an "
        "array or in a sheaf. Whoever takes it out is its only user.",
        ("a double free, also across CPUs", "a place that was overwritten with a copy of another"),
        (
            "`object ADDRESS`: both places, and who freed it, with slub_debug",
            "the next users: the next two allocations share the object",
            _DEBUG,
        ),
        (SHEAVES,),
        measure=Measure("text"),
    ),
    "claim-live": Code(
        "claim",
        "An object the allocator itself lives in is recorded as free.",
        "Caches, nodes, sheaves, arrays and index arrays are objects of slab caches themselves, "
        "and are freed when their cache is destroyed, or the array replaced, not before.",
        ("the structure was freed while in use", "a double free of another object at that address"),
        ("`object ADDRESS`", "`refs ADDRESS`: who leads to the structure"),
        measure=Measure("text"),
    ),
}
