# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Applying recipes
----------------

Debug info is read once; each recipe then has a process of its own, forked from
there, in which the dump is damaged and checked. Nothing of one recipe is left
for the next, and as many run at a time as there are CPUs.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Iterator, List, Optional, Sequence

from drgn import Program

from .apart import apart
from .language import NoVictim, Suite
from .library import Report, check, witness
from .overlay import overlay
from .scopes import differences
from .sums import alarmed, answers_unequal, unequal
from .tagless import without_tags
from .verdict import alarms, compare

OUTCOMES = ("found", "missed", "quiet", "pending", "no victim")


@dataclass
class Result:
    """What became of one recipe, or one state, on one kernel."""

    name: str
    outcome: str
    """
    One of :data:`OUTCOMES`: ``found`` or ``missed``, ``pending`` where the rule is
    not built, ``quiet`` for a state that must give no finding.
    """
    reasons: List[str] = field(default_factory=list)
    """Why it was missed, is pending or has no victim."""
    strays: List[str] = field(default_factory=list)
    """False alarms: what was reported and does not belong to the damage."""
    code: str = ""
    """Of the root finding that must come."""
    seconds: float = 0.0

    @property
    def false(self) -> int:
        """How many false alarms it gave; what a rule to come will say counts as none."""
        return 0 if self.outcome == "pending" else len(self.strays)

    @property
    def good(self) -> bool:
        """Whether nothing was missed, and nothing said too much."""
        return self.outcome != "missed" and not self.false

    def record(self) -> Dict[str, Any]:
        """Return the result as JSON has it."""
        return asdict(self)


def run(
    prog: Program, suite: Suite[Any], names: Sequence[str] = (), jobs: Optional[int] = None
) -> Iterator[Result]:
    """
    Apply recipes and states to a kernel, and yield what became of them in their order.

    :param prog: With debug info; the library must not have read anything of it.
    :param names: Of those to apply; all if empty.
    :param jobs: How many run at a time; as many as this process has CPUs if ``None``.
    """
    machine = suite.open(prog)
    clean, trouble = next(apart([lambda: check(prog)], 1))
    if clean is None:
        raise RuntimeError(f"the kernel cannot be checked undamaged: {trouble}")
    if clean.findings:
        raise RuntimeError(f"the kernel is damaged already: {clean.findings[0].message}")
    applied = names or [*suite.recipes, *suite.states]
    tasks = [_Task(prog, suite, name, machine, clean) for name in applied]
    answers = apart(tasks, jobs or len(os.sched_getaffinity(0)))
    for name, (result, trouble) in zip(applied, answers):
        yield Result(name, "missed", [trouble]) if result is None else result


@dataclass
class _Task:
    prog: Program
    suite: Suite[Any]
    name: str
    machine: Any
    clean: Report

    def __call__(self) -> Result:
        started = time.monotonic()
        try:
            result = self._state() if self.name in self.suite.states else self._recipe()
        except (NoVictim, LookupError) as reason:  # the structure to damage is not there
            result = Result(self.name, "no victim", [str(reason)])
        result.seconds = round(time.monotonic() - started, 2)
        return result

    def _recipe(self) -> Result:
        injury = without_tags(self.prog, self.suite.recipes[self.name](self.machine))
        report = self._check(injury.writes)
        verdict = compare(injury, report, self.clean)
        outcome, reasons = "found" if verdict.found else "missed", verdict.reasons
        concerned = [at for finding in report.findings for at in (finding.object, finding.slab)]
        wrong = [*differences(self.prog, [at for at in concerned if at is not None])]
        wrong += [*unequal(report), *answers_unequal(self.prog, report)]
        if wrong:
            outcome, reasons = "missed", [*reasons, *wrong]
        if self.name in self.suite.pending and (not verdict.found or verdict.strays):
            outcome, reasons = "pending", [self.suite.pending[self.name], *reasons]
        return Result(self.name, outcome, reasons, verdict.strays, injury.code)

    def _state(self) -> Result:
        # Nobody is at the work that is put together here. This process ends with it.
        witness.find_witnesses = lambda machine: witness.Witnesses((), "work made by hand")
        report = self._check(self.suite.states[self.name](self.machine))
        strays = [*alarms(report, self.clean), *alarmed(self.prog, report)]
        return Result(self.name, "quiet", [], strays)

    def _check(self, writes: Sequence[Any]) -> Report:
        overlay(self.prog, writes)
        try:
            return check(self.prog)
        except LookupError as error:  # not that a victim is missing
            raise RuntimeError(f"the check failed: {error!r}") from error
