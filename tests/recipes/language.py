# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a recipe is, and what it expects
-------------------------------------

A recipe is a function from a *machine*, the allocator's structures as drgn sees
them, to an :class:`Injury`. It knows nothing of the library's own reading. A
state is one to bytes that are no injury, and must give no finding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Generic,
    Optional,
    Sequence,
    TypeVar,
)

from drgn import Program

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
