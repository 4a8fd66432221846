# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a recipe is, and what it expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, FrozenSet, List, Optional, Sequence

from drgn_slabtype.findings import Finding, Report

from .overlay import Write
from .slabmachine import Machine


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
    place: Optional[str] = None
    expected: Optional[int] = None
    """The value the root must ask for, where it can be told."""
    also: FrozenSet[str] = frozenset()
    """Codes that may follow from the root."""
    others: FrozenSet[str] = frozenset()
    """Other caches whose numbers change with it."""


Recipe = Callable[[Machine], Optional[Injury]]
"""Returns ``None`` where a kernel has no victim for it."""

RECIPES: Dict[str, Recipe] = {}
"""All recipes for SLAB by name."""


def recipe(function: Recipe) -> Recipe:
    """Enter a function into :data:`RECIPES` under its own name."""
    RECIPES[function.__name__.replace("_", "-")] = function
    return function


def complaints(injury: Injury, report: Report, clean: Report) -> List[str]:
    """
    Return in which ways a report is not what the injury must give.

    :param clean: Report of the dump without the injury.
    """
    roots = [finding for finding in report.findings if finding.because is None]
    wrong = [f"another root: {finding.message}" for finding in roots[1:]]
    if not roots:
        told = [finding.message for finding in report.changing + report.unavailable]
        return ["; ".join(["nothing found", *told])]
    root = roots[0]
    wrong += _differences(injury, root)
    for finding in report.findings:
        if finding.because is None:
            continue
        if finding.because != root.id:
            wrong.append(f"follows from something else: {finding.message}")
        # The bytes of an object that is wrongly called free, or wrongly not, say so too.
        if finding.code not in injury.also and finding.rule != "content":
            wrong.append(f"{finding.code} does not follow: {finding.message}")
    wrong += [
        f"changing: {f.message}"
        for f in report.changing
        if f not in clean.changing and f.rule != "content"
    ]
    wrong += [
        f"unavailable: {f.message}"
        for f in report.unavailable
        if f.code not in injury.also and f not in clean.unavailable
    ]
    touched = {injury.cache, *injury.others}
    before = {result.name: result for result in clean.caches}
    wrong += [
        f"{result.name} has other numbers"
        for result in report.caches
        if result.name not in touched and before.get(result.name) != result
    ]
    return wrong


def _differences(injury: Injury, root: Finding) -> List[str]:
    wrong = []
    for name in ("code", "cache", "slab", "node", "cpu", "object", "place", "expected"):
        want, found = getattr(injury, name), getattr(root, name)
        must = want is not None or name in ("code", "cache", "slab")
        # A page of no slab is named as a slab that is none.
        if name == "slab" and injury.code == "slab-mark-stray":
            must = want is not None
        if must and want != found:
            wrong.append(f"{name} is {found!r}, not {want!r}: {root.message}")
    return wrong
