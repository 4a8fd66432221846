# SPDX-License-Identifier: LGPL-2.1-or-later
"""Notes, which are advice, and what could not be judged."""

from __future__ import annotations

from typing import Mapping

from .commits import FROZEN_PAGES, LOW_BITS, ONE_TYPE, SLAB_TYPE
from .explained import Code, Measure

NOTES: Mapping[str, Code] = {
    "dump-tools-misread": Code(
        "note",
        "A tool that compares the whole type word misreads this kernel.",
        "`PAGE_SLAB_MAPCOUNT_VALUE` and its like in VMCOREINFO are whole words. Since Linux 6.11 "
        "the lower bits belong to whoever owns the page, so that a tool has to compare the type "
        "alone.",
        ("the layout of this kernel: no damage",),
        (
            "`layout`: how this kernel marks its pages",
            "makedumpfile, crash and drgn before they know",
        ),
        (SLAB_TYPE, LOW_BITS, ONE_TYPE),
    ),
    "vmcoreinfo-differs": Code(
        "note",
        "A number exported in VMCOREINFO is not the one in use.",
        "VMCOREINFO is written when the kernel boots, from the same definitions that it uses.",
        ("VMCOREINFO of another kernel, given with `--vmcoreinfo`",),
        ("`layout`: the evidence that does not fit",),
        reserved=True,
    ),
    "kernel-reported": Code(
        "note",
        "The kernel has reported damage itself.",
        "The slab allocators, list debugging, the page allocator, KASAN and KFENCE write a report "
        "to the log and taint the kernel when they meet damage.",
        ("as the report says",),
        (
            "the report in the log, with its call trace: `kernel.reports` in JSON",
            "the finding about the same object, slab or page, which the note names",
        ),
        more="Each is told with the finding about the same object, slab or page; one without a "
        "trace was repaired or refused by the kernel, or memory was used anew since.",
    ),
    "slab-failed": Code(
        "note",
        "The kernel's own checks have taken this slab out of service.",
        "When `alloc_debug_processing()` or `free_debug_processing()` finds a slab damaged, it "
        "calls all objects used and forgets the freelist and the list (`Marking all objects "
        "used`).",
        ("whatever the kernel's log reports of this slab",),
        ("the kernel's report in the log", "`slabs CACHE --slab ADDRESS`"),
        more="What is left of the objects is not judged.",
    ),
    "slab-referenced": Code(
        "note",
        "A slab's page has references beside the allocator's own.",
        "In a kernel where a slab's page has one reference itself (through Linux 6.13) somebody "
        "may take more with `get_page()`, as ocfs2 did for what it sent.",
        ("a page of a slab given to the network or to block I/O",),
        ("`page ADDRESS`", "`refs ADDRESS` with the struct page: who has it"),
        (FROZEN_PAGES,),
        more="The slab cannot be given back before they are gone. More than a thousand are a "
        "finding, `page-refcount`.",
        measure=Measure("count", "references"),
    ),
    "structures-shuffled": Code(
        "note",
        "Debug info is wrong about tasks, files, inodes and mappings.",
        "With `CONFIG_RANDSTRUCT` the compiler puts the members of such structures in a random "
        "order, and GCC's debug info has them in the order of the source. The allocators' own "
        "structures stay as they are.",
        ("a kernel that was built so by GCC: no damage",),
        ("a kernel built by Clang, whose debug info is right",),
        more="Told by `init_task`, whose name is not where the debug info says. What is in "
        "flight cannot be owed to anybody then, and stays `changing`.",
    ),
    "not-saved": Code(
        "note",
        "A file that was asked for could not be written.",
        "`--capture FILE` was given and something was found, or `--report FORMAT=FILE` or "
        "`--write-baseline FILE`.",
        ("a full disk, or a folder that cannot be written to",),
        ("the message, which says why",),
    ),
    "baseline-gone": Code(
        "note",
        "What a baseline accepts is not there any more.",
        "`check --baseline FILE` was given, all was judged, and nothing fits an entry of the file.",
        ("the mistake is gone", "the damage was there by chance, and is not in this dump"),
        ("`check --baseline FILE --write-baseline FILE`: a baseline without it",),
    ),
    "slab-detached": Code(
        "note",
        "A slab waits outside all lists: RCU, shrinking or destruction.",
        "An empty slab of a `SLAB_TYPESAFE_BY_RCU` cache waits for a grace period before its "
        "pages are given back; a shrinker and the destruction of a cache take slabs off their "
        "lists first.",
        ("the kernel at work: no damage",),
        ("nothing: it goes with the grace period",),
    ),
}

UNAVAILABLE: Mapping[str, Code] = {
    "unreadable": Code(
        "unavailable",
        "Memory a rule needed could not be read.",
        "What is missing is never damage.",
        (
            "a dump that was cut short, or made without some pages (makedumpfile's dump level)",
            "a target that does not let this memory be read",
        ),
        (
            "the size of the file, and the disk it was written to",
            "a dump that has all kernel pages",
        ),
        measure=Measure("count", "pages"),
    ),
    "not-read": Code(
        "unavailable",
        "What was read made no sense to this program.",
        "An error of this program costs the cache or the question that it comes from, and "
        "everything else is judged.",
        ("damage that this version does not expect", "a kernel newer than this version"),
        (
            "the message: the kind of the error, and where in the program",
            "a report, with a capture",
        ),
        more="A cache, or a question about the machine, is lost by an error in it that the message "
        "names. Worth a report, with a capture.",
    ),
    "not-captured": Code(
        "unavailable",
        "The capture left out what a rule needed.",
        "A capture has what a check of its version reads.",
        ("a capture by an older version",),
        ("a new capture, or the dump itself",),
        reserved=True,
    ),
    "target-gone": Code(
        "unavailable",
        "The target went away while it was read.",
        "A report has what was seen until then; what a target that moves has shown, and what was "
        "not confirmed yet, is `changing` in it.",
        (
            "the guest ended, was started again or no longer answers",
            "the file can no longer be read",
        ),
        ("the message, which says which",),
    ),
    "not-understood": Code(
        "unavailable",
        "What most of the machine contradicts is no damage: it is not understood.",
        "Damage is rare. What most objects or slabs of most caches break is a layout that this "
        "version does not know.",
        (
            "a kernel whose debugging keeps something that this version does not know",
            "a patched allocator",
        ),
        ("`layout`", "a report, with a capture"),
        more="What is around the objects of a cache, or what most of the machine contradicts, is "
        "not judged. Either the parts of a slot do not add up to its size, or most of what a rule "
        "looked at, in most caches, broke it. It says what does not add up.",
        measure=Measure("count"),
    ),
    "not-judged": Code(
        "unavailable",
        "What hangs on damage found elsewhere was not judged.",
        "A rule is not asked where what it goes by is missing or damaged.",
        ("missing or damaged memory that is told elsewhere in the report",),
        ("the finding, or the missing memory, that the message names",),
    ),
}
