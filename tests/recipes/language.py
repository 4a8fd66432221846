# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a recipe is, and what it expects
-------------------------------------

A recipe is a function from a *machine*, the allocator's structures as drgn sees
them, to an :class:`Injury`. It knows nothing of the library's own reading. A
state is one to bytes that are no injury, and must give no finding.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Generic,
    List,
    NamedTuple,
    Optional,
    Sequence,
    TypeVar,
)

from drgn import Program

from drgn_slabtype.findings import Finding, Report

from .overlay import Write

M = TypeVar("M")


@dataclass(frozen=True)
class Injury:
    """Damage to one kernel, and the one root finding it must give."""

    writes: Sequence[Write]
    code: str
    """Code of the root finding."""
    cache: Optional[str] = None
    """Cache it must name; ``None`` for a page of no cache."""
    slab: Optional[int] = None
    """``struct slab *`` it must name; ``None`` where no slab can be told."""
    node: Optional[int] = None
    cpu: Optional[int] = None
    object: Optional[int] = None
    page: Optional[int] = None
    place: Optional[str] = None
    expected: Any = None
    """The value the root must ask for, where it can be told."""
    found: Any = None
    """The value the root must show, where it can be told."""
    also: FrozenSet[str] = frozenset()
    """Codes that may follow from the root."""
    others: FrozenSet[str] = frozenset()
    """Other caches whose numbers change with it; ``*`` for all."""
    changing: bool = False
    """Whether the kernel looks the same when a CPU is stopped in the middle of its work,
    so that the finding stands under what is changing."""


class NoVictim(Exception):
    """A kernel has nothing that a recipe could damage; the message says what is missing."""


Recipe = Callable[[M], Injury]
"""Raises :class:`NoVictim` where a kernel has no victim for it."""

State = Callable[[M], Sequence[Write]]
"""
Puts together a state in which a kernel can be stopped, by hand: no damage. A
check may say that something is changing, and no more. Raises :class:`NoVictim`
where a kernel has nothing to put it together from.
"""


@dataclass
class Suite(Generic[M]):
    """The recipes for one allocator."""

    allocator: str
    """``SLAB`` or ``SLUB``."""
    open: Callable[[Program], M]
    """Reads the machine that the recipes are given."""
    recipes: Dict[str, Recipe[M]] = field(default_factory=dict)
    """By name."""
    pending: Dict[str, str] = field(default_factory=dict)
    """Why the rule for a recipe is not built yet, by the recipe's name."""
    states: Dict[str, State[M]] = field(default_factory=dict)
    """Work in progress that is no damage, by name."""

    def recipe(self, function: Recipe[M]) -> Recipe[M]:
        """Enter a recipe under the function's name."""
        self.recipes[self._new_name(function)] = function
        return function

    def state(self, function: State[M]) -> State[M]:
        """Enter a state under the function's name."""
        self.states[self._new_name(function)] = function
        return function

    def _new_name(self, function: Callable[[M], Any]) -> str:
        name = function.__name__.replace("_", "-")
        if name in self.recipes or name in self.states:
            raise ValueError(f"there are two recipes named {name}")
        return name

    def waits_for(self, reason: str) -> Callable[[Recipe[M]], Recipe[M]]:
        """Enter a recipe whose damage nothing finds yet."""

        def enter(function: Recipe[M]) -> Recipe[M]:
            self.pending[function.__name__.replace("_", "-")] = reason
            return self.recipe(function)

        return enter


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
    return wrong


def _value(value: object) -> str:
    return f"0x{value:x}" if isinstance(value, int) and value > 1 << 32 else repr(value)
