# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Injected damage: the recipes of ``tests/recipes/`` on dumps, and words of the allocators
changed by ``tests/mutate/``, a few of each structure.

They run as ``python -m tests.recipes`` and ``python -m tests.mutate``, on a dump that is
not touched.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, List, Sequence

from .dumps import Dump
from .errors import LabError
from .process import run_python

__all__ = ("GUESTS", "Recipes", "apply", "needed_seconds")

GUESTS = ("plain", "numa", "debug", "kfence")
"""Guests on which recipes find victims, the one that has most first."""

_TIMEOUT_SECONDS = 3600
# Of a kernel on two cores, rounded up, with the words that are changed.
_SECONDS = {"SLAB": 80.0, "SLUB": 170.0}
_WORDS = 60
_OF_CHANGES = 100  # one of so many may be silent without a reason


@dataclass
class Recipes:
    """What became of all recipes on one dump."""

    dump: str
    """Name of the dump: ``KERNEL/GUEST``."""
    found: int = 0
    """Damage that was found as it must be."""
    quiet: int = 0
    """Work in progress that was not taken for damage, as it must not be."""
    missed: List[str] = field(default_factory=list)
    """Damage that was not found, or not as it must be, and why."""
    false: List[str] = field(default_factory=list)
    """Findings that belong to no damage."""
    pending: List[str] = field(default_factory=list)
    """Recipes whose rule is not built."""
    no_victim: List[str] = field(default_factory=list)
    """Recipes that have nothing to damage in this dump."""
    words: int = 0
    """Words that were changed in all ways."""
    unexplained: List[str] = field(default_factory=list)
    """Changes of them that were passed in silence without a reason, or ended a check."""
    by_chance: List[str] = field(default_factory=list)
    """Those of which the word has a rule, and the value may happen to be as good."""
    changes: int = 0
    """How many changes of those words were tried."""
    error: str = ""
    """Why there is no answer."""
    seconds: float = 0.0
    """How long it took."""

    @property
    def good(self) -> bool:
        """Whether nothing was missed, and nothing said too much."""
        wrong = self.error or self.missed or self.false
        return bool(self.found) and not wrong and not self.too_silent

    @property
    def too_silent(self) -> bool:
        """
        Whether anything was passed in silence that chance does not explain.

        Every boot has other values, and one bit of a pointer may happen to make another
        that is as good. All are told; ``tests.mutate``, by hand, fails for a single one.
        """
        chance = len(self.by_chance)
        return len(self.unexplained) > chance or chance * _OF_CHANGES > self.changes

    def record(self) -> Dict[str, object]:
        """Return it for JSON."""
        return {**asdict(self), "good": self.good}

    @property
    def verdict(self) -> str:
        """It in a few words."""
        if self.error:
            return f"no answer: {self.error}"
        return (
            f"{self.found} found, {len(self.missed)} missed, {len(self.false)} false, "
            f"{len(self.pending)} pending; {self.words} words, {len(self.unexplained)} unexplained"
        )


def needed_seconds(allocator: str) -> float:
    """Return about how long the recipes of an allocator take on two cores."""
    return _SECONDS[allocator]


def apply(dump: Dump) -> Recipes:
    """Apply all recipes to a dump."""
    begin = time.monotonic()
    result = Recipes(dump.name)
    files = [str(file) for file in (dump.vmcore, dump.vmlinux) if file is not None]
    arguments = ["-m", "tests.recipes", *files, "--json"]
    try:
        done = run_python(arguments, statuses=[0, 1], timeout_seconds=_TIMEOUT_SECONDS)
        _sort(json.loads(done.stdout), result)
        _change_words(files, result)
    except (LabError, ValueError) as error:
        result.error = str(error)
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def _change_words(files: Sequence[str], result: Recipes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        options = ["--sample", str(_WORDS), "--json", file.name]
        arguments = ["-m", "tests.mutate", *files, *options]
        run_python(arguments, statuses=[0, 1], timeout_seconds=_TIMEOUT_SECONDS)
        told = json.load(file)
    result.words, result.unexplained = len(told["words"]), told["unexplained"]
    outcomes = told["totals"]
    result.changes = sum(outcomes.values()) - outcomes.get("same", 0)
    result.by_chance = told["by_chance"]


def _sort(records: List[Dict[str, Any]], result: Recipes) -> None:
    for record in records:
        name, outcome = record["name"], record["outcome"]
        why = "; ".join(reason.strip().splitlines()[-1] for reason in record["reasons"][:2])
        if outcome == "found":
            result.found += 1
        elif outcome == "quiet":
            result.quiet += 1
        elif outcome == "missed":
            result.missed.append(f"{name}: {why}")
        elif outcome == "pending":
            result.pending.append(name)
        else:
            result.no_victim.append(name)
        if outcome != "pending":
            result.false += [f"{name}: {stray}" for stray in record["strays"]]
