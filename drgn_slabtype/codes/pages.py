# SPDX-License-Identifier: LGPL-2.1-or-later
"""Free memory and typed pages: about all of memory, and of a machine that stands still."""

from __future__ import annotations

from typing import Mapping

from .commits import (
    BYTE_COUNTERS,
    FIRST_TAIL,
    FROZEN_PAGES,
    LOW_BITS,
    ONE_TYPE,
    PAGE_TYPES,
    PAGES_OF_CPUS,
    SUBSECTIONS,
)
from .explained import Code, Measure

_WORD = Measure("word")
_REFERENCES = Measure("count", "references")
_MAP = "a stray write into the memory map"

CODES: Mapping[str, Code] = {
    "page-free-type": Code(
        "page",
        "A page in free memory has another type or another owner.",
        "`free_page_is_bad()` lets no page be freed that is mapped or has references; a free "
        "block's head has the type buddy, all its other pages none (`set_buddy_order()`, "
        "`__free_one_page()`).",
        ("a page freed twice", "a page used after it was freed", _MAP),
        (
            "`page PFN`: what the page says it is",
            "page_owner, where the kernel has it: who had it last",
        ),
        (PAGE_TYPES, ONE_TYPE),
        more="It is on a free list, or inside a free block, and has a type, counts as mapped or "
        "belongs to a compound page; `place` is `pcp` on a list of a CPU.",
        measure=_WORD,
    ),
    "page-free-flags": Code(
        "page",
        "A free page has flags or references that must be gone.",
        "`PAGE_FLAGS_CHECK_AT_FREE` and the count are checked when a page is freed "
        '(`free_page_is_bad()`, "Bad page state").',
        (
            "a page freed twice, or used after it was freed",
            "a driver that keeps a page it has given back",
            _MAP,
        ),
        ("`page PFN`", "page_owner, where the kernel has it"),
        more="Such as `lru`, `locked` or `reserved`.",
        measure=_WORD,
    ),
    "page-free-order": Code(
        "page",
        "A free block has an order that it cannot have there.",
        "`private` of a free block's first page is its order; the block begins at a multiple of "
        "its size, inside one zone (`__free_one_page()`).",
        ("a stray write into `private` or the flags of its first page",),
        ("`page PFN`", "`pages --pfn PFN+16 -l`: what is around it"),
    ),
    "page-free-list": Code(
        "page",
        "A free list and a free block do not lead to each other.",
        "Every free block is on the list of its order and migrate type, linked by `lru` under the "
        "zone's lock; so are the free pages that a CPU keeps of a zone (`struct per_cpu_pages`).",
        ("a stray write into `lru`", "a page used after it was freed", "a page freed twice"),
        ("`page PFN`", "`what WORD` with the links of the page"),
        (PAGES_OF_CPUS,),
        more="`place` is `pcp` on a list of a CPU, whose order and zone are those of its pages.",
    ),
    "page-free-buddies": Code(
        "page",
        "Two free blocks that make one were not merged.",
        "`__free_one_page()` merges a block with its buddy if `page_is_buddy()` says so, always "
        "below the size of a page block.",
        ("one of them was damaged when the other was freed",),
        ("`page PFN` of both",),
    ),
    "page-free-count": Code(
        "page",
        "A zone or a CPU does not count the free blocks or pages that it has.",
        "`nr_free` of a `struct free_area` goes with its lists (`__add_to_free_list()`, "
        "`__del_page_from_free_list()`) under the zone's lock; `count` of a `struct per_cpu_pages` "
        "is of the pages on its lists, of all orders.",
        (
            "it follows from any of the other findings about free memory",
            "a write over `struct zone` or `struct per_cpu_pages`",
        ),
        ("the finding it follows from", "`pages -t buddy --node NODE`"),
        (PAGES_OF_CPUS,),
        more="`place` is `pcp` where a CPU counts; as many pages as it moves at once may be on "
        "their way.",
        measure=Measure("count", "blocks"),
    ),
    "memory-map": Code(
        "page",
        "A section of memory does not say where its struct pages are.",
        "`section_mem_map` of a section that is present leads to the memory map, which with "
        "`SPARSEMEM_VMEMMAP` is one array for all (`sparse_init_one_section()`).",
        ("a stray write into `mem_section` or one of its roots",),
        (
            "`what WORD` with the word that was found",
            "`refs ADDRESS` with the address of the section",
        ),
        (SUBSECTIONS,),
        more="The other sections, the kernel's own variable and the struct pages themselves tell "
        "another memory map, or `mem_section` lacks a section in which slabs are. The struct "
        "pages are read all the same; the kinds of page blocks hang on the sections, so that free "
        "memory is not judged.",
        measure=Measure("address"),
    ),
    "page-tail-type": Code(
        "page",
        "A tail of a compound page has a type of its own.",
        "Types belong to heads only; tails are idle, but where a HugeTLB or large folio keeps "
        "numbers of its own.",
        (_MAP, "a type set on the wrong page"),
        ("`page PFN` of the tail and of its head",),
        (PAGE_TYPES, ONE_TYPE),
        more="Or one of a slab has a word that no page of a slab can have: it counts as mapped.",
        measure=_WORD,
    ),
    "page-tail-head": Code(
        "page",
        "A compound page and one of its tails do not lead to each other.",
        "`prep_compound_page()` writes the order into the head's second page and a way back to "
        "the head into `compound_head` of each tail (`compound_info` since Linux 7.1, where that "
        "may be a mask); `free_tail_page_prepare()` checks both.",
        (_MAP,),
        ("`page PFN` of the page and of the head that the message names",),
        (FIRST_TAIL,),
        more="The finding is about the tail if most others are whole (it leads to no head, to "
        "another one, to what is no page, or is marked as a head itself), else about the head "
        "(its order, or its mark). So is a page that nobody knows as a head or a tail and that "
        "says it is one. The page allocator makes and unmakes compound pages tail by tail, and "
        "large folios are split so: one such page for each CPU is `changing`, if it has no type, "
        "no mapping, no more than one reference, and what is undone is at one of its ends. A slab "
        "has all of its tails from its first moment to its last.",
        measure=Measure("text"),
    ),
    "page-tail-word": Code(
        "page",
        "A tail of a compound page holds what no tail holds.",
        "`prep_compound_tail()` gives each tail `TAIL_MAPPING` for its mapping, and tails are "
        "charged to no cgroup; `free_tail_page_prepare()` and `free_page_is_bad()` look at both. "
        "The first says how many pages there are, which follows from the order beside it.",
        (_MAP, "a driver that gives a mapping to pages that are not its own"),
        ("`page PFN` of the tail and of its head", "`what WORD` with what was found"),
        more="The first pages behind a head have members of the folio in these places: those of "
        "slabs must have for a mapping what those of all other slabs of that order have. Of "
        "compound pages that are no slabs only what is no pointer is told: they are split and "
        "freed tail by tail, and drivers have mappings of their own. Sixteen tails must be as they "
        "should for each that is not.",
        measure=_WORD,
    ),
    "page-refcount": Code(
        "page",
        "A page has fewer or more references than it can have.",
        "A slab's page has the one reference that its allocator got with it, since Linux 6.14 none "
        "(frozen); tails have none; nobody gives back more than was taken "
        "(`page_ref_dec_and_test()`).",
        (
            "a page or a large `kmalloc()` that was freed twice",
            "somebody who gives back a reference that was never taken, such as `page_frag_free()` "
            "of an object of a slab",
        ),
        (
            "`page PFN`",
            "page_owner, where the kernel has it",
            "`stacks` of the objects in that slab",
        ),
        (PAGES_OF_CPUS, FROZEN_PAGES),
        more="On a slab: other than those of all other slabs; two thirds of the machine's slabs "
        "must agree on which. On a tail of a compound page: any. Outside of free memory: fewer "
        "than none, and then `place` is `pcp` if the page is on a list of free pages of a CPU.",
        measure=_REFERENCES,
    ),
    "page-zone-wrong": Code(
        "page",
        "A page says that it is of a zone which does not span it.",
        "The top bits of a page's flags name its node and its zone, from when its struct page is "
        "made (`set_page_links()`); `bad_range()` lets the page allocator take no page into "
        "another.",
        (_MAP,),
        ("`page PFN`", "`what WORD` with what the page has for its flags"),
        more="Of pages that follow each other, the first is told. Pages that are no memory are "
        "not judged, nor is a zone that does not lie where it says.",
        measure=Measure("text"),
    ),
    "page-type-mapped": Code(
        "page",
        "A page has a type and is mapped by user space.",
        "The word of a page is a type or a count of mappings; only HugeTLB pages have both, in "
        "different places.",
        ("a page mapped by a driver that is not its own", _MAP),
        ("`page PFN`: mapping and count",),
        (PAGE_TYPES, LOW_BITS, ONE_TYPE),
        measure=_WORD,
    ),
    "vmstat-slab": Code(
        "page",
        "The kernel's count of slab pages is not what there is.",
        "`account_slab()` and `unaccount_slab()` add to `nr_slab_reclaimable` and "
        "`nr_slab_unreclaimable` of a node, by way of a difference that each CPU keeps; large "
        "`kmalloc()` counts to the second.",
        (
            "slabs freed without being counted, or lost from every list",
            "a write over the node's or a CPU's statistics",
        ),
        (
            "`node-slabs` and `slab-mark-lost`, if they were found too",
            "`pages -t slab --node NODE`",
        ),
        (BYTE_COUNTERS,),
        more="KFENCE's pages are not counted by the kernel. One allocation may be on its way on "
        "each CPU. Before Linux 6.15 large `kmalloc()` leaves no mark, so that only a count that "
        "is too small can be told.",
        measure=Measure("count", "pages"),
    ),
}
