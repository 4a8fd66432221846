# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The matrix: kernels × guests, each booted, dumped, checked and compared; then
recipes of damage applied to a dump of each kernel, and some of each trial.

With a budget, what tells most comes first and what does not fit is left out and
named.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence, Tuple, Union

from . import cache, crash, dumps, library, recipes
from .architectures import HERE
from .breakage import Breakage
from .comparison import LIVE, Result, compare, compare_live
from .debian import Archive
from .dumps import Dump
from .errors import LabError
from .guests import GUESTS, Guest, fitted, suits
from .journal import Journal
from .kdump import FORMATS
from .kernels import KERNELS, Built, Kernel
from .library import KernelFiles
from .packages import install
from .process import say
from .recipes import Recipes
from .trials import TRIALS, Outcome, perform

__all__ = ("Job", "Matrix", "ci_jobs", "full_jobs", "guest_of", "run", "run_trials")

PAUSES = 5
"""How often a busy guest is stopped."""

# Formats besides ELF, with --full.
_FORMATS = {
    "plain": ("elf", *FORMATS),
    "busy": ("elf", "kdump-31", *LIVE),
    "crash": ("elf", *crash.FORMATS),
}

# What a step takes on two cores, in seconds, rounded up.
_FETCH_SECONDS = 60
_BUILD_SECONDS = 420
_BOOT_SECONDS = 40
_CHECK_SECONDS = 15


class Job(NamedTuple):
    """One boot: a kernel, a guest and how often it is stopped for a dump."""

    kernel: Kernel
    guest: Guest
    pauses: int
    formats: Tuple[str, ...]

    @property
    def name(self) -> str:
        """A name for tables."""
        return f"{self.kernel.name}/{self.guest.name}"


@dataclass
class Matrix:
    """What came of a run."""

    results: List[Result] = field(default_factory=list)
    """One for each dump."""
    recipes: List[Recipes] = field(default_factory=list)
    """One for each dump that recipes were applied to."""
    broken: List[Breakage] = field(default_factory=list)
    """One for each case of a kernel that was broken on purpose."""
    trials: List[Outcome] = field(default_factory=list)
    """One for each trial of each kernel."""
    failed: Dict[str, str] = field(default_factory=dict)
    """Boots that gave no dump, and why."""
    left_out: List[str] = field(default_factory=list)
    """Boots, and recipes on dumps, there was no time for."""
    seconds: float = 0.0
    """How long it took."""

    @property
    def good(self) -> bool:
        """Whether everything that ran was right, and something ran."""
        verdicts = self.verdicts
        return bool(verdicts) and not self.failed and all(verdicts)

    @property
    def verdicts(self) -> List[bool]:
        """Whether each thing that ran was right."""
        every: Sequence[Union[Result, Recipes, Breakage, Outcome]]
        every = [*self.results, *self.recipes, *self.broken, *self.trials]
        return [one.good for one in every]

    def record(self) -> Dict[str, object]:
        """Return it for JSON."""
        return {
            "schema": 1,
            "good": self.good,
            "seconds": round(self.seconds, 1),
            "results": [result.record() for result in self.results],
            "recipes": [one.record() for one in self.recipes],
            "broken": [one.record() for one in self.broken],
            "trials": [one.record() for one in self.trials],
            "failed": self.failed,
            "left_out": self.left_out,
        }

    @classmethod
    def of_records(cls, records: Sequence[Mapping[str, Any]]) -> Matrix:
        """
        Return several runs as one.

        :param records: What :meth:`record` gave; of what is in several, the last counts.
        """
        whole = cls()
        results: Dict[Tuple[str, str], Result] = {}
        applied: Dict[str, Recipes] = {}
        broken: Dict[Tuple[str, str, str], Breakage] = {}
        tried: Dict[Tuple[str, str], Outcome] = {}
        for record in records:
            for one in record["results"]:
                results[one["dump"], one["format"]] = Result(**_without_verdict(one))
            for one in record["recipes"]:
                applied[one["dump"]] = Recipes(**_without_verdict(one))
            for one in record.get("broken", ()):
                broken[one["kernel"], one["letters"], one["case"]] = Breakage(
                    **_without_verdict(one)
                )
            for one in record.get("trials", ()):
                tried[one["trial"], one["kernel"]] = Outcome(**_without_verdict(one))
            whole.failed.update(record["failed"])
            whole.left_out += record["left_out"]
            whole.seconds += record["seconds"]
        whole.results, whole.recipes = list(results.values()), list(applied.values())
        whole.broken = list(broken.values())
        whole.trials = list(tried.values())
        done = {guest_of(name) for name, _ in results}
        done |= {f"recipes on {name}" for name in applied}
        done |= {name for name, _ in tried}
        whole.failed = {name: why for name, why in whole.failed.items() if name not in done}
        whole.left_out = [name for name in dict.fromkeys(whole.left_out) if name not in done]
        return whole


