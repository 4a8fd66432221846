# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Applying recipes
----------------

Debug info is read once; each recipe then has a process of its own, forked from
there, in which the dump is damaged and checked. Nothing of one recipe is left
for the next.
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple, TypeVar

from drgn import Program

from drgn_slabtype.check import check
from drgn_slabtype.findings import Report

from .language import Injury, NoVictim, Suite, compare
from .overlay import overlay

T = TypeVar("T")


@dataclass
class Result:
    """What became of one recipe on one kernel."""

    name: str
    outcome: str
    """``found``, ``missed``, ``no victim`` or ``pending``."""
    reasons: List[str] = field(default_factory=list)
    """Why it was missed, is pending or has no victim."""
    strays: List[str] = field(default_factory=list)
    """False alarms: what was reported and does not belong to the damage."""
    code: str = ""
    """Of the root finding that must come."""
    seconds: float = 0.0

    def record(self) -> Dict[str, Any]:
        """Return the result as JSON has it."""
        return asdict(self)


def run(prog: Program, suite: Suite[Any], names: Sequence[str] = ()) -> Iterator[Result]:
    """
    Apply recipes to a kernel, one by one.

    :param prog: With debug info; the library must not have read anything of it.
    :param names: Of the recipes to apply; all if empty.
    """
    machine = suite.open(prog)
    clean, trouble = _apart(lambda: check(prog))
    if clean is None:
        raise RuntimeError(f"the kernel cannot be checked undamaged: {trouble}")
    for name in names or suite.recipes:
        started = time.monotonic()
        result = _apply(prog, suite, name, machine, clean)
        result.seconds = round(time.monotonic() - started, 2)
        yield result


def _apply(prog: Program, suite: Suite[Any], name: str, machine: Any, clean: Report) -> Result:
    try:
        injury = suite.recipes[name](machine)
    except (NoVictim, LookupError) as reason:  # the structure, or the one to damage, is not there
        return Result(name, "no victim", [str(reason)])
    if injury is None:
        return Result(name, "no victim")
    report, trouble = _apart(lambda: _check(prog, injury))
    if report is None:
        return Result(name, "missed", [trouble], code=injury.code)
    verdict = compare(injury, report, clean)
    outcome = "found" if verdict.found else "missed"
    reasons = verdict.reasons
    if name in suite.pending and (not verdict.found or verdict.strays):
        outcome, reasons = "pending", [suite.pending[name], *reasons]
    return Result(name, outcome, reasons, verdict.strays, injury.code)


def _check(prog: Program, injury: Injury) -> Report:
    overlay(prog, injury.writes)
    return check(prog)


def _apart(work: Callable[[], T]) -> Tuple[Optional[T], str]:
    # What a function returns when a forked process runs it, or what went wrong.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, theirs))
    process.start()
    theirs.close()
    try:
        good, answer = ours.recv()
    except EOFError:
        good, answer = False, "the check died"
    process.join()
    return (answer, "") if good else (None, str(answer))


def _child(work: Callable[[], T], theirs: Connection) -> None:
    try:
        theirs.send((True, work()))
    except Exception:
        theirs.send((False, traceback.format_exc()))
    theirs.close()
    os._exit(0)  # nothing of the parent is ours to clean up
