# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Confirming what a moving target showed
--------------------------------------

A running kernel changes while it is read, so that two structures seem to
disagree that never did. What is confirmed is one statement about one thing with
an address: it is looked at again, and each look is two readings in a row with
the words of the thing read before, between and after them. Where all of that is
the same, it stood in memory at one moment. A statement that so comes back
:data:`ENOUGH` times is a finding, whatever else was torn in between; one that
two looks in a row do not show has been work in progress. What is neither when
the looks are used up is reported as changing, and counts as undecided.

Why that is enough: docs/moving.md.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .findings import Finding
from .looks import CLOSE, Ground, Key, Look, Unit, keyed, look
from .machine import Machine
from .pages.scan import Progress
from .shapes import Value

ENOUGH = 4
"""Looks that show a statement unchanged, with its evidence unchanged around it."""
_ABSENT = 2  # looks in a row that do not show it: four readings
_TRIES = 4  # in one round, at what is small
_WORK_SECONDS = 5
"""How long a task that was preempted between two steps of the allocator can be kept waiting."""
_PAUSES = (0.0, 0.01, 0.03, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2)
"""Seconds before each further look, and with that how many there are."""


Groups = List[Tuple[Unit, List[Finding]]]
"""What a reading showed of each cache, by ``struct kmem_cache *``; of the machine by 0."""


@dataclass
class _Statement:
    # One statement about one thing, and what became of it.
    finding: Finding
    because: Optional[Key]
    """The statement that it follows from."""
    readings: int = 1
    seen: int = 1
    confirmed: int = 0
    absent: int = 0
    """Looks in a row that did not show it."""
    round: int = 0
    """When it was last confirmed: once in each round."""
    claim: Optional[Tuple[Value, ...]] = None
    """What it said when it was last confirmed."""
    excuse: Optional[Tuple[bytes, float]] = None
    """What its words have held all the time while work in progress would explain it, and
    since when."""

    @property
    def proven(self) -> bool:
        # Advice is nothing to be proven.
        return self.confirmed >= ENOUGH or self.finding.rule == "note"

    def told(self) -> Finding:
        # The finding with what was seen of it.
        return replace(
            self.finding, attempts=self.readings, seen=self.seen, confirmed=self.confirmed
        )


class Settled(NamedTuple):
    """What came of the statements of one check."""

    groups: List[List[Finding]]
    """What is proven, each cache's by itself."""
    changing: List[Finding]
    """What came back and was never twice the same, or has not come back enough times yet."""


