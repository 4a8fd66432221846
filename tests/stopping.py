# SPDX-License-Identifier: LGPL-2.1-or-later
"""A run of the command line that is sent a signal at a moment that is told by a number."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, NamedTuple

import pytest

from drgn_slabtype import cli


class Ran(NamedTuple):
    """What a run came to."""

    status: int
    out: str
    err: str
    calls: int
    """Calls of functions, Python's and C's, that it was made of."""


class Runs:
    """Runs of one command, of which the *n*-th call of a function gets a signal."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
        self._capsys = capsys
        self._arguments = arguments

    def stopped_at(self, call: int, number: signal.Signals = signal.SIGTERM) -> Ran:
        """Run it; 0 for a call that does not come."""
        counter = _Counter(call, lambda: os.kill(os.getpid(), number))
        self._capsys.readouterr()
        # A signal after the last word finds no handler of the command any more.
        with _harmless(number):
            sys.setprofile(counter)
            try:
                status = cli.main(self._arguments)
            finally:
                sys.setprofile(None)
        out, err = self._capsys.readouterr()
        return Ran(status, out, err, counter.calls)

    def calls(self) -> int:
        """Return how many calls there are, once everything is imported."""
        self.stopped_at(0)
        return self.stopped_at(0).calls


class _Counter:
    def __init__(self, call: int, act: Callable[[], None]) -> None:
        self.calls = 0
        self._call = call
        self._act = act

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1
            if self.calls == self._call:
                self._act()


@contextmanager
def _harmless(number: signal.Signals) -> Iterator[None]:
    late: List[int] = []
    before = signal.signal(number, lambda number, frame: late.append(number))
    try:
        yield
    finally:
        signal.signal(number, before)
