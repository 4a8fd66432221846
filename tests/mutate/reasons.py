# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Why nothing says that a word is wrong
-------------------------------------

A word that can be overwritten in silence is either one that nothing else in
memory follows from, and then a row here says so, or it waits for a rule.
"""

from __future__ import annotations

import re
from typing import Collection, NamedTuple, Optional

from .words import MUTATIONS


class Reason(NamedTuple):
    """Why changes of some words are passed in silence."""

    structure: str
    """Of which structures; ``*`` stands for anything."""
    member: str
    """Which members; alternatives stand between ``|``."""
    why: str
    only: Collection[str] = MUTATIONS
    """Which changes alone."""

    def holds(self, structure: str, member: str, mutation: str) -> bool:
        """Return whether it is about a change of a word."""
        fits = _fits(self.structure, structure) and _fits(self.member, member)
        return fits and mutation in self.only


def _fits(patterns: str, name: str) -> bool:
    return any(
        re.fullmatch(re.escape(one).replace(r"\*", ".*"), name) for one in patterns.split("|")
    )


REASONS = (Reason("none", "none", ""),)


def reason(structure: str, member: str, mutation: str) -> Optional[Reason]:
    """Return why a change may be passed in silence; ``None`` if nothing is known."""
    for one in REASONS:
        if one.holds(structure, member, mutation):
            return one
    return None
