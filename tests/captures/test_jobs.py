# SPDX-License-Identifier: LGPL-2.1-or-later
"""However many processes there are, the answer is the same."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import pytest
from drgn import Program

from drgn_slabtype import course
from drgn_slabtype.answers import refs, stacks
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.errors import ArgumentError
from drgn_slabtype.findings import Report
from drgn_slabtype.report import present

HERE = Path(__file__).parent
CAPTURES = [
    "debian-7-plain/capture.xz",
    "slab-6.1-rfc3-plain/capture.xz",
    "broken/slub-6.1-plain-P-overflow-word.xz",
    "broken/slab-6.1-rfc3-put-slab.xz",
]


def _kernel() -> Program:
    return open_capture(str(HERE / CAPTURES[0]))


def _told(report: Report) -> Dict[str, Any]:
    found: Dict[str, Any] = json.loads("".join(present("check", report, "json")))
    for name in ("seconds", "peak_memory"):
        del found["totals"][name]
    return found


@pytest.mark.parametrize("capture", CAPTURES)
def test_report_is_the_same(capture: str) -> None:
    alone = check(open_capture(str(HERE / capture)))
    assert _told(check(open_capture(str(HERE / capture)), jobs=3)) == _told(alone)


def test_report_is_the_same_if_processes_are_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = check(open_capture(str(HERE / CAPTURES[2])))
    judge, here = course._judge_cache, os.getpid()

    def killed(reading: Any, number: int) -> Any:
        if os.getpid() != here and number % 20 == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return judge(reading, number)

    monkeypatch.setattr(course, "_judge_cache", killed)
    assert _told(check(open_capture(str(HERE / CAPTURES[2])), jobs=2)) == _told(alone)


def test_what_others_were_at_is_left_when_it_is_stopped() -> None:
    done: List[int] = []

    def stop(what: str, at: int, of: int) -> None:
        done.append(at)
        if what == "caches" and at == 20:
            raise KeyboardInterrupt

    report = check(open_capture(str(HERE / CAPTURES[0])), jobs=2, progress=stop)
    assert report.interrupted
    assert len(report.caches) == 20
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_references_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "_PART_BYTES", 2 << 20)
    prog = _kernel()
    done: List[int] = []
    alone = refs.refs(prog, prog["slab_caches"].address_)
    assert alone.found > 1

    def progress(what: str, at: int, of: int) -> None:
        done.append(at)

    shared = refs.refs(_kernel(), prog["slab_caches"].address_, jobs=3, progress=progress)
    assert shared == alone
    assert done == sorted(done)
    assert len(set(done)) > 3


def test_references_beyond_what_is_kept_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refs, "_MOST_HITS", 2)
    page = _kernel()["vmemmap_base"].value_()
    answer = refs.refs(_kernel(), page, 1 << 40)
    assert answer.found > len(answer.references) >= 2
    assert refs.refs(_kernel(), page, 1 << 40, jobs=2) == answer


@pytest.mark.parametrize("freed", [False, True])
def test_stacks_are_the_same(freed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(HERE / "debian-7-debug" / "capture.xz")
    alone = stacks.stacks(open_capture(path), freed=freed)
    monkeypatch.setattr(stacks, "_BATCH", 1000)
    shared = stacks.stacks(open_capture(path), freed=freed, jobs=3)
    assert shared == alone
    assert max(stack.count for stack in alone) > 1000


def test_fewer_than_one_process_is_refused() -> None:
    with pytest.raises(ArgumentError, match="jobs is 0"):
        check(open_capture(str(HERE / CAPTURES[0])), jobs=0)
    with pytest.raises(ArgumentError, match="jobs is 0"):
        refs.refs(_kernel(), 0xFFFF888000000000, jobs=0)
    with pytest.raises(ArgumentError, match="jobs is 0"):
        stacks.stacks(_kernel(), jobs=0)
