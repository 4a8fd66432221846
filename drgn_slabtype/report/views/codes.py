# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of a code: the same in the terminal, on the page and in the docs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, Tuple

from . import Column, View

if TYPE_CHECKING:
    from ...answers.explanations import Explanation

CODE = View(
    Column("code"),
    Column("rule"),
    Column("meaning"),
    quiet="promise more causes look commits measure reserved",
)
"""One of many."""

_JUDGED = "What the kernel promises"
_BEHIND = "What is behind it"


def told(code: Explanation) -> Iterator[Tuple[str, Tuple[str, ...]]]:
    """Return all that is said of a code: headings, the first one empty, and what is under each."""
    yield "", (f"{code.meaning} {code.more}".strip(),)
    yield _BEHIND if code.rule in ("note", "unavailable") else _JUDGED, (code.promise,)
    yield "Usual causes", code.causes
    yield "What to look at next", code.look
    if code.commits:
        commits = (f'{c.hash} ("{c.subject}"), Linux {c.release}' for c in code.commits)
        yield "Commits of the kernel", tuple(commits)
    if code.reserved:
        yield "In this version", ("It is never said.",)
