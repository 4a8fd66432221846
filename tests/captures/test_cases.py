# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage as it was reported of real kernels, done to captures, and what must be said of it."""

from __future__ import annotations

from pathlib import Path

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report

from ..recipes.overlay import Write, overlay


def _report(kernel: str, *patches: str) -> Report:
    # Each patch is ADDRESS=BYTES, in hex and in the order of memory.
    prog = open_capture(str(Path(__file__).parent / kernel / "capture.xz"))
    writes = [patch.split("=") for patch in patches]
    overlay(prog, [Write(int(address, 16), bytes.fromhex(data)) for address, data in writes])
    return check(prog)


# The kernel met damage in a slab of kmalloc-256 and said "Marking all objects used".
_FAILED = (
    "ffff88a1c1041950=501904c1a188ffff",
    "ffff88a1c1041958=501904c1a188ffff",
    "fffffb42c0183600=400000c0ffff0f00",
    "fffffb42c0183610=000100000000adde220100000000adde",
    "ffff88a1c1041948=0000000000000000",
    "fffffb42c0183620=0000000000000000",
)


def test_slab_taken_out_of_service_is_a_note() -> None:
    report = _report("debian-7-debug", *_FAILED, "fffffb42c0183628=1500158000000000")
    assert (report.exit_status, report.findings, report.changing) == (0, [], [])
    assert [(note.code, note.slab) for note in report.notes] == [
        ("slab-failed", 0xFFFFFB42C0183600)
    ]


def test_slab_that_only_looks_full_is_damaged() -> None:
    # The same without frozen: nothing says that the kernel knows.
    report = _report("debian-7-debug", *_FAILED, "fffffb42c0183628=1500150000000000")
    assert report.exit_status == 1
