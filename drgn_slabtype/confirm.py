# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Confirming what a moving target showed
--------------------------------------

A running kernel changes while it is read, so that two structures seem to
disagree that never did. A finding counts only if it stays, word for word, over
several readings in which its slab did not change either. What does not stay was
work in progress; what changes from one reading to the next is reported as such.

A statement about one slab is read again by a reading of that slab, which takes
a moment; the whole machine is read again for what is about more than that.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from .findings import Finding
from .machine import Machine
from .reading import Reading, Scope
from .rules.blame import renumber
from .strays import judge_machine

# Pauses before each further reading, in seconds.
_PAUSES = (0.0, 0.01, 0.05, 0.2)

Groups = List[List[Finding]]
"""The findings of one cache each; those of no cache stand together."""


class _Again:
    # One more look at what some findings are about.

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._whole: Optional[Reading] = None
        self._struct_pages: Dict[int, bytes] = {}

    def judge(self, group: Sequence[Finding]) -> List[Finding]:
        # The slabs that they are about, if those show all of them again.
        pages = dict.fromkeys(finding.slab for finding in group)
        if None not in pages:
            found = renumber([self._judge_slab(page) for page in pages if page])
            known = {finding.key(): finding for finding in found}
            if all(finding.key() in known for finding in group):
                return found
        return self._judge_cache(group[0].cache)

    def _judge_slab(self, page: int) -> List[Finding]:
        reading = Reading(self._machine, Scope(slab=page))
        self._struct_pages[page] = reading.index.struct_page(page)
        owner = reading.allocator.ownership.cache
        if not len(owner) or owner[0] < 0:
            return []
        return reading.judge(int(owner[0]))[1]

    def _judge_cache(self, name: Optional[str]) -> List[Finding]:
        if self._whole is None:
            self._whole = Reading(self._machine)
        if name is None:
            return judge_machine(self._whole)
        names = self._whole.allocator.caches.names
        return self._whole.judge(names.index(name))[1] if name in names else []

    def struct_page(self, page: int) -> bytes:
        """Return the ``struct page`` of a slab as it was read last."""
        if self._whole is not None:
            return self._whole.index.struct_page(page)
        return self._struct_pages.get(page, b"")


class Evidence:
    """
    What readings of a moving target have shown so far.

    It lives for one check, or for many of the same running kernel: each check
    adds to it, so that what one could not decide the next one may.

    >>> evidence = Evidence()
    >>> first = check(prog, evidence=evidence)
    >>> second = check(prog, evidence=evidence)
    """

    def __init__(self) -> None:
        self.readings = 0
        """How often the target was read, or parts of it."""

    def confirm(self, first: Reading, groups: Groups) -> Tuple[Groups, List[Finding]]:
        """
        Read a moving target again until each finding has settled, or time is up.

        It can be interrupted at any moment; what is known by then stays here.

        :param first: The reading that gave *groups*.
        :return: The findings that stayed, with their attempts, and those whose
            evidence was never twice the same.
        """
        before: Callable[[int], bytes] = first.index.struct_page
        unsettled: List[Finding] = []
        for attempt, pause in enumerate(_PAUSES, 2):
            time.sleep(pause)
            again = _Again(first.machine)
            self.readings += 1
            stayed: Groups = []
            unsettled = []
            for group in groups:
                found = again.judge(group)
                same, other = _compare(group, found, before, again.struct_page, attempt)
                unsettled += other
                if same:
                    stayed.append(same)
            groups, before = stayed, again.struct_page
            if not groups:
                break
        return groups, unsettled


def _compare(
    was: Sequence[Finding],
    now: Sequence[Finding],
    before: Callable[[int], bytes],
    after: Callable[[int], bytes],
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
        page = finding.slab
        same = page is None or before(page) == after(page)
        if same and (known.expected, known.found) == (finding.expected, finding.found):
            stayed[finding.id] = finding
        elif finding.because is None:
            other.append(replace(finding, moving=True))
    return list(stayed.values()), other
