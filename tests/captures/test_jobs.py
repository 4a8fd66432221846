# SPDX-License-Identifier: LGPL-2.1-or-later
"""However many processes judge a kernel, the report is the same."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any, Dict, List

import pytest

from drgn_slabtype import course
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


def test_fewer_than_one_process_is_refused() -> None:
    with pytest.raises(ArgumentError, match="jobs is 0"):
        check(open_capture(str(HERE / CAPTURES[0])), jobs=0)
