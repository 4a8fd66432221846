# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a recipe is, and what it expects
-------------------------------------

A recipe has a name and says three things: which *victim* to pick from a machine,
the allocator's structures as drgn sees them (:mod:`.victims`), which *change*
to make to it (:mod:`.changes`), and which :class:`Root` finding must come of it.
It knows nothing of the library's own reading. A state is one to bytes that are
no injury, and must give no finding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Callable, Dict, FrozenSet, Generic, Optional, Sequence, TypeVar

from drgn import Program

from .changes import Change, Edit, of
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
    astray: bool = False
    """Whether the word that the root names is another one, to which the damaged one leads."""
    changing: bool = False
    """Whether the kernel looks the same when a CPU is stopped in the middle of its work,
    so that the finding stands under what is changing."""


class NoVictim(Exception):
    """A kernel has nothing that a recipe could damage; the message says what is missing."""


class Value(Enum):
    """A value that the first change of a recipe tells."""

    WAS = "what was there"
    NOW = "what is there now"
    HEX = "what is there now, as a page type word is told"


WAS, NOW, HEX = Value.WAS, Value.NOW, Value.HEX
NO_SLAB: Dict[str, None] = {"slab": None, "node": None}
"""For a root that names neither the slab that the victim is or has, nor its node."""


class Root:
    """
    The one finding that must come of a recipe.

    It names what the victim is part of, and besides what is said here. Each
    value may be a function of the victim, or :data:`WAS` or :data:`NOW`.

    :param code: Of the finding.
    :param says: Other attributes of an :class:`Injury`.
    """

    def __init__(self, code: Any, **says: Any) -> None:
        self.says = {"code": code, **says}

    def but(self, **says: Any) -> Root:
        """Return the same with other values; *also* is added to what may follow."""
        if "also" in says:
            says["also"] = says["also"] | self.says.get("also", frozenset())
        return Root(**{**self.says, **says})

    def injury(self, victim: Any, edits: Sequence[Edit]) -> Injury:
        """Return it, and what it is to come of, for a victim."""

        def value(said: Any) -> Any:
            if said is NOW:
                return edits[0].number
            if said is HEX:
                return f"0x{edits[0].number:08x}"
            return edits[0].spot.number if said is WAS else of(said, victim)

        says = {name: value(said) for name, said in self.says.items()}
        return Injury(_writes(edits), **{**victim.names, **says})


def _writes(edits: Sequence[Edit]) -> Sequence[Write]:
    return [edit.spot.write(edit.number) for edit in edits]


Victim = Callable[[M], Any]
"""Picks what to damage. Raises :class:`NoVictim` where a kernel has no such thing."""

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

    def recipe(
        self, name: str, victim: Victim[M], change: Change, root: Root, waits_for: str = ""
    ) -> None:
        """
        Enter a recipe.

        :param waits_for: Why nothing finds the damage yet.
        """

        def apply(machine: M) -> Injury:
            found = victim(machine)
            return root.injury(found, change.edits(found))

        self.recipes[self._new(name)] = apply
        if waits_for:
            self.pending[name] = waits_for

    def group(self, victim: Victim[M], root: Root, changes: Dict[str, Change]) -> None:
        """Enter recipes by name that differ in nothing but the change."""
        for name, change in changes.items():
            self.recipe(name, victim, change, root)

    def state(self, name: str, victim: Victim[M], change: Change) -> None:
        """Enter a state."""

        def apply(machine: M) -> Sequence[Write]:
            return _writes(change.edits(victim(machine)))

        self.states[self._new(name)] = apply

    def _new(self, name: str) -> str:
        if name in self.recipes or name in self.states:
            raise ValueError(f"there are two recipes named {name}")
        return name
