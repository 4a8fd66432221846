# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a capture knows of who was at work decides as it did where it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from drgn import Program

from drgn_slabtype.capture import open_capture, write_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report
from drgn_slabtype.machine import machine
from drgn_slabtype.machine.witness import witnesses

from ..recipes.overlay import overlay
from ..recipes.suites import suite_of

_HERE = Path(__file__).parent
_FREEING = ["CPU 1, pid 77 (rm)", "free_block", "free_block+0x51", True]


def _open(kernel: str, told: Optional[Dict[str, Any]]) -> Program:
    prog = open_capture(str(_HERE / kernel / "capture.xz"))
    if told is not None:
        machine(prog).manifest = {**(machine(prog).manifest or {}), "witnesses": told}
    return prog


def _in_the_middle(kernel: str, state: str, told: Optional[Dict[str, Any]]) -> Report:
    prog = _open(kernel, told)
    suite = suite_of(prog)
    overlay(prog, suite.states[state](suite.open(prog)))
    return check(prog)


@pytest.mark.parametrize("state", ["slab-moved-under-lock", "free-objects-under-lock"])
def test_held_lock_excuses_while_somebody_is_at_work(state: str) -> None:
    report = _in_the_middle("slab-6.1-rfc3-plain", state, {"calls": [_FREEING], "gap": None})
    assert report.findings == []
    roots = [finding for finding in report.changing if finding.because is None]
    assert roots
    for root in roots:
        assert root.details == ("at work: CPU 1, pid 77 (rm): free_block+0x51",)


@pytest.mark.parametrize("state", ["slab-moved-under-lock", "free-objects-under-lock"])
def test_lock_of_a_task_that_died_in_the_middle_is_a_finding(state: str) -> None:
    report = _in_the_middle("slab-6.1-rfc3-plain", state, {"calls": [], "gap": None})
    assert report.changing == []
    roots = {finding.code: finding for finding in report.findings if finding.because is None}
    assert len(roots) == 2
    assert all("no CPU and no task is" in root.message for root in roots.values())
    assert roots["lock-kept"].node == 0
    assert report.exit_status == 1


def test_capture_of_an_older_version_leaves_it_open() -> None:
    report = _in_the_middle("slab-6.1-rfc3-plain", "slab-moved-under-lock", None)
    assert report.findings == []
    assert report.changing
    for finding in report.changing:
        if finding.because is None:
            assert finding.details[-1].endswith("the capture does not tell who was at work")


def _codes(report: Report) -> List[List[str]]:
    return [[f.message for f in shelf] for shelf in (report.findings, report.changing)]


@pytest.mark.parametrize("calls", [[], [_FREEING]])
def test_capture_gives_the_verdict_of_its_source(calls: List[Any], tmp_path: Path) -> None:
    told = {"calls": calls, "gap": None}
    prog = _open("slab-6.1-rfc3-plain", told)
    suite = suite_of(prog)
    overlay(prog, suite.states["slab-moved-under-lock"](suite.open(prog)))
    path = str(tmp_path / "capture")
    write_capture(prog, path, compressed=False)
    again = open_capture(path)
    assert witnesses(machine(again)).to_json() == told
    report = check(again)
    assert _codes(report) == _codes(check(prog))
    assert bool(report.findings) == (not calls)


def test_damaged_witnesses_leave_it_open() -> None:
    prog = _open("slab-6.1-rfc3-plain", {"calls": "?", "gap": None})
    assert witnesses(machine(prog)).gap == "the capture does not tell who was at work"
