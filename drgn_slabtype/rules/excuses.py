# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Excuses
-------

Work in progress explains a difference only if it is somebody's work. The rules
say what could be work in progress; here each such excuse meets the witnesses:
somebody in the functions that make the state, nobody, or nobody that could be
seen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Callable, Dict, Iterable, List, Mapping, Optional, Tuple

from ..codes import CATALOGUE
from ..findings import Finding
from ..machine.activities import (
    LOCKS,
    OBJECTS,
    PAGES,
    SLAB_SLABS,
    SLUB_ANY,
    SLUB_SHEAVES,
    SLUB_SLABS,
    Presence,
)

_MOST_SHOWN = 8

# Which work makes a state, by allocator and code, then by the rule of the code.
_WORK: Mapping[Tuple[str, str], str] = {
    ("SLUB", "claim"): SLUB_ANY,
    ("SLUB", "container"): SLUB_SHEAVES,
    ("SLUB", "freelist-pointer"): SLUB_SLABS,
    ("SLUB", "freelist-cycle"): SLUB_SLABS,
    ("SLUB", "content"): OBJECTS,
    ("SLUB", "page"): PAGES,
    ("SLUB", ""): SLUB_SLABS,
    ("SLAB", "content"): OBJECTS,
    ("SLAB", "page"): PAGES,
    ("SLAB", ""): SLAB_SLABS,
}


Ask = Callable[[str], Presence]
"""Returns who is doing a kind of work, by its name."""


def work_of(finding: Finding, allocator: str) -> str:
    """Return the name of the work that would explain a finding."""
    if finding.activity is not None:
        return finding.activity
    if finding.code == "list-broken" and "barn" in (finding.place or ""):
        return SLUB_SHEAVES
    for key in (finding.code, finding.rule, ""):
        found = _WORK.get((allocator, key))
        if found is not None:
            return found
    return LOCKS


def settle(findings: Iterable[Finding], allocator: str, ask: Ask) -> List[Finding]:
    """
    Return the findings, each excuse of them with its witness or turned down.

    :param findings: Roots before what follows from them.
    :param allocator: ``SLAB`` or ``SLUB``.
    """
    settled: List[Finding] = []
    moving: Dict[int, bool] = {}
    for finding in findings:
        if finding.moving and finding.because is not None:
            finding = replace(finding, moving=moving.get(finding.because, True))
        elif finding.moving and CATALOGUE[finding.code].rule not in ("note", "unavailable"):
            kept = _judge(finding, ask(work_of(finding, allocator)))
            if kept is None:
                continue
            finding = kept
        moving[finding.id] = finding.moving
        settled.append(_renamed(finding))
    return settled


def _judge(finding: Finding, told: Presence) -> Optional[Finding]:
    excused = bool(told.seen) or told.gap is not None
    # That a lock is held says nothing as long as somebody may hold it.
    if finding.code == "lock-kept" and excused:
        return None
    if told.seen:
        lines = [f"at work: {one}" for one in told.seen[:_MOST_SHOWN]]
        if len(told.seen) > _MOST_SHOWN:
            lines.append(f"at work: {len(told.seen) - _MOST_SHOWN} more")
        return replace(finding, details=(*finding.details, *lines))
    if told.gap is not None:
        line = f"whether somebody is {told.title} cannot be told: {told.gap}"
        return replace(finding, details=(*finding.details, line))
    message = f"{finding.message}; no CPU and no task is {told.title}"
    return replace(finding, moving=False, message=message)


def _renamed(finding: Finding) -> Finding:
    # On its way is only what somebody moves.
    if finding.code == "slab-in-transit" and not finding.moving:
        return finding.told_as("list-missing")
    return finding
