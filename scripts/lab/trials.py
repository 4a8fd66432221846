# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Trials: what takes long, and goes on where it was ended.

Each has a journal of its own, and what is in it counts for every later run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
)

from tabulate import tabulate

from . import cache, crashes, injuries, inside, soak, stops
from .debian import Archive
from .journal import Journal
from .kernels import KERNELS
from .library import KernelFiles, get

__all__ = ("TRIALS", "Outcome", "Trial", "journal_of", "outcomes", "perform", "table", "write")

_Records = Sequence[Mapping[str, Any]]


class _Run(Protocol):
    # Does a trial: so much of it for each kernel, until time is up.
    def __call__(
        self,
        kernels: Sequence[KernelFiles],
        journal: Journal,
        count: int,
        /,
        *,
        budget_seconds: float,
    ) -> None: ...


class Trial(NamedTuple):
    """One kind of trial."""

    name: str
    """Its command."""
    about: str
    """What it does, in a few words."""
    kernels: Tuple[str, ...]
    """Kernels that it is for."""
    amount: int
    """How much of it there is for each kernel: checks, tries, or stops at random."""
    some: int
    """The same for a run of the matrix, which has more to do."""
    run: _Run
    """Does it: kernels, journal, how much, and in how many seconds."""
    numbers: Callable[[_Records], Dict[str, Any]]
    """What came of it for a kernel, in numbers."""
    trouble: Callable[[_Records], List[str]]
    """What must not have come of it, in words."""


def _stops(
    kernels: Sequence[KernelFiles], journal: Journal, count: int, *, budget_seconds: float
) -> None:
    plan = stops.Plan(count, max(1, count // 10))
    stops.run(kernels, journal, plan, budget_seconds=budget_seconds)


TRIALS: Mapping[str, Trial] = {
    trial.name: trial
    for trial in (
        Trial(
            "soak",
            "check running guests again and again",
            soak.KERNELS,
            334,
            10,
            soak.run,
            soak.numbers,
            soak.trouble,
        ),
        Trial(
            "injuries",
            "damage running guests, and check them",
            injuries.KERNELS,
            20,
            1,
            injuries.run,
            injuries.numbers,
            injuries.trouble,
        ),
        Trial(
            "stops",
            "stop guests at random and in their allocator, dump and check them",
            stops.KERNELS,
            50,
            5,
            _stops,
            stops.numbers,
            stops.trouble,
        ),
        Trial(
            "inside",
            "check guests from inside",
            inside.KERNELS,
            7,
            1,
            inside.run,
            soak.numbers,
            soak.trouble,
        ),
        Trial(
            "crashes",
            "let guests panic in their allocator, and after damage, and check what is written",
            crashes.KERNELS,
            8,
            2,
            crashes.run,
            crashes.numbers,
            crashes.trouble,
        ),
    )
}
"""All of them by name, in the order of the matrix."""


class Outcome(NamedTuple):
    """What came of a trial on one kernel."""

    trial: str
    """Name of the trial."""
    kernel: str
    """Name of the kernel."""
    numbers: Dict[str, Any]
    """What it was, in numbers."""
    trouble: List[str]
    """What it must not have been, in words."""

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.trouble

    def record(self) -> Dict[str, object]:
        """Return it for JSON."""
        return {**self._asdict(), "good": self.good}


def journal_of(trial: Trial, path: Optional[Path] = None) -> Journal:
    """Return what is known of a trial; in the lab's cache unless another file is named."""
    return Journal(path or cache.root() / "trials" / f"{trial.name}.jsonl")


def perform(
    trial: Trial,
    journal: Journal,
    kernels: Sequence[str],
    count: int,
    *,
    budget_seconds: float,
) -> List[Outcome]:
    """
    Do a trial, or what is left of it.

    :param kernels: Names of kernels; those it is for, if empty.
    :param count: How much of it there is for each kernel.
    """
    names = [kernel.name for kernel in KERNELS.pick(kernels or trial.kernels)]
    archive = Archive()
    files = [get(KERNELS[name], archive) for name in names]
    trial.run(files, journal, count, budget_seconds=budget_seconds)
    return outcomes(trial, journal)


def outcomes(trial: Trial, journal: Journal) -> List[Outcome]:
    """Return what is known of a trial, kernel by kernel."""
    told = []
    for name in dict.fromkeys(record["kernel"] for record in journal.records):
        records = [record for record in journal.records if record["kernel"] == name]
        told.append(Outcome(trial.name, name, trial.numbers(records), trial.trouble(records)))
    return told


def table(found: Sequence[Outcome]) -> str:
    """Return outcomes of one trial as a table, a row for each kernel, and what is wrong."""
    if not found:
        return "nothing was done"
    rows = [(one.kernel, *one.numbers.values()) for one in found]
    heads = ("kernel", *found[0].numbers)
    lines = [tabulate(rows, heads, "github")]
    for one in found:
        lines += [f"{one.kernel}: {text}" for text in one.trouble[:10]]
    return "\n".join(lines)


def write(found: Sequence[Outcome], path: Path) -> None:
    """Write outcomes as JSON."""
    records = [one.record() for one in found]
    path.write_text(json.dumps({"schema": 1, "trials": records}, indent=1) + "\n")
