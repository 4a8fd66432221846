# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a check of a damaged kernel made of the damage."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, List, NamedTuple, Sequence

from .language import Injury
from .library import Finding, Report

_WORD = 8  # bytes


class Verdict(NamedTuple):
    """What a check of a damaged kernel made of the damage."""

    found: bool
    """Whether the one root finding is the one it must be."""
    strays: List[str]
    """Findings that do not belong to the damage, in words."""
    reasons: List[str]
    """Why it was not found, in words."""


def compare(injury: Injury, report: Report, clean: Report) -> Verdict:
    """
    Compare a report with what the injury must give.

    :param report: Of the kernel with the injury.
    :param clean: Of the same kernel without it.
    """
    if injury.changing and not _new(report.changing, clean):
        # Where all stacks can be read, nobody is at the work that would excuse it.
        code = "list-missing" if injury.code == "slab-in-transit" else injury.code
        injury = replace(injury, changing=False, code=code)
    new = _new(report.changing if injury.changing else report.findings, clean)
    roots = [finding for finding in new if finding.because is None]
    if not roots:
        others = (report.findings, report.changing, report.unavailable)
        told = [_tell(finding) for shelf in others for finding in shelf]
        return Verdict(False, [], ["nothing found", *told[:4]])
    # The root that comes nearest to what is asked for; the others are strays.
    differences = {root.id: _differences(injury, root) for root in roots}
    root = min(roots, key=lambda root: len(differences[root.id]))
    strays = [f"another root: {_tell(other)}" for other in roots if other is not root]
    for finding in new:
        if finding.because is None:
            continue
        if finding.because != root.id:
            strays.append(f"follows from something else: {_tell(finding)}")
        # The bytes of an object that is wrongly called free, or wrongly not, say so too.
        elif finding.code not in injury.also and finding.rule != "content":
            strays.append(f"does not follow: {_tell(finding)}")
    strays += _left_over(injury, report, clean)
    return Verdict(not differences[root.id], strays, differences[root.id])


def _new(shelf: Sequence[Finding], clean: Report) -> List[Finding]:
    known = {finding.message for finding in clean.changing}
    return [finding for finding in shelf if finding.message not in known]


def alarms(report: Report, clean: Report) -> List[str]:
    """Return what a report says too much, in words, where there is no damage."""
    known = {finding.message for finding in clean.unavailable}
    return [_tell(finding) for finding in report.findings] + [
        f"unavailable: {_tell(finding)}"
        for finding in report.unavailable
        if finding.message not in known
    ]


def _tell(finding: Finding) -> str:
    return f"{finding.code}: {finding.message}"


def _left_over(injury: Injury, report: Report, clean: Report) -> List[str]:
    # What belongs to no finding must be as it was.
    out = []
    ours = "changing" if injury.changing else "findings"
    for name in {"findings", "changing", "unavailable"} - {ours}:
        before = {finding.message for finding in getattr(clean, name)}
        for finding in getattr(report, name):
            known = finding.message in before or finding.code in injury.also
            if not known and (name != "changing" or finding.rule != "content"):
                out.append(f"{name}: {_tell(finding)}")
    touched = {injury.cache, *injury.others}
    numbers = {(result.name, result.address): result for result in clean.caches}
    for result in report.caches:
        if "*" in touched or result.name in touched:
            continue
        if numbers.get((result.name, result.address)) != result:
            out.append(f"{result.name} has other numbers")
    return out


# What two words contradict each other about; the other one may be the damaged one.
_OF_TWO = frozenset(
    "cache-wrong count-mismatch node-free-objects node-slabs node-objects node-list-length "
    "freelist-array freelist-cycle container-state container-count slab-mark-stray "
    "page-free-count".split()
)


def _elsewhere(injury: Injury, root: Finding) -> Iterator[str]:
    # The word that the root names is one that was overwritten.
    if injury.astray or root.code in _OF_TWO or root.code != injury.code:
        return
    if root.word is None:
        return
    word = range(root.word // _WORD * _WORD, root.word // _WORD * _WORD + _WORD)
    for write in injury.writes:
        if write.address < word.stop and word.start < write.address + len(write.data):
            return
    yield f"the word at 0x{root.word:x} was not damaged: {_tell(root)}"


def _differences(injury: Injury, root: Finding) -> List[str]:
    wrong = []
    names = "code cache slab node cpu object page place expected found".split()
    for name in names:
        want, got = getattr(injury, name), getattr(root, name)
        must = want is not None or name in ("code", "cache", "slab")
        # A page of no slab is named as a slab that is none.
        if name == "slab" and injury.code == "slab-mark-stray":
            must = want is not None
        if must and want != got:
            wrong.append(f"{name} is {_value(got)}, not {_value(want)}: {_tell(root)}")
    if root.found is not None and root.value_kind is None:
        wrong.append(f"what it found is of no kind: {_tell(root)}")
    return [*wrong, *_elsewhere(injury, root)]


def _value(value: object) -> str:
    return f"0x{value:x}" if isinstance(value, int) and value > 1 << 32 else repr(value)
