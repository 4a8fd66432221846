# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of a fleet's dumps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, Mapping, Optional

from ..values import plural, size
from . import Column, View

if TYPE_CHECKING:
    from ...fleet.summary import Fleet, Group

_SHOWN = 3  # releases that stand in one cell


def counted(by_name: Mapping[str, int], most: Optional[int] = None) -> str:
    """
    Return counts by name.

    >>> counted({"6.1.0-13": 40, "6.1.0-15": 5, "6.12": 1}, 2)
    '6.1.0-13 (40), 6.1.0-15 (5) and 1 more'
    """
    some = list(by_name.items())[:most]
    rest = len(by_name) - len(some)
    told = ", ".join(f"{name} ({count})" for name, count in some)
    return told + (f" and {rest} more" if rest else "")


def _versions(group: Group) -> str:
    # A version and an allocator are enough to choose by.
    short: Dict[str, int] = {}
    for kernel, count in group.kernels.items():
        name = " ".join(kernel.split()[:2])
        short[name] = short.get(name, 0) + count
    return counted(dict(sorted(short.items(), key=lambda pair: (-pair[1], pair[0]))), _SHOWN)


def _day(moment: str) -> str:
    return moment.partition("T")[0]


def _looks_like(group: Group) -> str:
    return ", ".join(cause.name for cause in group.causes)


def causes(group: Group) -> List[str]:
    """Return the known causes that a group looks like, a line each."""
    return [": ".join(filter(None, cause)) for cause in group.causes]


def groups(any_cause: bool, any_copy: bool) -> View:
    """
    Return what is told of groups, a row each.

    :param any_cause: Whether one looks like something known.
    :param any_copy: Whether one has copies.
    """
    return View(
        Column("group", "id"),
        Column("dumps"),
        Column("copies", when=any_copy),
        Column("kernels", cell=_versions),
        Column("first", cell=lambda group: _day(group.first)),
        Column("last", cell=lambda group: _day(group.last)),
        Column("what"),
        Column("looks like", "causes", _looks_like, when=any_cause),
        quiet="releases signatures causes example capture command message details paths",
    )


def _copies(group: Group) -> str:
    return f"{group.copies} of the dumps, by their addresses" if group.copies else ""


GROUP = View(
    Column("copies", cell=_copies),
    Column("kernels", cell=lambda group: counted(group.kernels)),
    Column("releases", cell=lambda group: counted(group.releases)),
    Column("seen", "first last", lambda group: f"{group.first} to {group.last}"),
    Column("looks like", "causes", causes),
    Column("example"),
    Column("finding", "message"),
    Column("", "details", lambda group: [("", line) for line in group.details]),
    Column("look at it", "command"),
    quiet="id dumps signatures capture paths what",
)

RELEASE = View(
    Column("release"),
    Column("dumps"),
    Column("damaged"),
    Column("groups"),
    Column("not judged", "unjudged", right=True),
)

UNJUDGED = View(Column("dump", "path"), Column("judged"), Column("why"), Column("release"))

TOTALS = View(
    Column("dumps"),
    Column("damaged"),
    Column("in groups", "groups"),
    Column("sound"),
    Column("judged in part", "incomplete"),
    Column("not judged", "unjudged"),
    Column("waiting"),
    quiet="seconds peak_memory",
)

FLEET = View(quiet="folder totals groups releases unjudged unread interrupted stopped exit_status")


def outcome(fleet: Fleet) -> Iterator[str]:
    """Return the parts of what all came to, in a line."""
    totals = fleet.totals
    yield plural(totals.dumps, "dump")
    if totals.damaged:
        yield f"{totals.damaged} damaged, in {plural(totals.groups, 'group')}"
    yield f"{totals.sound} sound"
    if totals.incomplete:
        yield f"{totals.incomplete} judged in part, without a finding"
    if totals.unjudged:
        yield f"{totals.unjudged} not judged"
    if totals.waiting:
        yield f"{totals.waiting} still waiting"
    if totals.seconds:
        yield f"{totals.seconds:.1f} s of work, at most {size(totals.peak_memory)} of memory"
    yield from (f"{name} {told}" for name, told in (*TOTALS.others(totals), *FLEET.others(fleet)))
    if fleet.interrupted:
        yield "interrupted" + (f" by {fleet.stopped}" if fleet.stopped else "")
