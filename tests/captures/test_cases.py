# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage as it was reported of real kernels, done to captures, and what must be said of it."""

from __future__ import annotations

from pathlib import Path

from drgn import Program

from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report

from ..recipes.overlay import Write, overlay


def _damaged(kernel: str, *patches: str) -> Program:
    # Each patch is ADDRESS=BYTES, in hex and in the order of memory.
    prog = open_capture(str(Path(__file__).parent / kernel / "capture.xz"))
    writes = [patch.split("=") for patch in patches]
    overlay(prog, [Write(int(address, 16), bytes.fromhex(data)) for address, data in writes])
    return prog


def _report(kernel: str, *patches: str) -> Report:
    return check(_damaged(kernel, *patches))


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


# A module was unloaded and left objects: mnt_cache off the list of caches, without users.
_DESTROYED = (
    "ffff8bf10124a060=60a32401f18bffff",
    "ffff8bf10124a368=60a02401f18bffff",
    "ffff8bf10124ac60=000100000000adde220100000000adde",
    "ffff8bf10124ac3c=00000000",
)


def test_destroyed_cache_keeps_its_name_and_objects() -> None:
    report = _report("debian-7-plain", *_DESTROYED)
    (finding,) = report.findings
    assert (finding.code, finding.cache, finding.found) == ("cache-destroyed", "mnt_cache", 31)
    assert len(finding.details) == 7
    assert finding.details[-1] == "25 more are in use"
    assert report.exit_status == 1


def test_objects_of_a_destroyed_cache_are_listed() -> None:
    prog = _damaged("debian-7-plain", *_DESTROYED)
    left = objects(prog, "mnt_cache", "in use")
    assert len(left) == 31
    assert slab_object(prog, left.addresses()[0]).cache == "mnt_cache"
