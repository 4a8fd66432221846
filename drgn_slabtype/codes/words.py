# SPDX-License-Identifier: LGPL-2.1-or-later
"""The page type word against membership."""

from __future__ import annotations

from typing import Mapping

from .commits import LOW_BITS, ONE_TYPE, PAGE_TYPES, SLAB_TYPE, STRUCT_SLAB
from .explained import Code, Measure

_WORD = Measure("word")
_RFC = (
    'The layout of "mm: move PG_slab flag to page_type" (RFC v3, December 2022, never merged): '
    "the lower half of the word is SLAB's active count, stored negated. "
)

CODES: Mapping[str, Code] = {
    "slab-mark-lost": Code(
        "word",
        "A slab that lists or claims lead to has lost its slab mark.",
        "Each page that SLAB or SLUB makes a slab of carries the slab mark from `allocate_slab()` "
        "(SLAB: `kmem_getpages()`) until `__free_slab()` (`kmem_freepages()`) takes it away; "
        "nothing leads to a slab before and after. The mark is the page flag `PG_slab` through "
        "Linux 6.9, a page type since.",
        (
            "the page was freed while the cache still used it",
            "a stray write over `struct page`",
        ),
        (
            "`page` with the address of the slab: what the page is now tells who got it",
            "the other struct pages around it, if a write ran over several",
            "page_owner, where the kernel has it: `page` prints who allocated the page",
        ),
        (STRUCT_SLAB, SLAB_TYPE, ONE_TYPE),
        measure=_WORD,
    ),
    "slab-mark-stray": Code(
        "word",
        "A page is marked as slab but belongs to no slab cache.",
        "`slab_cache` of every page with the slab mark points to a `struct kmem_cache` that is on "
        "`slab_caches`; tails have no mark. KFENCE's pool is left out.",
        (
            "a stray write over `struct page`",
            "a double free of the page that left the mark behind",
        ),
        (
            "`page` with its address: flags, count and neighbours of the page",
            "`what` with the pointer that stands where the cache should be",
        ),
        (STRUCT_SLAB, SLAB_TYPE),
        measure=_WORD,
    ),
    "type-conflict": Code(
        "word",
        "The page_type word holds two types or an impossible value.",
        "The word is idle (-1), a count of mappings, or one type. `__SetPage*()` asks that it is "
        "idle, `__ClearPage*()` that the type is set (checked with `CONFIG_DEBUG_VM`). Since Linux "
        "6.12 two types cannot be written at once; before, each is a bit of its own.",
        (
            "a page mapped or unmapped that must not be: a type in the range of counts",
            "a type set on a page that had one",
            "a stray write into the memory map",
        ),
        (
            "`decode` with the word: every reading of it",
            "`page` with the address: who else the page says it belongs to",
        ),
        (PAGE_TYPES, LOW_BITS, ONE_TYPE),
        measure=_WORD,
    ),
    "active-overflow": Code(
        "word",
        "The active count has overflowed into the page type bits.",
        f"{_RFC}A slab has at most 65535 objects, so that the count never carries into the types.",
        ("a count incremented without end", "a write over the word"),
        (
            "`decode` with the word and `--layout rfc-v3`: the count it stands for",
            "`slabs CACHE --slab ADDRESS`: what the freelist says",
        ),
        (PAGE_TYPES,),
        more="Nothing that the word says holds any longer.",
        measure=_WORD,
    ),
    "active-underflow": Code(
        "word",
        "The active count fell below zero and wiped the page type.",
        f"{_RFC}`slab_put_obj()` counts down only what `slab_get_obj()` has counted up; below zero "
        "the count borrows from the type bits.",
        ("a double free that was not caught",),
        (
            "`slabs CACHE --slab ADDRESS`: whether an object is on the freelist twice",
            "`object ADDRESS` with the objects of the slab: who freed them, where that is kept",
        ),
        (PAGE_TYPES,),
        measure=_WORD,
    ),
}
