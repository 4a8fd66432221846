# SPDX-License-Identifier: LGPL-2.1-or-later
"""Groups of a fleet's dumps, what could not be judged, and how to look at each."""

from __future__ import annotations

from typing import TYPE_CHECKING, List

from ..views.fleet import RELEASE, UNJUDGED, causes, groups, outcome
from .lines import table, text

if TYPE_CHECKING:
    from ...fleet.summary import Fleet

_MOST = 20  # dumps that could not be judged; JSON and HTML have all


def fleet(found: Fleet) -> str:
    """Present what is known of a fleet's dumps."""
    lines: List[str] = []
    if found.groups:
        any_copy = any(group.copies for group in found.groups)
        view = groups(any(group.causes for group in found.groups), any_copy)
        lines += [*table(view.grid(found.groups)), ""]
        for group in found.groups:
            lines += [f"{group.id}: {group.command}"]
            lines += [f"{'':{len(group.id)}}  looks like: {cause}" for cause in causes(group)]
        lines.append("")
    if found.releases:
        lines += [*table(RELEASE.grid(found.releases)), ""]
    if found.unjudged:
        lines += table(UNJUDGED.grid(found.unjudged[:_MOST]))
        rest = len(found.unjudged) - _MOST
        lines += [f"{rest} more, all in --format json", ""] if rest > 0 else [""]
    lines += [f"not looked at: {line}" for line in found.unread]
    return text([*lines, "; ".join(outcome(found))])
