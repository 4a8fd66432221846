# SPDX-License-Identifier: LGPL-2.1-or-later
"""What changed from one moment to another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, List, Sequence, Tuple

from ..views import View
from ..views.diff import CACHE, FINDING, PAGE, STACK
from .lines import table, text

if TYPE_CHECKING:
    from ...diff import Difference

_MOST_STACKS = 20


def diff(difference: Difference) -> str:
    """Present what changed; what did not is left out."""
    lines: List[str] = []
    parts: Sequence[Tuple[View, Sequence[Any]]] = (
        (FINDING, difference.findings),
        (CACHE, difference.caches),
        (STACK, (difference.stacks or [])[:_MOST_STACKS]),
        (PAGE, difference.pages or []),
    )
    for view, records in parts:
        if records:
            lines += [*table(view.grid(records)), ""]
    return text(lines[:-1] if lines else ["nothing changed"])
