# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Annotations as GitHub reads them
--------------------------------

Workflow commands, a line each: an error for each root with what follows from it,
a warning for what could not be judged, a notice for what a baseline accepts and for
the verdict. GitHub shows ten of a kind for each step.
"""

from __future__ import annotations

from typing import Iterator, List

from ..findings import Finding, Report
from .values import plural, printable
from .views.check import Branch, branches, lines, verdict

_MOST = 10
_NAME = "drgn-slabtype"


def check(report: Report) -> str:
    """Present the report of a check."""
    told = [*_some("error", branches(report.findings))]
    told += _some("warning", branches(report.unavailable))
    # One of the notices is the verdict.
    told += _some("notice", branches(report.accepted), _MOST - 1, "accepted: ")
    told.append(_command("notice", _NAME, [verdict(report)]))
    return "".join(f"{line}\n" for line in told)


def failure(message: str) -> str:
    """Present why there is no report."""
    return _command("error", _NAME, [message]) + "\n"


def _some(level: str, found: List[Branch], most: int = _MOST, word: str = "") -> Iterator[str]:
    shown = found if len(found) <= most else found[: most - 1]
    for branch in shown:
        yield _command(level, word + _title(branch.finding), list(_body(branch, "")))
    if len(found) > len(shown):
        more = f"{word}{plural(len(found) - len(shown), 'more root')}, all in the other reports"
        yield _command(level, _NAME, [more])


def _title(finding: Finding) -> str:
    return f"{finding.code} in {finding.cache}" if finding.cache else finding.code


def _body(branch: Branch, prefix: str) -> Iterator[str]:
    first, *details = lines(branch.finding)
    yield prefix + first
    yield from details
    for follower in branch.followers:
        yield from _body(follower, "follows: ")


def _command(level: str, title: str, body: List[str]) -> str:
    text = "%0A".join(_escaped(printable(line)) for line in body)
    name = _escaped(printable(title)).replace(":", "%3A").replace(",", "%2C")
    return f"::{level} title={name}::{text}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
