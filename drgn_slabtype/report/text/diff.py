# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changed from one moment to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Sequence, Tuple

from ..values import plural
from ..views import View
from ..views.diff import FINDING, PAGE, STACK, caches
from .lines import left, table, text, unavailable

if TYPE_CHECKING:
    from ...diff import Difference

_MOST_STACKS = 20


def diff(difference: Difference) -> str:
    """Present what changed; what did not is left out."""
    lines: List[str] = []
    grown = difference.caches if difference.everything else difference.grown
    alike = len(difference.caches) - len(grown)
    parts: Sequence[Tuple[View, str, str]] = (
        (FINDING, "findings", "finding"),
        (caches(grown), "caches", "cache"),
        (STACK, "stacks", "call trace"),
        (PAGE, "pages", "page type"),
    )
    for view, name, noun in parts:
        records = (grown if name == "caches" else getattr(difference, name)) or []
        told = records[:_MOST_STACKS] if name == "stacks" and not difference.left_out else records
        found = len(records) + difference.left_out.get(name, 0)
        part = [*(table(view.grid(told)) if told else []), *left(found, len(told), noun)]
        if name == "caches" and alike:
            part.append(
                f"{plural(alike, 'cache')} of another size without growth; --all shows them"
            )
        if name == "stacks":
            part += _overwritten(difference)
        lines += [*part, ""] if part else []
    lines = lines[:-1] if lines else ["nothing changed"]
    return text([*lines, *unavailable(difference)])


def _overwritten(difference: Difference) -> List[str]:
    # As many fewer objects stand with the call traces.
    before, after = difference.overwritten_before, difference.overwritten_after
    told = f"in no call trace, their record overwritten: {plural(before, 'object')} before, "
    return [f"{told}{after} after"] if before or after else []
