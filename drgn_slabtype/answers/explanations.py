# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the codes of findings mean, without a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import List, Optional, Tuple

from ..arguments import at_least, quoted
from ..codes import CATALOGUE, Commit, Measure
from ..errors import ArgumentError
from ..records import Listing, Record
from ..spelling import nearest


@dataclass(frozen=True)
class Explanation(Record):
    """All that is said of one code."""

    code: str
    """As findings have it."""
    rule: str
    """Family of rules that it belongs to."""
    meaning: str
    """What such a finding says, in one sentence."""
    promise: str
    """What the kernel promises, and which of its functions keep that; of notes, and of what
    was not judged, what is behind them."""
    more: str
    """What else there is to know; may be empty."""
    causes: Tuple[str, ...]
    """What usually breaks the promise."""
    look: Tuple[str, ...]
    """What to look at next."""
    commits: Tuple[Commit, ...]
    """Of the kernel: those that made the promise what it is, or changed it."""
    measure: Optional[Measure]
    """What the values of such findings are, unless one says otherwise."""
    reserved: bool
    """Whether this version never says it."""


@dataclass(frozen=True)
class Explanations(Listing):
    """Some codes, in the order of the catalogue."""

    LISTED = "codes"

    codes: List[Explanation]
    """All that is said of each."""
    found: int
    """How many were asked for, those included that are not told."""


def explain(*codes: str, most: Optional[int] = None) -> Explanations:
    """
    Return what codes mean, in the order of the catalogue.

    >>> explain("freelist-cycle")[0].causes
    ('a double free',)

    :param codes: Codes, patterns (``freelist-*``) and families of rules (``claim``); all
        codes if there are none.
    :param most: Tell no more than so many; all are counted.
    :raises ArgumentError: if there is no such code, which names those that are near, else the
        families; or *most* is negative.
    """
    at_least("most", most)
    wanted = {name for one in codes for name in _meant(str(one))}
    found = [name for name in CATALOGUE if not codes or name in wanted]
    return Explanations([_explained(name) for name in found[:most]], len(found))


def _meant(asked: str) -> List[str]:
    families = list(dict.fromkeys(code.rule for code in CATALOGUE.values()))
    found = [
        name for name, code in CATALOGUE.items() if fnmatchcase(name, asked) or code.rule == asked
    ]
    if not found:
        near = nearest(asked, [*CATALOGUE, *families])
        hint = f"did you mean {' or '.join(near)}?"
        if not near:
            hint = f"families of codes are {', '.join(families)}; all codes: explain"
        raise ArgumentError(f"there is no code {quoted(asked)}; {hint}")
    return found


def _explained(name: str) -> Explanation:
    code = CATALOGUE[name]
    return Explanation(
        name,
        code.rule,
        code.meaning,
        code.promise,
        code.more,
        code.causes,
        code.look,
        code.commits,
        code.measure,
        code.reserved,
    )
