# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commits of the Linux kernel that several codes go by."""

from __future__ import annotations

from .explained import Commit

PAGE_TYPES = Commit("6e292b9be7f4", "mm: split page_type out from _mapcount", "4.18")
SLAB_TYPE = Commit("46df8e73a4a3", "mm: free up PG_slab", "6.10")
LOW_BITS = Commit(
    "8db00ad56461",
    "mm: allow reuse of the lower 16 bit of the page type with an actual type",
    "6.11",
)
ONE_TYPE = Commit("4ffca5a96678", "mm: support only one page_type per page", "6.12")
STRUCT_SLAB = Commit("d122019bf061", "mm: Split slab into its own type", "5.17")
FROZEN_PAGES = Commit("9aec2fb0fd5e", "slab: allocate frozen pages", "6.14")
DELAYED_FREEZING = Commit("8cd3fa428b56", "slub: Delay freezing of partial slabs", "6.8")
SHEAVES = Commit("2d517aa09bbc", "slab: add opt-in caching layer of percpu sheaves", "6.18")
NO_CPU_SLABS = Commit("32c894c7274b", "slab: remove struct kmem_cache_cpu", "7.0")
SWAPPED_SECRET = Commit(
    "1ad53d9fa3f6", "slub: improve bit diffusion for freelist ptr obfuscation", "5.7"
)
KMALLOC_RED_ZONE = Commit(
    "946fa0dbf2d8",
    "mm/slub: extend redzone check to extra allocated kmalloc space than requested",
    "6.2",
)
ASKED_SIZE = Commit("6edf2576a6cc", "mm/slub: enable debugging memory wasting of kmalloc", "6.1")
MEMCG_FLAGS = Commit("87944e2992bd", "mm: Introduce page memcg flags", "5.11")
EXTENSIONS = Commit(
    "21c690a349ba", "mm: introduce slabobj_ext to support slab object extensions", "6.10"
)
FIRST_TAIL = Commit("ebc1baf5c9b4", "mm: free up a word in the first tail page", "6.6")
BYTE_COUNTERS = Commit("d42f3245c7e2", "mm: memcg: convert vmstat slab counters to bytes", "5.9")
PAGES_OF_CPUS = Commit(
    "28f836b6777b", "mm/page_alloc: split per cpu page lists and zone stats", "5.14"
)
SUBSECTIONS = Commit("f1eca35a0dc7", "mm/sparsemem: introduce struct mem_section_usage", "5.3")
NO_SLAB = Commit("16a1d968358a", "mm/slab: remove mm/slab.c and slab_def.h", "6.8")
