# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists, and the state that puts a slab on them."""

from __future__ import annotations

from typing import Mapping

from .commits import DELAYED_FREEZING, NO_CPU_SLABS, SHEAVES, STRUCT_SLAB
from .explained import Code, Measure

_ADDRESS = Measure("address")
_TEXT = Measure("text")

CODES: Mapping[str, Code] = {
    "list-broken": Code(
        "list",
        "A list's links do not lead from its head back to its head.",
        "A `list_head` closes: `next` leads on until it comes back to the head, and `prev` the "
        "other way (`__list_add_valid()`, `__list_del_entry_valid()` check it with "
        "`CONFIG_DEBUG_LIST`). A CPU's chain of partial slabs ends with NULL.",
        (
            "a write over the node's structure, or over the head",
            "an entry freed while it was listed",
        ),
        (
            "`what WORD` with the link that was found",
            "`object ADDRESS` with the address of the head: its bytes and its neighbours",
        ),
        (STRUCT_SLAB,),
        measure=_ADDRESS,
    ),
    "cache-list": Code(
        "list",
        "The list of slab caches is damaged, or lacks a cache with slabs.",
        "Every cache is on `slab_caches`, under `slab_mutex`, from `kmem_cache_create()` to "
        "`kmem_cache_destroy()`.",
        ("a write over `struct kmem_cache`", "a cache that was freed while it was listed"),
        (
            "`object ADDRESS` with the cache whose link is wrong",
            "`caches`: the ones that could still be found",
        ),
        more="Caches behind the damage are found through their slabs.",
        measure=_ADDRESS,
    ),
    "list-links": Code(
        "list",
        "A list entry's links disagree with its neighbours'.",
        "`prev` of the slab that `next` leads to leads back: slabs are put on lists and off with "
        "`list_add()`, `list_move()` and `list_del()` under `list_lock`.",
        ("a write over `struct page`", "a slab freed while it was listed"),
        (
            "`page ADDRESS` of the slab, and of the one its link leads to",
            "`what WORD` with the link: `LIST_POISON1` is a slab that was taken off",
        ),
        (STRUCT_SLAB,),
        more="The rest of the list is picked up from behind.",
        measure=_ADDRESS,
    ),
    "list-wrong": Code(
        "list",
        "A slab stands on a list its state does not allow.",
        "A partial list has slabs with free objects; full ones are on no list, or on the full "
        "list if allocations are tracked. SLAB: on `slabs_free`, `slabs_partial`, `slabs_full` by "
        "its count (`fixup_slab_list()`).",
        ("a write over the counters or the links", "a slab moved by a damaged list"),
        ("`slabs CACHE --slab ADDRESS`", "other findings about the same slab"),
        (DELAYED_FREEZING, NO_CPU_SLABS),
        measure=_TEXT,
    ),
    "list-missing": Code(
        "list",
        "A slab is on no list though its state asks for one.",
        "A slab with free objects is on its node's partial list, or a CPU has it; SLAB keeps every "
        "slab on a list.",
        (
            "a list that lost slabs to a damaged link",
            "a slab whose objects are all lost until reboot, by a race in the allocator",
        ),
        (
            "`slabs CACHE --slab ADDRESS`",
            "`refs ADDRESS` with the struct page: who still leads to it",
        ),
        (DELAYED_FREEZING,),
        measure=_TEXT,
    ),
    "list-twice": Code(
        "list",
        "A slab stands on two lists, or twice on one.",
        "`slab_list` is one pair of links: a slab is on one list, or with one CPU.",
        ("a slab freed and listed anew", "two lists joined by a damaged link"),
        ("`slabs CACHE --slab ADDRESS`", "`page ADDRESS`"),
        (STRUCT_SLAB,),
        measure=_TEXT,
    ),
    "slab-frozen": Code(
        "list",
        "A slab's frozen or partial mark disagrees with where it is.",
        "`frozen` says that a CPU has the slab (through Linux 6.7 those in its chain too, through "
        "6.19 the one it allocates from); since 6.8 a mark says that it is on its node's partial "
        "list.",
        ("a write over the counters or the flags", "a slab taken from a CPU in the wrong order"),
        ("`slabs CACHE --slab ADDRESS`", "`page ADDRESS`: flags and counters"),
        (DELAYED_FREEZING, SHEAVES, NO_CPU_SLABS),
        measure=_TEXT,
    ),
    "slab-in-transit": Code(
        "list",
        "A slab was caught between two lists.",
        "Between two lists a slab is with the CPU that moves it, for a moment: "
        "`get_partial_node()`, `deactivate_slab()`, `__put_partials()` and their like.",
        ("a dump or a reading in the middle of the work: no damage",),
        ("who was at work, which the message names",),
        (DELAYED_FREEZING,),
        more="Only in `changing`. Where nobody is moving it, it is `list-missing`.",
        measure=_TEXT,
    ),
}
