# SPDX-License-Identifier: LGPL-2.1-or-later
"""Places keep their own promises."""

from __future__ import annotations

from typing import Mapping

from .commits import NO_CPU_SLABS, NO_SLAB, SHEAVES
from .explained import Code, Measure

_OBJECTS = Measure("count", "objects")

CODES: Mapping[str, Code] = {
    "container-limit": Code(
        "container",
        "A place counts more objects than it can hold.",
        "`avail` of an array of SLAB is not above `limit`, `size` of a sheaf not above the cache's "
        "`sheaf_capacity`: whoever puts an object in flushes first.",
        ("a write over the place",),
        (
            "`object ADDRESS` with the address of the place: its bytes and its neighbours",
            "`what WORD` with the count",
        ),
        (NO_SLAB, SHEAVES),
        more="Entries beyond its end are not read.",
        measure=_OBJECTS,
    ),
    "container-count": Code(
        "container",
        "A place's count differs from what is in it.",
        "`nr_full` and `nr_empty` of a barn change with its lists under its lock; each slab of a "
        "CPU's chain counts those from itself to the end (`put_cpu_partial()`); what is in a place "
        "can be read to its end.",
        ("a write over the place", "a chain that lost slabs to a damaged link"),
        ("`object ADDRESS` with the address of the place", "`slabs CACHE --cpu CPU`"),
        (SHEAVES, NO_CPU_SLABS),
        measure=_OBJECTS,
    ),
    "container-state": Code(
        "container",
        "A place is in a state its kind cannot have.",
        "A CPU with a freelist has a slab, a sheaf names its cache, full ones are full and empty "
        "ones empty; per-CPU pointers lead to per-CPU memory, pointers to nodes, barns and arrays "
        "to the kernel's half; numbers are among those that tuning and tick write.",
        ("a write over the place, or over what leads to it",),
        (
            "`what WORD` with what was found",
            "`object ADDRESS` with the address of the place: its bytes and its neighbours",
        ),
        (SHEAVES, NO_CPU_SLABS),
        more="A freelist without a slab, a sheaf of another cache, an empty sheaf among the full "
        "ones. Or what leads to it leads nowhere: a cache's per-CPU pointer, a pointer to a node, "
        "barn or array. Or a number in it is none that it can have: `tid`, `touched`, "
        "`colour_next`, `free_touched`, `next_reap`, the limits and batches by which arrays are "
        "tuned.",
        measure=Measure("number"),
    ),
    "lock-wrong": Code(
        "container",
        "A lock holds a word that no lock of its kind can hold.",
        "The word of a lock is written by lock and unlock alone: queued and ticket spinlocks, "
        "those of s390x and ppc64, with `DEBUG_SPINLOCK` magic and owner, with `PREEMPT_RT` the "
        "owner.",
        ("a write over the structure that the lock guards",),
        (
            "`what WORD` with the word: text, poison, a pointer",
            "`object ADDRESS` with the address of the lock: its bytes and its neighbours",
        ),
        more="Text, or a CPU or task that there is none of. `address` is where. Judged are the "
        "locks of nodes, barns, sheaves of CPUs, alien arrays and zones. Nothing is excused by "
        "such a lock.",
        measure=Measure("word"),
    ),
    "lock-kept": Code(
        "container",
        "A lock is held, and nobody is where it could be held.",
        "A spinlock is held by a CPU, or with `PREEMPT_RT` by a task, that is in a function "
        "between lock and unlock.",
        ("a task that died in the middle: an oops in the allocator", "a write over the lock"),
        (
            "the log: an oops in a function of the allocator",
            "whoever waits for it: stacks in `native_queued_spin_lock_slowpath()` and the like",
        ),
        more="All stacks could be read, and none has such a function. Whoever wants the lock next "
        "waits for ever.",
    ),
}
