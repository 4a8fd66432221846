# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who is at work
--------------

What is excused as work in progress must be somebody's work. :func:`witnesses`
tells who is in the functions that make a state, and whether all stacks could be
seen. Built when it is first asked for, once per program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence

from .activities import ACTIVITIES, EVERY_FUNCTION, Presence
from .stacks import Call, Stacks

if TYPE_CHECKING:
    from . import Machine

_MOST_CALLS = 4096  # that a capture keeps


class Witnesses:
    """
    Everybody who is in a function that changes slabs, objects or free memory.

    :param calls: The calls that are under way, innermost first.
    :param gap: What could not be seen; ``None`` if everything was.
    """

    def __init__(self, calls: Sequence[Call], gap: Optional[str]) -> None:
        self.calls = tuple(calls)
        self.gap = gap

    @property
    def complete(self) -> bool:
        """Whether all stacks could be read."""
        return self.gap is None

    def of(self, name: str) -> Presence:
        """
        Return who is doing one kind of work.

        :param name: Key into :data:`~.activities.ACTIVITIES`.
        """
        activity = ACTIVITIES[name]
        first: Dict[str, Call] = {}
        for call in self.calls:
            # Without debug info, what was put into a function cannot be told from it.
            inside = not call.exact and call.function in activity.within
            ending = call.who.startswith("CPU ") and call.function in activity.at_the_end
            if call.function in activity.functions or inside or ending:
                first.setdefault(call.who, call)
        return Presence(activity.title, tuple(str(call) for call in first.values()), self.gap)

    def to_json(self) -> Dict[str, Any]:
        """Return what a capture keeps of it."""
        return {"calls": [list(call) for call in self.calls[:_MOST_CALLS]], "gap": self.gap}


def from_json(kept: Mapping[str, Any]) -> Witnesses:
    """
    Return what a capture has kept.

    :raises ValueError: if that is not what :meth:`Witnesses.to_json` returned.
    """
    calls, gap = kept.get("calls"), kept.get("gap")
    if not isinstance(calls, list) or not (gap is None or isinstance(gap, str)):
        raise ValueError("no witnesses")
    found: List[Call] = []
    for call in calls:
        if not isinstance(call, list) or [type(part) for part in call] != [str, str, str, bool]:
            raise ValueError("no witnesses")
        found.append(Call(*call))
    return Witnesses(found, gap)


def find_witnesses(machine: Machine) -> Witnesses:
    """Look at all stacks, or at what a capture says of them."""
    if machine.manifest is not None:
        try:
            return from_json(machine.manifest["witnesses"])
        except (AttributeError, KeyError, ValueError):
            return Witnesses((), "the capture does not tell who was at work")
    if machine.is_live:
        return Witnesses((), "the target does not stand still")
    stacks = Stacks(machine, EVERY_FUNCTION)
    return Witnesses(stacks.calls, "; ".join(stacks.gaps[:3]) or None)


def witnesses(machine: Machine) -> Witnesses:
    """Return who is at work on a machine, found once."""
    return machine.settled(find_witnesses)
