# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reports made by hand."""

from __future__ import annotations

from drgn_slabtype.findings import (
    CacheResult,
    Finding,
    LayoutSummary,
    Outcome,
    Report,
    Target,
    Totals,
)

SLAB = 0xFFFFEA0000123400
OBJECT = 0xFFFF888004560040


def healthy() -> Report:
    """Return the report of a kernel in which nothing was found."""
    caches = [
        CacheResult(
            "kmalloc-64",
            0xFFFF888000041000,
            64,
            64,
            64,
            2,
            2,
            128,
            100,
            90,
            {"freelist": 28, "cpu array": 10},
        ),
        CacheResult(
            "dentry", 0xFFFF888000042000, 192, 192, 21, 1, 1, 21, 21, 20, {"freelist": 0}, 1
        ),
    ]
    return Report(
        Target("core", "/cores/vmcore", "6.1.0-test", "x86_64"),
        LayoutSummary("rfc-v3", "SLAB", ("struct slab has page_type and no active",)),
        Totals(1000, 4, 3, 149, 121, 110, 38, 1, 2),
        caches,
    )


def damaged() -> Report:
    """Return the report of a kernel with one root, two consequences and a second root."""
    report = healthy()
    report.caches[0].outcome = Outcome.INCONSISTENT
    report.findings = [
        Finding(
            "count-mismatch",
            f"kmalloc-64 slab 0x{SLAB:x}: counts 12 of 64 objects in use, 53 are free",
            cache="kmalloc-64",
            node=0,
            slab=SLAB,
            place="freelist",
            expected=11,
            found=12,
            id=1,
        ),
        Finding(
            "freelist-pointer",
            "kmalloc-64: a pointer leads nowhere",
            cache="kmalloc-64",
            object=OBJECT,
            index=0,
            expected=None,
            found=0xDEAD000000000100,
            attempts=5,
            id=2,
        ),
        Finding(
            "node-free-objects",
            "kmalloc-64 node 0: free_objects is 27",
            cache="kmalloc-64",
            node=0,
            expected=28,
            found=27,
            because=1,
            id=3,
        ),
        Finding("list-wrong", "kmalloc-64: on the wrong list", cache="kmalloc-64", because=3, id=4),
    ]
    return report


def incomplete() -> Report:
    """Return the report of a kernel of which a part is missing."""
    report = healthy()
    report.caches[1].outcome = Outcome.UNAVAILABLE
    report.totals.unreadable_pages = 7
    report.totals.zero_filled_pages = 3
    report.unavailable = [
        Finding("unreadable", "/cores/vmcore: truncated"),
        Finding("unreadable", "dentry: a freelist could not be read", cache="dentry"),
    ]
    return report
