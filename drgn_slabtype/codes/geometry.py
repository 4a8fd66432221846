# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the machine, a cache and a slab are made of."""

from __future__ import annotations

from typing import Mapping

from .commits import EXTENSIONS, FIRST_TAIL, MEMCG_FLAGS, STRUCT_SLAB
from .explained import Code, Measure

CODES: Mapping[str, Code] = {
    "machine-wrong": Code(
        "geometry",
        "A number that describes the machine is contradicted.",
        "Written once, at boot: `nr_node_ids` by `setup_nr_node_ids()` from the possible nodes, "
        "`nr_cpu_ids` by `setup_nr_cpu_ids()` from the possible CPUs, "
        "`__highest_present_section_nr` by `memory_present()`, `__per_cpu_offset` by "
        "`setup_per_cpu_areas()`, `node_data[]` and what zones and nodes say of themselves by "
        "`free_area_init()`, `max_pfn` behind all memory that there is at boot; "
        "`saved_command_line` and `__kfence_pool` lie in the direct map; "
        "`kmalloc_caches` by `create_kmalloc_caches()`, `kmem_cache` and `kmem_cache_node` by "
        "`kmem_cache_init()`.",
        ("a stray write into the kernel's data",),
        (
            "`refs ADDRESS` and `what WORD`: what has been written there",
            "the variables around it in `System.map`",
        ),
        more="Judged are `nr_node_ids` by the possible nodes and `node_data[]`, "
        "`node_states[N_ONLINE]` by the nodes that have memory and by `node_data[]`, that by the "
        "zones it leads to, per-CPU pointers of nodes and zones by where CPUs can have memory, "
        "`numa_node` by what SLAB's arrays of that CPU hold, `max_pfn` by what was "
        "allocated at boot, where a zone begins and ends by its free blocks, "
        "`nr_cpu_ids` and `__cpu_possible_mask` by each other and by the CPUs that are there, "
        "`__highest_present_section_nr` by the sections, `__per_cpu_offset` by the runqueues there "
        "or the other CPUs' words, `saved_command_line` and `__kfence_pool` by the direct map, "
        "`kmalloc_caches` by the sizes of objects of the caches it leads to, `kmem_cache` and "
        "`kmem_cache_node` by the slabs that the caches and their nodes lie in. What the others "
        "say counts.",
        measure=Measure("number"),
    ),
    "kfence-wrong": Code(
        "geometry",
        "What KFENCE says of an object that it guards cannot be.",
        "`kfence_guarded_alloc()` and `kfence_guarded_free()` write `struct kfence_metadata` "
        "under its lock: an address in the object's own page, a state, the cache and the bytes "
        "that were asked for. `kfence_freelist` has the objects that are free.",
        ("a stray write over `kfence_metadata`",),
        (
            "`object ADDRESS` with an address in the pool",
            "`what WORD` with what was found",
            "`refs ADDRESS`: what has been written there",
        ),
        more="A damaged address does not end the pool: the other objects tell where it is.",
        measure=Measure("number"),
    ),
    "cache-wrong": Code(
        "geometry",
        "A member of the slab cache contradicts all of its slabs.",
        "`calculate_sizes()` (SLAB: `__kmem_cache_create()`) lays out a cache once; only an alias "
        "makes its objects larger later. So its members follow from each other, and every slab is "
        "made as they say.",
        (
            "a stray write over `struct kmem_cache`",
            "an overflow of the object before it in the cache `kmem_cache`",
        ),
        (
            "`object ADDRESS` with the address of the cache: its bytes and its neighbours",
            "`what WORD` with the value that was found",
            "`caches` of the other members: how far the damage reaches",
        ),
        more="None of the cache's slabs, three or more, is made as the cache says, or none of "
        "their freelists can be followed: then it is the cache that is damaged (its orders, the "
        "offset of the free pointer, or the secret that hardens it). Or a `size`, or SLAB's `num` "
        "or `gfporder`, is another than all other members say: the cache is read by what they say, "
        "so that the rest of it is judged. Or its members "
        "contradict each other: sizes and alignment, SLAB's number of objects and colours, the "
        "capacity of sheaves, a name or constructor that is in no kernel. What the slabs show "
        "follows from it. Or one of its members is not as in all other caches: a formula that "
        "holds for at least nine of ten does not hold for this one (flags, `allocflags`, "
        "reciprocals, kobject, tunables), or it has a pointer that another cache has.",
        measure=Measure("number"),
    ),
    "cache-destroyed": Code(
        "geometry",
        "A slab cache was destroyed with objects in use.",
        "`kmem_cache_destroy()` expects a cache without objects; with some, "
        "`__kmem_cache_shutdown()` lists them in the log (`Objects remaining`) and the cache is "
        "taken off `slab_caches` all the same (before Linux 6.12 it stayed there, with `refcount` "
        "0).",
        (
            "a module was unloaded and leaked objects",
            "somebody still uses objects of a module that is gone",
            "objects freed by RCU that the module did not wait for (`rcu_barrier()`)",
        ),
        (
            "`objects CACHE --in-use`: all of them; the details list the first, with who "
            "allocated them",
            "`refs ADDRESS`: who still points to them",
            "`stacks CACHE`: where they come from, with slub_debug",
        ),
        more="The cache was taken off the list of caches (its links hold `LIST_POISON1` and "
        "`LIST_POISON2`) while objects of it were in use. Also a cache that is still on the list "
        "though its `refcount` is 0, and nobody is destroying it.",
        measure=Measure("count", "objects"),
    ),
    "slab-cache-wrong": Code(
        "geometry",
        "The slab's cache pointer is not what leads to the slab.",
        "`slab->slab_cache` is written when the slab is made, and stays; only slabs of its own "
        "cache are on a node's list or with a CPU. `kfree()` gives an object back to the cache it "
        "names.",
        (
            "a stray write over `struct slab`",
            "the page was freed and is a slab of another cache now",
        ),
        (
            "`page ADDRESS`: the whole struct page",
            "`what WORD` with the pointer that was found",
        ),
        (STRUCT_SLAB,),
        more="One damaged word is likelier than three: the list is believed.",
        measure=Measure("address"),
    ),
    "slab-order-wrong": Code(
        "geometry",
        "The slab's order is neither of its cache's orders.",
        "`allocate_slab()` takes pages of the order in `oo`, or of that in `min` if it fails; "
        "SLAB always of `gfporder`. `prep_compound_page()` writes the order into the second "
        "struct page.",
        ("a write over the second `struct page`",),
        ("`page ADDRESS`: what head and tails say", "the struct pages behind the head"),
        (FIRST_TAIL,),
        measure=Measure("number", "orders"),
    ),
    "slab-objects-wrong": Code(
        "geometry",
        "The slab's object count does not fit its order.",
        "SLUB's `slab->objects` is `order_objects()` of its order and of the cache's size; "
        "`check_slab()` compares it in debug caches.",
        ("a write over the word of the counters",),
        ("`slabs CACHE --slab ADDRESS`", "`page ADDRESS`: the words around it"),
        measure=Measure("count", "objects"),
    ),
    "slab-base-wrong": Code(
        "geometry",
        "The first object is not where this cache puts it.",
        "SLAB's `s_mem` is the start of the slab and one of the cache's colours: "
        "`alloc_slabmgmt()` adds a multiple of `colour_off`.",
        ("a write over `s_mem`",),
        ("`page ADDRESS`", "`what WORD` with the address that was found"),
        more="Every object address derived from it is wrong.",
        measure=Measure("address"),
    ),
    "slab-flags-wrong": Code(
        "geometry",
        "A slab's page has flags that no slab can have.",
        "The page allocator hands out pages without flags of users (`check_new_pages()`, "
        "`PAGE_FLAGS_CHECK_AT_PREP`), and slab allocators set none of those.",
        (
            "a stray write into the memory map",
            "somebody who still uses the page that the slab was made of",
        ),
        (
            "`page ADDRESS`: which flags, and what mapping or private says beside them",
            "page_owner, where the kernel has it: who had the page before",
        ),
        more="A page of a slab, its head or a tail, has a flag that only users of pages set: "
        "`lru`, `dirty`, `writeback`, `private`, `reserved` and the like; or its head has bits "
        "that are no flag's (last CPU, generation, tag) other than all other slabs. What "
        "allocators set themselves (`locked`, `active`, `workingset`) and what says nothing about "
        "the user (`hwpoison`, `arch_1`) is not judged.",
        measure=Measure("word"),
    ),
    "slab-vector-wrong": Code(
        "geometry",
        "What a slab has for its vector of object cgroups cannot be one.",
        "`alloc_slab_obj_exts()` (before: `memcg_alloc_slab_cgroups()`) hangs one vector of its "
        "own on a slab, made by `kmalloc()` or laid into the slab, with flags in its lowest bits.",
        ("a write over `struct slab`",),
        (
            "`what WORD`, `object ADDRESS` with what was found",
            "`page ADDRESS`: the words around it",
        ),
        (MEMCG_FLAGS, EXTENSIONS),
        more="It (`obj_cgroups`, `memcg_data`, `obj_exts`) has bits that mean something else, is "
        "no address of the kernel's, leads into no slab although `kmalloc()` has it there, or two "
        "slabs have the same; or an entry of the vector leads to what `kmalloc()` has not given "
        "out, or to an object that is too small for a `struct obj_cgroup`.",
        measure=Measure("address"),
    ),
    "slab-node-wrong": Code(
        "geometry",
        "The slab stands on another NUMA node's list.",
        "A slab stands on a list of the node that its page is of: `get_node(s, slab_nid(slab))` in "
        "SLUB, `page_to_nid()` in SLAB.",
        (
            "a stray write into the flags of the page, where its node is",
            "a slab moved by a broken list",
        ),
        ("`page ADDRESS`: node and zone of the page", "`slabs CACHE --node NODE`"),
        measure=Measure("text"),
    ),
}