def _without_verdict(record: Mapping[str, Any]) -> Dict[str, Any]:
    return {name: value for name, value in record.items() if name != "good"}


def ci_jobs() -> List[Job]:
    """Return each kernel's plain guest and the one that tells most besides."""
    return [
        _job(kernel, GUESTS[name])
        for kernel in KERNELS.values()
        if kernel.ci
        for name in ("plain", *([kernel.special] if kernel.special else []))
    ]


def full_jobs(names: Sequence[str] = (), only: Sequence[str] = ()) -> List[Job]:
    """
    Return every kernel with every guest that suits it, guest by guest.

    Guests that are there for measurements have to be asked for.

    :param names: Only these kernels.
    :param only: Only these guests.
    :raises LabError: if there is none of that name.
    """
    return [
        _job(kernel, guest, _FORMATS.get(guest.name, ("elf",)))
        for guest in GUESTS.pick(only)
        for kernel in KERNELS.pick(names)
        if suits(guest, kernel) and not kernel.broken and (only or not guest.measured)
    ]


def _job(kernel: Kernel, guest: Guest, formats: Tuple[str, ...] = ("elf",)) -> Job:
    return Job(kernel, fitted(guest, kernel), PAUSES if guest.busy else 1, formats)


def _needed_seconds(job: Job) -> float:
    files = library.present(job.kernel)
    if files is None:
        kernel = _BUILD_SECONDS if isinstance(job.kernel.origin, Built) else _FETCH_SECONDS
        return kernel + _BOOT_SECONDS + job.pauses * _CHECK_SECONDS
    if dumps.present(files, job.guest, job.pauses) is None:
        return _BOOT_SECONDS + job.pauses * _CHECK_SECONDS
    return job.pauses * _CHECK_SECONDS


def run(
    jobs: Sequence[Job],
    archive: Archive,
    *,
    budget_seconds: float = float("inf"),
    recipes_on: Sequence[str] = recipes.GUESTS,
    recipes_seconds: float = float("inf"),
    tidy: bool = False,
) -> Matrix:
    """
    Boot, dump, check and compare; when all boots are done, apply recipes.

    :param budget_seconds: Begin nothing that is likely to end later.
    :param recipes_on: Guests to apply recipes to, the most telling first.
    :param recipes_seconds: What of the budget recipes may take.
    :param tidy: Delete the dumps that are right, but for those of *recipes_on*.
    """
    begin = time.monotonic()
    matrix = Matrix()
    broken: Dict[str, str] = {}
    targets: List[Tuple[Job, Dump]] = []
    # What tells least of the boots tells less than recipes on the first dumps.
    kept = recipes_seconds if recipes_seconds < budget_seconds else 0.0
    for job in jobs:
        remaining = budget_seconds - kept - (time.monotonic() - begin)
        if _needed_seconds(job) > remaining:
            matrix.left_out.append(job.name)
            continue
        if job.kernel.name in broken:
            _note_without(matrix, job, broken[job.kernel.name])
            continue
        try:
            install(job.kernel.machine.packages, log=cache.log_file("packages"))
            files = library.get(job.kernel, archive)
        except LabError as error:
            say(f"{job.kernel.name}: {error}")
            broken[job.kernel.name] = str(error)
            _note_without(matrix, job, str(error))
            continue
        try:
            taken = dumps.present(files, job.guest, job.pauses)
            if taken is None:
                taken = dumps.take(files, job.guest, count=job.pauses)
        except LabError as error:
            say(f"{job.name}: {error}")
            matrix.failed[job.name] = str(error)
            continue
        results = []
        for result in _results(job, files, taken):
            results.append(result)
            say(f"{result.dump} ({result.format}): {_verdict(result)}")
        matrix.results += results
        if job.guest.name in recipes_on:
            targets.append((job, taken[0]))
        elif tidy and all(result.good for result in results):
            for dump in taken:
                shutil.rmtree(dump.folder)
    left = min(recipes_seconds, budget_seconds - (time.monotonic() - begin))
    _apply_recipes(
        [(job, dump) for name in recipes_on for job, dump in targets if job.guest.name == name],
        matrix,
        left,
    )
    matrix.seconds = time.monotonic() - begin
    return matrix


