# SPDX-License-Identifier: LGPL-2.1-or-later
"""Progress on a terminal: nothing of short work, and nothing left of long work."""

from __future__ import annotations

import io
import time
from typing import List

import pytest

from drgn_slabtype.fleet.run import State
from drgn_slabtype.report import output


class Terminal(io.StringIO):
    """A terminal of one line that is written over."""

    def isatty(self) -> bool:
        return True

    def line(self) -> str:
        """Return what is seen of the line that the cursor is in."""
        seen = ""
        for part in self.getvalue().rpartition("\n")[2].split("\r"):
            seen = part + seen[len(part) :]
        return seen


def _terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # In the test: pytest puts its own in place before.
    made = Terminal()
    monkeypatch.setattr("sys.stderr", made)
    return made


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _terminal(monkeypatch)
    with output.progress() as show:
        assert show is not None
        for label in ("pages", "caches"):
            for done in range(100):
                show(label, done, 100)
    assert terminal.getvalue() == ""


def test_nothing_is_left_of_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _terminal(monkeypatch)
    monkeypatch.setattr(output, "PATIENCE", 0.0)
    with output.progress() as show:
        assert show is not None
        for label in ("pages", "caches", "pages"):
            show(label, 1, 100)
            show(label, 100, 100)
            assert label in terminal.line()
    # The cursor stands where it stood, in an empty line.
    assert "\n" not in terminal.getvalue()
    assert terminal.line().strip() == ""
    assert terminal.getvalue().endswith("\r")


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> List[float]:
    """A clock that tells the sum of a list."""
    passed = [1000.0]
    monkeypatch.setattr("drgn_slabtype.report.output.time.monotonic", lambda: sum(passed))
    monkeypatch.setattr("tqdm.std.time", lambda: sum(passed))
    return passed


def test_each_piece_of_work_is_given_its_time(
    monkeypatch: pytest.MonkeyPatch, seconds: List[float]
) -> None:
    terminal = _terminal(monkeypatch)
    for _ in range(4):
        with output.progress() as show:
            assert show is not None
            seconds.append(60.0)  # a pause before the round
            for label in ("pages", "caches"):
                for done in range(10):
                    show(label, done, 10)
                    seconds.append(0.08)
    assert terminal.getvalue() == ""


def test_no_bar_of_an_unknown_number_and_none_that_does_not_move(
    monkeypatch: pytest.MonkeyPatch, seconds: List[float]
) -> None:
    terminal = _terminal(monkeypatch)
    with output.progress() as show:
        assert show is not None
        show("pages", 0, 10)
        seconds.append(output.PATIENCE + 1)
        show("memory", 0, 0)
        seconds.append(1.0)
        show("memory", 0, 0)
        show("short", 0, 5)
        seconds.append(0.2)
        show("short", 5, 5)
        show("compress", 0, 100)
        assert terminal.getvalue() == ""
        seconds.append(0.5)
        show("compress", 40, 100)
        assert "compress:  40%" in terminal.line()
    assert " 0it" not in terminal.getvalue()


def test_no_terminal_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with output.progress() as show:
        assert show is None


@pytest.mark.parametrize("patience", [output.PATIENCE, 0.0])
def test_of_a_fleet_nothing_is_left_either(
    monkeypatch: pytest.MonkeyPatch, patience: float
) -> None:
    terminal = _terminal(monkeypatch)
    monkeypatch.setattr(output, "PATIENCE", patience)
    with output.fleet_progress() as show:
        assert show is not None
        for done in range(3):
            time.sleep(0.11)  # a bar is drawn ten times a second
            show(State(done, 3, 1, 0, None))
    assert ("dumps" in terminal.getvalue()) == (patience == 0.0)
    assert terminal.line().strip() == ""
