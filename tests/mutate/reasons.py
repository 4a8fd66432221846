# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Why nothing says that a word is wrong
-------------------------------------

A word that can be overwritten in silence is either one that nothing else in
memory follows from, and then a row here says so, or it waits for a rule.
"""

from __future__ import annotations

import re
from typing import Collection, NamedTuple, Optional

from .words import MUTATIONS


class Reason(NamedTuple):
    """Why changes of some words are passed in silence."""

    structure: str
    """Of which structures; ``*`` stands for anything."""
    member: str
    """Which members; alternatives stand between ``|``."""
    why: str
    only: Collection[str] = MUTATIONS
    """Which changes alone."""

    def holds(self, structure: str, member: str, mutation: str) -> bool:
        """Return whether it is about a change of a word."""
        fits = _fits(self.structure, structure) and _fits(self.member, member)
        return fits and mutation in self.only


def _fits(patterns: str, name: str) -> bool:
    return any(
        re.fullmatch(re.escape(one).replace(r"\*", ".*"), name) for one in patterns.split("|")
    )


_SMALL = ("flip", "+1", "0")
_ENTRIES = "entry behind the last|stale entry"

REASONS = (
    # struct kmem_cache.
    Reason(
        "kmem_cache",
        "name|kobj.name",
        "a name is compared with a directory in sysfs of its own, and with kmalloc_caches; of a "
        "cache that can be merged neither tells, and links in sysfs are not read",
    ),
    Reason(
        "kmem_cache",
        "flags",
        "hints of who made the cache (PANIC, ACCOUNT, KMALLOC, NOLEAKTRACE, HWCACHE_ALIGN and so "
        "on) leave no trace in any other word, and a cache may have none",
        ("flip", "0"),
    ),
    Reason(
        "kmem_cache", "refcount*", "how many names a cache has is kept nowhere else", ("flip", "+1")
    ),
    Reason(
        "kmem_cache",
        "kobj.kref*",
        "how many refer to it in sysfs is kept nowhere else",
        ("flip", "+1", "pointer"),
    ),
    Reason("kmem_cache", "kobj.sd", "sysfs is not read; another pointer is as good", _SMALL),
    Reason(
        "kmem_cache",
        "min_partial|cpu_partial|shared|limit",
        "a tunable, and any value in its range can be set",
        _SMALL,
    ),
    Reason(
        "kmem_cache",
        "cpu_partial",
        "through Linux 5.15 sysfs takes any number of 32 bits; since, cpu_partial_slabs follows",
        ("text", "pointer"),
    ),
    Reason(
        "kmem_cache",
        "remote_node_defrag_ratio",
        "a tunable, and any value in its range can be set",
        ("0", "flip"),
    ),
    Reason(
        "kmem_cache",
        "useroffset|usersize",
        "which bytes of an object may be copied is known to who made the cache alone",
        _SMALL,
    ),
    Reason("kmem_cache", "ctor", "a cache may have no constructor, or any", ("0",)),
    Reason(
        "kmem_cache",
        "ctor",
        "a dump need not have the symbols of modules; beside those of the kernel, all is theirs",
        ("flip", "pointer"),
    ),
    Reason(
        "kmem_cache",
        "num_active|num_allocations|high_mark|grown|reaped|errors|max_freeable|node_allocs"
        "|node_frees|node_overflow|allochit*|allocmiss*|freehit*|freemiss*",
        "statistics of CONFIG_DEBUG_SLAB",
    ),
    Reason(
        "kmem_cache",
        "object_size|inuse|offset",
        "rounded up, it makes the same slots",
        ("flip", "+1"),
    ),
    Reason("kmem_cache", "align", "any power of two that divides the size", ("flip",)),
    Reason("kmem_cache", "allocflags", "what few caches have has no majority", ("0",)),
    Reason("kmem_cache", "lock_key*", "lockdep's own; nothing reads it without CONFIG_LOCKDEP"),
    # Locks.
    Reason(
        "*",
        "*lock*locked|*lock*pending|lock*acquired|*lock.*tail",
        "a held lock is damage only where all stacks can be seen, which a capture may lack",
        ("flip", "+1", "0", "pointer"),
    ),
    # Nodes and arrays of SLAB.
    Reason("kmem_cache_node", "colour_next", "any colour can be next", ("flip", "+1", "0")),
    Reason(
        "kmem_cache_node",
        "next_reap",
        "within a minute of now any time can be next",
        ("flip", "+1"),
    ),
    Reason("kmem_cache_node|array_cache*", "free_touched|touched", "a mark of use, set or not"),
    Reason(
        "array_cache*|slab_sheaf*",
        "avail|size",
        "objects that no place records look as those in use",
        ("flip", "+1", "0"),
    ),
    Reason("array_cache*|slab_sheaf*", _ENTRIES, "behind the count, old entries mean nothing"),
    Reason(
        "index array",
        "first free|last free",
        "of an object that a user may hold nothing tells that it is not free",
        ("flip", "+1", "0", "pointer"),
    ),
    Reason("index array", _ENTRIES, "before the count, old entries mean nothing"),
    Reason("slab_sheaf*", "barn_list*", "the links of a sheaf that is on no list mean nothing"),
    Reason(
        "slab_sheaf*",
        "rcu_head*|callback_head*|capacity|node|pfmemalloc",
        "used only on the way to RCU, or while somebody holds it",
    ),
    Reason("slub_percpu_sheaves", "spare|rcu_free", "a CPU may have none", ("0",)),
    # CPUs of SLUB.
    Reason("kmem_cache_cpu*", "tid", "without preemption, CPUs count by one from any number"),
    Reason("kmem_cache_cpu*", "stat*", "statistics"),
    Reason("kmem_cache_cpu*", "freelist", "objects that no place records look as in use", ("0",)),
    Reason(
        "freelist (CPU)",
        "*",
        "objects that no place records look as in use, and so does one that is skipped",
        ("flip", "0"),
    ),
    Reason(
        "kmem_cache_cpu*", "partial", "a slab that a CPU has lost looks as one on its way", ("0",)
    ),
    # Slabs.
    Reason(
        "slab (*",
        "*flags*",
        "flags that the allocators or hardware errors set at any time",
        ("flip", "+1"),
    ),
    Reason("slab (full)|slab (nowhere)", "slab_list*", "links of a slab on no list mean nothing"),
    Reason("slab (nowhere)|slab (cpu)", "slab_list*|next|slabs", "on no list, links mean nothing"),
    Reason(
        "slab (*",
        "counters (rest)|stride|memcg_data|obj_exts|obj_cgroups|mem_cgroup",
        "none is there",
        ("0",),
    ),
    Reason(
        "slab (*", "obj_exts", "a vector that could not be allocated is marked like this", ("+1",)
    ),
    Reason("slab (*", "obj_exts_needs_objcg", "says what its vector is to hold once there is one"),
    Reason(
        "slab (*",
        "obj_exts|memcg_data|obj_cgroups|mem_cgroup",
        "another object of kmalloc() that is as large is as good a vector, and a bit tells how "
        "it was allocated",
        ("flip",),
    ),
    Reason(
        "slab (free)|slab (full)",
        "s_mem_offset",
        "where no place records its objects any colour is as good as another, and 0 is the first",
        ("0",),
    ),
    Reason(
        "slab (cpu partial)",
        "slab_list.prev",
        "through Linux 5.16 half of it is pobjects, an estimate",
        ("flip",),
    ),
    Reason("slab (*", "stride", "of a slab without a vector it means nothing"),
    Reason("slab (*", "*(rest)*|__unused*", "padding of the word that is swapped as a whole"),
    Reason(
        "slab, tail|slab, last tail", "flags", "flags of a folio's second page, and of hardware"
    ),
    Reason(
        "slab, tail",
        "word 2|word 3|word 4|word 5|word 7",
        "the first tails hold what a folio keeps there, and a slab nothing",
    ),
    Reason(
        "slab, last tail",
        "word 2|word 4|word 5|word 7",
        "what a page had there before, where no member of a tail is",
    ),
    # Objects under debugging.
    Reason("object (in use), debugging", "behind*", "PIDs, times and handles of who has it"),
    Reason(
        "object (free), debugging", "contents*|behind*", "PIDs, times and handles of who had it"
    ),
    # Zones and pages.
    Reason(
        "zone",
        "_watermark*|watermark*|nr_reserved*|nr_free_highatomic|lowmem_reserve*|node|zone_pgdat"
        "|per_cpu*|pageset*|managed_pages*|present*|cma_pages*|name|nr_isolate*|span_seqlock*"
        "|initialized|flags|percpu_drift*|compact*|contiguous|vm_*|unaccepted*|trylock*"
        "|vmemmap_tails*|reported*|alloc_contig*",
        "reclaim, compaction, hotplug and statistics, from which no place of a page follows",
    ),
    Reason(
        "zone",
        "zone_start_pfn|spanned_pages",
        "a zone that reaches further than its pages is none the less sound",
    ),
    Reason(
        "free block*|page inside a free block",
        "flags*",
        "flags of hardware errors and of who had the page, which the kernel does not clear; inside "
        "a block, its node and zone are read of the first page alone",
        ("flip", "+1", "0"),
    ),
    Reason(
        "free block*|page inside a free block",
        "index|share|__folio_index|_unused*|virtual|private|lru*|buddy_list*",
        "left by who had the page; the kernel looks only when it is told to check",
    ),
)


def reason(structure: str, member: str, mutation: str) -> Optional[Reason]:
    """Return why a change may be passed in silence; ``None`` if nothing is known."""
    for one in REASONS:
        if one.holds(structure, member, mutation):
            return one
    return None