def _note_without(matrix: Matrix, job: Job, why: str) -> None:
    # A kernel that is not there. Mirrors need not have other architectures.
    if job.kernel.architecture == HERE:
        matrix.failed[job.name] = why
    else:
        matrix.left_out.append(job.name)


def run_trials(matrix: Matrix, names: Sequence[str], *, budget_seconds: float) -> None:
    """
    Do some of every trial, for what is left of the time.

    :param matrix: Gets what comes of them.
    :param names: Only these kernels.
    """
    end = time.monotonic() + budget_seconds
    for trial in TRIALS.values():
        kernels = [name for name in trial.kernels if not names or name in names]
        left = end - time.monotonic()
        if kernels and left <= 0:
            matrix.left_out.append(trial.name)
        elif kernels:
            with tempfile.TemporaryDirectory(prefix="slabtype-trial-") as folder:
                journal = Journal(Path(folder) / "journal")
                try:
                    outcomes = perform(trial, journal, kernels, trial.some, budget_seconds=left)
                except LabError as error:
                    matrix.failed[trial.name] = str(error)
                    continue
                matrix.trials += outcomes


def _apply_recipes(targets: Sequence[Tuple[Job, Dump]], matrix: Matrix, seconds: float) -> None:
    end = time.monotonic() + seconds
    for job, dump in targets:
        if time.monotonic() + recipes.needed_seconds(job.kernel.allocator) > end:
            matrix.left_out.append(f"recipes on {job.name}")
            continue
        result = recipes.apply(dump)
        matrix.recipes.append(result)
        say(f"{result.dump}: recipes: {result.verdict}")


def _results(job: Job, files: KernelFiles, taken: List[Dump]) -> Iterator[Result]:
    for format in job.formats:
        if not _to_be_had(format, files):
            continue
        if format in LIVE:
            yield compare_live(files, job.guest, format)
            continue
        # One dump of a boot tells all there is about a format other than ELF.
        for dump in taken if format == "elf" else taken[:1]:
            yield compare(dump, format)


def _to_be_had(format: str, files: KernelFiles) -> bool:
    machine = files.kernel.machine
    if format in FORMATS:
        # makedumpfile knows kernels of the machine that it was built for.
        return machine.name == HERE
    if format == "inside":
        # Debian's kernels have no file system over which to see the host, whose programs
        # run on its own machine.
        return machine.name == HERE and not files.kernel.stock
    if "qmp" in format:
        # drgn 0.3 takes a guest for a Linux kernel only if QEMU has its VMCOREINFO.
        return machine.tells and bool(files.modules or files.config)
    # QEMU 7.2 names no other machine in it.
    return format != "kdump-qemu" or machine.name == HERE


def _verdict(result: Result) -> str:
    if result.error:
        return f"no answer: {result.error}"
    parts = [f"{len(result.findings)} findings", f"{len(result.mismatches)} mismatches"]
    if result.compared:
        parts[1] += f" in {result.compared:,}"
    return ", ".join(parts)


def guest_of(dump: str) -> str:
    """Return ``KERNEL/GUEST`` of a dump's name; those of a busy guest end with a number."""
    return "/".join(dump.split("/")[:2])
