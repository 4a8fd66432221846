# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demonstration gives both answers, on every capture that ships with the package."""

from __future__ import annotations

import subprocess
import sys

import pytest

from drgn_slabtype.demo import captures, demo
from drgn_slabtype.errors import TargetError
from drgn_slabtype.findings import Outcome

needs_captures = pytest.mark.skipif(not captures(), reason="the package has no captures to show")


@needs_captures
def test_each_capture_is_shown_whole_and_damaged() -> None:
    acts = demo()
    assert len(acts) == 2 * len(captures())
    for whole, damaged in zip(acts[::2], acts[1::2]):
        assert whole.report.outcome is Outcome.CONSISTENT
        assert damaged.report.outcome is Outcome.INCONSISTENT
        roots = [finding for finding in damaged.report.findings if finding.because is None]
        assert len(roots) == 1
        assert roots[0].cache == "kmalloc-64"
        assert damaged.report.totals.counted == whole.report.totals.counted + 1


@needs_captures
def test_demo_exits_with_0_when_both_answers_are_right() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "drgn_slabtype", "demo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "\nconsistent: Linux " in done.stdout
    assert "\ninconsistent (1 finding): Linux " in done.stdout


def test_package_without_captures_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.__globals__, "captures", lambda: [])
    with pytest.raises(TargetError, match="no captures are installed"):
        demo()
