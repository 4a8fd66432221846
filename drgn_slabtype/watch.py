# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Watching
--------

Checks one after the other of a machine that runs, each told by what is new in
it, what is still there and what is gone.
"""

from __future__ import annotations

import copy
import datetime
import errno
import itertools
import time
from dataclasses import dataclass, field
from typing import (
    Annotated,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from drgn import FaultError, IntegerLike, Program

from .arguments import CacheLike, at_least, program_of, seconds_of
from .capture import write_capture
from .check import check
from .confirm import Evidence
from .errors import SlabTypeError
from .findings import Finding, Outcome, Report
from .machine import machine
from .machine.gone import gone
from .pages.scan import Progress
from .records import Record
from .shapes import Key, Value
from .signals import TIME, reason_of

PAUSE = 1.0
"""Seconds between two rounds, unless something else is said."""

_Key = Tuple[Value, ...]
_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOENT, errno.EISDIR)


@dataclass
class Round(Record):
    """One check of several."""

    number: Annotated[int, Key("round")]
    """From 1 on."""
    time: str
    """When it began, in UTC: ``2024-01-31T12:00:00Z``."""
    report: Report
    """What it found, by itself."""
    new: List[Finding] = field(default_factory=list)
    """The findings of the report that the round before did not have."""
    still: List[Finding] = field(default_factory=list)
    """Those that it had."""
    gone: List[Finding] = field(default_factory=list)
    """Those that it had and this one has not, as they were last. What was not judged this
    time, because of an interruption or of missing memory, is not gone."""
    capture: Optional[str] = None
    """File that the memory of this moment was written to."""

    def ended(self, reason: str, why: Optional[str] = None) -> Round:
        """
        Return the round once more, as the last of a run that was stopped after it.

        :param why: What to say of a target that went away.
        """
        report = copy.copy(self.report)
        report.stop(reason)
        if why is not None:
            report.unavailable = [Finding("target-gone", why), *report.unavailable]
        return Round(self.number, self.time, report, [], [*self.new, *self.still], [], None)


def watch(
    prog: Program,
    *,
    caches: Union[CacheLike, Sequence[CacheLike]] = (),
    addresses: Union[IntegerLike, Sequence[IntegerLike]] = (),
    pause: float = PAUSE,
    rounds: Optional[int] = None,
    until_finding: bool = False,
    max_time: Optional[float] = None,
    capture: Optional[str] = None,
    progress: Optional[Progress] = None,
) -> Iterator[Round]:
    """
    Check a kernel again and again.

    It ends by itself after a number of rounds, with the first finding, when the
    time is up, on Ctrl-C, or when the target goes away; the last two and the
    time show in the last report, which is then

    >>> for round in watch(prog, pause=0, rounds=2, until_finding=True):
    ...     print(round.number, round.report.outcome.value, len(round.new))
    1 consistent 0
    2 consistent 0

    :attr:`Report.interrupted`. The report of a target
    that does not change is the same in every round.

    :param caches: As for :func:`~drgn_slabtype.check`.
    :param addresses: As for :func:`~drgn_slabtype.check`.
    :param pause: Seconds from the end of one round to the start of the next.
    :param rounds: How many rounds; without end if ``None``.
    :param until_finding: Whether to end after the first round with a finding.
    :param max_time: Seconds after which it ends, in the middle of a round if
        need be; looked at before every read of memory.
    :param capture: File to write a capture to at the first finding.
    :param progress: Called as work goes on, in every round.
    :return: Iterator of rounds: ``number``, ``time``, ``report``, and its findings as
        ``new``, ``still`` and ``gone``.
    :raises ArgumentError: if a number is too small; else as :func:`~drgn_slabtype.check`,
        with the first round.
    """
    program_of(prog)
    at_least("rounds", rounds, 1)
    seconds_of("pause", pause)
    seconds_of("max_time", max_time)
    asked = {"caches": caches, "addresses": addresses, "progress": progress}
    return _rounds(prog, asked, pause, rounds, until_finding, max_time, capture)


def _rounds(
    prog: Program,
    asked: Mapping[str, Any],
    pause: float,
    rounds: Optional[int],
    until_finding: bool,
    max_time: Optional[float],
    capture: Optional[str],
) -> Iterator[Round]:
    deadline = None if max_time is None else time.monotonic() + max_time
    kernel, known, evidence = machine(prog), _Known(), Evidence()
    found: Optional[Round] = None
    for number in itertools.count(1):
        report: Optional[Report] = None
        began = _utc(time.time())
        try:
            if kernel.is_live:
                kernel.look_again()
            with kernel.memory.until(deadline):
                report = check(prog, **asked, evidence=evidence)
                found = known.round(number, began, report)
                if capture is not None and found.new and not report.interrupted:
                    found.capture = save(prog, capture, report)
                    capture = None
        except KeyboardInterrupt as stop:
            if report is None:
                raise
            report.stop(reason_of(stop))
            found = known.round(number, began, report)
        except (FaultError, SlabTypeError) as error:
            # It could be judged before.
            if found is None:
                raise
            yield found.ended("target", f"nothing can be judged any more: {error}")
            return
        yield found
        if report.interrupted or number == rounds or (until_finding and report.findings):
            return
        reason = _rest(pause, deadline)
        if reason is not None:
            yield found.ended(reason)
            return


def _utc(seconds: float) -> str:
    moment = datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _rest(pause: float, deadline: Optional[float]) -> Optional[str]:
    # Returns what ended it early.
    left = pause if deadline is None else min(pause, deadline - time.monotonic())
    try:
        time.sleep(max(left, 0))
    except KeyboardInterrupt as stop:
        return reason_of(stop)
    return TIME if deadline is not None and time.monotonic() >= deadline else None


class _Known:
    # The findings of the rounds before.

    def __init__(self) -> None:
        self._before: Dict[_Key, Finding] = {}

    def round(self, number: int, when: str, report: Report) -> Round:
        now = {finding.key(): finding for finding in report.findings}
        found = Round(number, when, report)
        for key, finding in now.items():
            (found.still if key in self._before else found.new).append(finding)
        is_judged = _judges(report)
        for key, finding in self._before.items():
            if key in now:
                continue
            if is_judged(finding):
                found.gone.append(finding)
            else:
                now[key] = finding
        self._before = now
        return found


def _judges(report: Report) -> Callable[[Finding], bool]:
    # Whether a report would tell a finding if it was there.
    if report.interrupted:
        return lambda finding: False
    lost = {cache.name for cache in report.caches if cache.outcome is Outcome.UNAVAILABLE}
    moving = {finding.key() for finding in report.changing}
    return lambda finding: finding.cache not in lost and finding.key() not in moving


def _is_of_disk(error: Exception) -> bool:
    # What writing a file fails of, and reading memory never.
    return isinstance(error, OSError) and error.errno in _OF_DISKS


def save(prog: Program, path: str, report: Report) -> Optional[str]:
    """
    Write a capture of what a report is about; what prevents that is a note in it.

    :return: The path, if it was written.
    """
    # The finding counts, whatever becomes of the file.
    try:
        write_capture(prog, path)
        return path
    except KeyboardInterrupt as stop:
        report.stop(reason_of(stop))
        why = "interrupted"
    except (OSError, FaultError, LookupError, SlabTypeError) as told:
        error = told.__cause__ if isinstance(told.__cause__, OSError) else told
        lost = None if _is_of_disk(error) else gone(machine(prog), error)
        why = lost or getattr(error, "strerror", None) or str(error)
    message = f"{path}: the capture was not written: {why}"
    report.notes.append(Finding("not-saved", message, place=path))
    return None
