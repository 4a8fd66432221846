# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports of damage in a kernel's log."""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.answers.kernellog import _taints, as_note, read_reports
from drgn_slabtype.findings import Finding, KernelReport, KernelState

_PADDING = """\
=============================================================================
BUG kmalloc-64 (Tainted: G    B             ): Right Redzone overwritten
-----------------------------------------------------------------------------

0xffff888003a1c4c0-0xffff888003a1c4c0 @offset=1216. First byte 0x41 instead of 0xcc
Slab 0xffffea00000e8700 objects=32 used=12 fp=0xffff888003a1c600 flags=0x200(workingset|node=0)
Object 0xffff888003a1c480 @offset=1152 fp=0xffff888003a1c600
CPU: 1 PID: 77 Comm: test Tainted: G    B
Call Trace:
 dump_stack_lvl+0x44/0x5c
RAX: ffff888099999999 RBX: ffff888088888888
FIX kmalloc-64: Restoring Right Redzone 0xffff888003a1c4c0-0xffff888003a1c4c0=0xcc"""
_KASAN = """\
BUG: KASAN: slab-out-of-bounds in break_it+0x12/0x20 [test]
Write of size 1 at addr ffff888003a1c4c0 by task test/77
The buggy address belongs to the object at ffff888003a1c480
 which belongs to the cache kmalloc-64 of size 64"""


def _lines(text: str) -> List[Tuple[Optional[float], str]]:
    return [(float(n), line) for n, line in enumerate(text.splitlines())]


def test_slub_report_and_repair() -> None:
    report, repair = read_reports(_lines(_PADDING))
    assert (report.kind, report.cache, report.seconds) == ("slub", "kmalloc-64", 1.0)
    assert report.text.endswith("Right Redzone overwritten")
    assert report.addresses == (
        0xFFFF888003A1C4C0,
        0xFFFFEA00000E8700,
        0xFFFF888003A1C600,
        0xFFFF888003A1C480,
    )
    assert (repair.kind, repair.cache) == ("slub", "kmalloc-64")
    assert repair.text.startswith("FIX kmalloc-64: Restoring")


def test_kasan_names_the_cache_later() -> None:
    (report,) = read_reports(_lines(_KASAN))
    assert (report.kind, report.cache) == ("KASAN", "kmalloc-64")
    assert report.addresses == (0xFFFF888003A1C4C0, 0xFFFF888003A1C480)


@pytest.mark.parametrize(
    ("line", "kind", "cache"),
    [
        ("list_del corruption. prev->next should be ffff8880, but was 0", "list", None),
        ("list_add corruption. next->prev should be prev", "list", None),
        ("BUG: Bad page state in process test  pfn:03a1c", "page", None),
        ("BUG: KFENCE: use-after-free read in f+0x1/0x2", "KFENCE", None),
        ("kmem_cache_destroy lkdtm: Slab cache still has objects when called", "destroy", "lkdtm"),
        ("slab error in verify_redzone_free(): cache `kmalloc-64': memory outside", "slab",
         "kmalloc-64"),
        ("kernel BUG at mm/slub.c:379!", "slub", None),
        ("usercopy: Kernel memory exposure attempt detected from SLUB object 'x' (offset 1)",
         "usercopy", "x"),
    ],
)  # fmt: skip
def test_other_reports(line: str, kind: str, cache: Optional[str]) -> None:
    (report,) = read_reports([(None, "before"), (1.5, line), (1.6, "after")])
    assert (report.kind, report.cache, report.seconds) == (kind, cache, 1.5)


def test_page_frame_is_told() -> None:
    (report,) = read_reports([(None, "BUG: Bad page state in process test  pfn:03a1c")])
    assert report.pfn == 0x3A1C


def test_sound_log_has_none() -> None:
    text = "Linux version 6.12\nSLUB: HWalign=64, Order=0-3\nFreeing unused kernel memory: 4K"
    assert read_reports(_lines(text)) == []


@given(st.lists(st.text(max_size=60), max_size=20))
def test_any_log_is_read(lines: List[str]) -> None:
    reports = read_reports([(None, line) for line in lines])
    assert all(isinstance(report, KernelReport) and report.text.isprintable() for report in reports)


def test_note_counts_reports_and_ties_them() -> None:
    tied = KernelReport(1.5, "slub", "BUG x", finding=0)
    lost = KernelReport(None, "KASAN", "BUG: KASAN: y")
    findings = [Finding("redzone", "broken", id=7)]
    (note,) = as_note(KernelState(reports=(tied, lost)), findings)
    assert note.message == (
        "the kernel itself has given 2 reports of damage (1 of slub, 1 of KASAN)"
    )
    assert note.details == (
        "[1.500000] BUG x: finding 7",
        "BUG: KASAN: y: no trace of it: repaired, refused, or overwritten since",
    )
    assert list(as_note(KernelState(), [])) == []


def test_flags_that_cannot_be_read_are_not_none() -> None:
    known: Any = {"tainted_mask": 1 << 12 | 1}
    told = _taints(known)
    assert told is not None
    assert [one[:2] for one in told] == ["P:", "O:"]
    known = {"tainted_mask": 0}
    assert _taints(known) == ()
    known = {}
    assert _taints(known) is None