class Evidence:
    """
    What readings of a moving target have shown so far.

    It lives for one check, or for many of the same running kernel: each check
    adds to it, so that what one could not decide the next one may.

    >>> evidence = Evidence()
    >>> first = check(prog, evidence=evidence)
    >>> second = check(prog, evidence=evidence)

    :param pause: Waits for some seconds.
    :param clock: Tells the seconds since some moment.
    """

    def __init__(
        self,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.readings = 0
        """How often the target was read, or parts of it."""
        self.refuted = 0
        """Statements that were seen and did not come back."""
        self._pause, self._clock = pause, clock
        self._round = 0
        self._known: Dict[Unit, Dict[Key, _Statement]] = {}
        self._shown: Dict[Unit, Dict[Key, _Statement]] = {}

    def begin(self, groups: Groups) -> None:
        """
        Take in what one reading of everything showed.

        :param groups: What it showed of each cache that it was about, be it nothing.
        """
        self.readings += 1
        self._shown = {}
        for unit, findings in groups:
            known = self._known.setdefault(unit, {})
            found = keyed(findings)
            for key, statement in known.items():
                statement.readings += 1
                statement.absent = int(key not in found)
            for key, told in found.items():
                if key in known:
                    known[key].seen += 1
                    known[key].finding, known[key].because = told.finding, told.because
                else:
                    known[key] = _Statement(told.finding, told.because)
            if known:
                self._shown[unit] = known

    def settle(self, machine: Machine, progress: Optional[Progress] = None) -> None:
        """
        Look again until each statement has settled, or the looks are used up.

        It can be interrupted at any moment; what is known by then stays here.
        """
        todo = list(self._shown)
        for number, pause in enumerate(_PAUSES):
            todo = [unit for unit in todo if any(map(self._is_open, self._shown[unit].values()))]
            if not todo:
                return
            self._pause(pause)
            self._round += 1
            ground = Ground(machine, todo, self._clock)
            for done, unit in enumerate(todo):
                if progress:
                    progress(f"caches again, time {number + 1}", done, len(todo))
                self._look(machine, unit, number, ground)

    def _look(self, machine: Machine, unit: Unit, number: int, ground: Ground) -> None:
        for _ in range(_TRIES):
            left = [s.finding for s in self._shown[unit].values() if self._is_open(s)]
            if not left:
                return
            close = number % 2 == 0 or all(one.code in CLOSE for one in left)
            found = look(machine, unit, left, ground if close else None)
            self._take(unit, found)
            # What is large is read once in a round; what is small, until it stands still.
            still = all(finding.key() in found.unchanged for finding in left)
            if still or number < 2 or not found.cheap:
                return

    def _is_open(self, statement: _Statement) -> bool:
        # Proven ones of a former check are looked at until they show again.
        return not statement.proven or statement.absent > 0

    def _take(self, unit: Unit, found: Look) -> None:
        self.readings += 2
        known = self._shown[unit]
        # What one torn reading says in one way, the next says in another.
        about = {thing for statement in known.values() for thing in _things(statement.finding)}
        for key in found.shown.keys() - known.keys():
            new = found.shown[key]
            if key in found.unchanged or not about.isdisjoint(_things(new.finding)):
                known[key] = _Statement(new.finding, new.because, readings=0, seen=0)
        for key, statement in list(known.items()):
            if not found.can_show(statement.finding):
                continue
            statement.readings += 2
            told = found.shown.get(key)
            if told is None:
                # What lasts would have shown.
                statement.absent, statement.confirmed = statement.absent + 1, 0
                if statement.absent >= _ABSENT:
                    del known[key]
                    self.refuted += 1
                continue
            statement.absent = 0
            statement.seen += 2 if key in found.both else 1
            held = found.unchanged.get(key)
            if held is not None or not statement.confirmed:
                statement.finding, statement.because = told.finding, told.because
            if held is None:
                statement.excuse = None
            elif not told.finding.moving:
                self._confirm(statement, _claim(told.finding))
            elif self._stands(statement, held):
                lasts = f"{told.finding.message}; nothing has gone on with it for {_WORK_SECONDS} s"
                statement.finding = replace(told.finding, moving=False, message=lasts)
                self._confirm(statement, _claim(told.finding))

    def _stands(self, statement: _Statement, held: bytes) -> bool:
        # Whether what work in progress would explain has not moved for longer than
        # any such work takes.
        now = self._clock()
        if statement.excuse is None or statement.excuse[0] != held:
            statement.excuse = (held, now)
        return now - statement.excuse[1] >= _WORK_SECONDS

    def _confirm(self, statement: _Statement, claim: Tuple[Value, ...]) -> None:
        if claim != statement.claim:
            statement.claim, statement.confirmed, statement.round = claim, 0, 0
        if statement.round != self._round:
            statement.confirmed += 1
        statement.round = self._round

    def settled(self) -> Settled:
        """Return what is known of the statements of the last check, interrupted or not."""
        groups: List[List[Finding]] = []
        changing: List[Finding] = []
        for known in self._shown.values():
            numbers = {key: at for at, key in enumerate(known, 1) if known[key].proven}
            group = []
            for key, statement in known.items():
                because = None if statement.because is None else numbers.get(statement.because)
                finding = replace(statement.told(), id=numbers.get(key, 0), because=because)
                if key in numbers:
                    group.append(finding)
                elif statement.because not in known:
                    # What follows from another one is told with it, or not at all.
                    changing.append(replace(finding, moving=True))
            groups.append(group)
        return Settled([group for group in groups if group], changing)


def _things(finding: Finding) -> Iterator[Tuple[str, int]]:
    # What a statement is about, in a way that others about it share.
    if finding.slab is not None:
        yield "slab", finding.slab
        return
    if finding.address is not None:
        yield "address", finding.address
    if finding.node is not None:
        yield "node", finding.node


def _claim(finding: Finding) -> Tuple[Value, ...]:
    # What a statement says: of two numbers that both go up and down, by how
    # much they differ.
    expected, found = finding.expected, finding.found
    counts = finding.rule == "count" or finding.code == "container-count"
    if counts and isinstance(expected, int) and isinstance(found, int):
        return (found - expected,)
    if finding.code in ("claim-twice", "claim-live"):
        return ()
    if finding.code == "container-limit":
        return (expected,)
    return (expected, found)
