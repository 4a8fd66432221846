# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Findings that are accepted
--------------------------

A baseline is a file of causes, as :mod:`.known` reads them: what fits one of them
is known and accepted for now. Written by a check, each entry is the ``id`` of a
signature, which is the same in every dump of the same damage, whatever the addresses.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, List, Optional, Sequence

from ..arguments import require
from ..findings import Finding, Report
from .known import Cause, quoted

_HEAD = """\
# Findings that are accepted: written by drgn-slabtype check --write-baseline.
# Say in "text" why; in place of "id" may stand members of the signature, with patterns.
"""


def accept(report: Report, baseline: Sequence[Cause], whole: bool = True) -> None:
    """
    Let a baseline accept findings of a report, which is changed.

    >>> report = check(prog)
    >>> accept(report, [])
    >>> report.outcome.value, len(report.accepted)
    ('consistent', 0)

    A root that fits an entry goes to ``report.accepted``, with all that follows from it.
    The outcome is ``accepted`` and the exit status 0 if nothing is left. Each entry that
    nothing fits any more is a note.

    :param report: Of a check.
    :param baseline: The entries, as :func:`read_causes` returns them.
    :param whole: Whether the check was of the whole machine; else what is not in the
        report may be elsewhere.
    :raises ArgumentError: if that is no report.
    """
    require("report", report, Report)
    by_id = {finding.id: finding for finding in report.findings}
    names = {id(one): _accepting(one, by_id, baseline) for one in report.findings}
    left = [one for one in report.findings if names[id(one)] is None]
    report.accepted += [
        replace(one, accepted=name)
        for one in report.findings
        if (name := names[id(one)]) is not None
    ]
    _tie_again(report, left)
    report.findings = left
    if whole and not report.interrupted and not report.unavailable:
        report.notes += _gone(baseline, report.accepted)


def _accepting(
    finding: Finding, by_id: Dict[int, Finding], baseline: Sequence[Cause]
) -> Optional[str]:
    # The name of the entry that accepts the root of a finding.
    root, steps = finding, len(by_id)
    while root.because is not None and steps:
        root, steps = by_id.get(root.because, replace(root, because=None)), steps - 1
    if root.signature is None:
        return None
    fitting = (cause.name for cause in baseline if cause.fits(root.signature))
    return next(fitting, None)


def _tie_again(report: Report, left: Sequence[Finding]) -> None:
    # What the kernel reported is tied to findings by their positions.
    if report.kernel is None:
        return
    at = {finding.id: number for number, finding in enumerate(left)}
    tied = [
        one
        if one.finding is None
        else replace(one, finding=at.get(report.findings[one.finding].id))
        for one in report.kernel.reports
    ]
    report.kernel = replace(report.kernel, reports=tuple(tied))


def _gone(baseline: Iterable[Cause], accepted: Sequence[Finding]) -> List[Finding]:
    signatures = [finding.signature for finding in accepted if finding.signature is not None]
    return [
        Finding("baseline-gone", f"accepted by the baseline, and not there any more: {cause.name}")
        for cause in baseline
        if not any(map(cause.fits, signatures))
    ]


def as_baseline(report: Report, baseline: Sequence[Cause] = ()) -> str:
    """
    Return a baseline that accepts all that a report has found, as the text of a TOML file.

    >>> print(as_baseline(check(prog)).splitlines()[0])
    # Findings that are accepted: written by drgn-slabtype check --write-baseline.

    :param report: Of a check.
    :param baseline: Entries of it that something still fits are kept as they are.
    :raises ArgumentError: if that is no report.
    """
    require("report", report, Report)
    signatures = [
        one.signature
        for one in (*report.findings, *report.accepted)
        if one.because is None and one.signature is not None
    ]
    entries = [cause.as_toml() for cause in baseline if any(map(cause.fits, signatures))]
    others = {one.id: one for one in signatures if not any(cause.fits(one) for cause in baseline)}
    for key, one in sorted(others.items(), key=lambda item: (str(item[1]), item[0])):
        name = f"{one.code} in {one.cache}" if one.cache else one.code
        entries.append(
            f'# {_comment(str(one))}\n[[cause]]\nname = {quoted(name)}\ntext = ""\n'
            f"id = {quoted(key)}\n"
        )
    return "\n".join([_HEAD, *entries])


def _comment(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
