# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Confirming what a moving target showed
--------------------------------------

A running kernel changes while it is read, so that two structures seem to
disagree that never did. A finding counts only if it stays, word for word, over
several readings in which its slab did not change either. What does not stay was
work in progress; what changes from one reading to the next is reported as such.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Dict, List, Optional, Sequence, Tuple

from .findings import Finding
from .machine import Machine
from .reading import Snapshot

# Pauses before each further reading, in seconds.
_PAUSES = (0.0, 0.01, 0.05, 0.2)

Groups = List[List[Finding]]
"""The findings of one cache each; those of no cache stand together."""


def confirm(machine: Machine, first: Snapshot, groups: Groups) -> Tuple[Groups, List[Finding]]:
    """
    Read a moving target again until each finding has settled, or time is up.

    :param first: The reading that gave *groups*.
    :return: The findings that stayed, with their attempts, and those of the
        last reading whose evidence was never twice the same.
    """
    before = first
    unsettled: List[Finding] = []
    for attempt, pause in enumerate(_PAUSES, 2):
        time.sleep(pause)
        after = Snapshot(machine)
        stayed: Groups = []
        unsettled = []
        for group in groups:
            again = _judge_again(after, group[0].cache)
            same, other = _compare(group, again, before, after, attempt)
            unsettled += other
            if same:
                stayed.append(same)
        groups, before = stayed, after
        if not groups:
            break
    return groups, unsettled


def _judge_again(snapshot: Snapshot, cache: Optional[str]) -> List[Finding]:
    if cache is None:
        return snapshot.judge_machine()
    names = snapshot.allocator.caches.names
    return snapshot.judge(names.index(cache))[1] if cache in names else []


def _compare(
    was: Sequence[Finding],
    now: Sequence[Finding],
    before: Snapshot,
    after: Snapshot,
    attempt: int,
) -> Tuple[List[Finding], List[Finding]]:
    # (what stayed exactly as it was, what is still there but different)
    earlier = {finding.key(): finding for finding in was}
    stayed: Dict[int, Finding] = {}
    other: List[Finding] = []
    # Roots come first: what follows from one that went away goes with it.
    for finding in sorted(now, key=lambda finding: finding.because is not None):
        known = earlier.get(finding.key())
        if known is None or finding.moving:
            continue
        if finding.because is not None and finding.because not in stayed:
            continue
        finding = replace(finding, attempts=attempt)
        if (known.expected, known.found) == (finding.expected, finding.found) and _unchanged(
            finding.slab, before, after
        ):
            stayed[finding.id] = finding
        elif finding.because is None:
            other.append(replace(finding, moving=True))
    return list(stayed.values()), other


def _unchanged(page: Optional[int], before: Snapshot, after: Snapshot) -> bool:
    if page is None:
        return True
    return before.index.struct_page(page) == after.index.struct_page(page)
