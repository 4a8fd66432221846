# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a fleet's dumps have in common
-----------------------------------

Dumps whose root findings have the same signatures are one group, whatever their
kernels: the same mistake is in many releases. By kernel, they are one group only
if that is of the same version and layout too.
"""

from __future__ import annotations

import datetime
import os
import shlex
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Annotated, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import TargetError
from ..findings import Outcome
from ..shapes import HIDDEN, Bytes, shown
from ..signature import Signature, digest
from .known import Cause, as_toml
from .saved import KIND
from .store import Row, Store

_ADDRESSES = ("allocated", "freed", "before")


class Named(NamedTuple):
    """A known cause."""

    name: str
    """What it is called."""
    text: str
    """What is known of it."""


@dataclass
class Group:
    """Dumps in which the same is wrong."""

    id: str
    """Short name, the same in every run."""
    dumps: int
    """How many."""
    releases: Dict[str, int]
    """How many of them by release, the most first."""
    kernels: Dict[str, int]
    """The same by version, allocator and layout."""
    first: str
    """When the first of them crashed, in UTC; where no dump tells, when its file was written."""
    last: str
    """When the last of them crashed, in UTC."""
    signatures: Tuple[Signature, ...]
    """Of the root findings."""
    causes: Tuple[Named, ...]
    """Known causes that fit."""
    example: str
    """The dump that shows it best."""
    capture: Optional[str]
    """A capture of that, or the dump itself if it is one."""
    command: str
    """Shows the example."""
    message: str
    """Its first root finding, in words."""
    details: Tuple[str, ...]
    """What is there instead, in the example."""
    paths: Tuple[str, ...]
    """All of the dumps."""
    copies: int
    """How many of them have the same findings at the same addresses as another: copies of it,
    captures of it, or reports on it."""
    toml: Annotated[str, HIDDEN] = ""
    """What a file of known causes would say of it."""

    @property
    @shown()
    def what(self) -> str:
        """What is wrong, in one line."""
        return "; ".join(map(str, self.signatures)) or "not known"


@dataclass
class Release:
    """The dumps of one release."""

    release: str
    """As ``uname -r`` prints it."""
    dumps: int
    """How many are of it."""
    damaged: int
    """Those with findings."""
    groups: int
    """How many groups they are in."""
    unjudged: int
    """Those of which not all could be judged."""


@dataclass
class Unjudged:
    """A dump of which not all could be judged, and in which nothing was found."""

    path: str
    """Of the dump."""
    judged: str
    """``nothing`` or ``in part``."""
    why: str
    """What was missing."""
    release: Optional[str] = None
    """As ``uname -r`` prints it, if that is known."""


@dataclass
class FleetTotals:
    """Sums over all dumps."""

    dumps: int = 0
    """All of them."""
    damaged: int = 0
    """Those with findings."""
    sound: int = 0
    """Those that were judged whole, without a finding."""
    incomplete: int = 0
    """Judged in part, without a finding."""
    unjudged: int = 0
    """Those of which nothing could be judged."""
    waiting: int = 0
    """Found, and not judged yet."""
    groups: int = 0
    """How many groups the damaged ones are in."""
    seconds: float = 0.0
    """Of all processes that judged them."""
    peak_memory: Bytes = 0
    """The most that one of them took, in bytes."""


@dataclass
class Fleet:
    """What is known of a fleet's dumps."""

    folder: str
    """Where the results are kept."""
    totals: FleetTotals = field(default_factory=FleetTotals)
    """Sums over all dumps."""
    groups: List[Group] = field(default_factory=list)
    """By number of dumps, the most first."""
    releases: List[Release] = field(default_factory=list)
    """The same by release."""
    unjudged: List[Unjudged] = field(default_factory=list)
    """Dumps of which not all could be judged."""
    unread: List[str] = field(default_factory=list)
    """Folders and files that this run could not look at, and why."""
    interrupted: bool = False
    """This run was stopped before all were judged."""
    stopped: Optional[str] = None
    """What stopped it."""

    def stop(self, reason: str) -> None:
        """Mark it as stopped."""
        self.interrupted, self.stopped = True, self.stopped or reason

    @property
    @shown()
    def exit_status(self) -> int:
        """0 if all are sound, 1 if one is damaged, else 3 if not all could be judged."""
        if self.totals.damaged:
            return 1
        missing = self.totals.unjudged + self.totals.incomplete + self.totals.waiting
        return 3 if missing or self.interrupted or self.unread else 0


def summarise(folder: str, causes: Sequence[Cause] = (), by_kernel: bool = False) -> Fleet:
    """
    Return what the runs in a folder have come to; nothing is written.

    :param causes: Known causes that groups are compared with.
    :param by_kernel: Whether dumps of different kinds of kernels are in groups of their own.
    :raises TargetError: if there is nothing in the folder, or no dump is known there.
    """
    with Store(folder) as store:
        fleet = Fleet(store.folder)
        groups: Dict[str, List[Row]] = defaultdict(list)
        of_release: Dict[str, List[Tuple[Row, str]]] = defaultdict(list)
        for row in store.rows():
            id = _enter(fleet, row, by_kernel)
            if id:
                groups[id].append(row)
            if row.version is not None:
                of_release[row.release or "unknown"].append((row, id))
    if not fleet.totals.dumps:
        # For want of room, say. That none is known is not that none is damaged.
        raise TargetError(f"{folder}: no run of fleet has left any dump there")
    found = [_group(id, rows, causes) for id, rows in groups.items()]
    fleet.groups = sorted(found, key=lambda group: (-group.dumps, group.first, group.id))
    fleet.totals.groups = len(found)
    releases = [_release(release, rows) for release, rows in of_release.items()]
    fleet.releases = sorted(releases, key=lambda one: (-one.dumps, one.release))
    return fleet


def _enter(fleet: Fleet, row: Row, by_kernel: bool) -> str:
    # Count a dump; the group that it is in, if it is damaged.
    totals = fleet.totals
    totals.dumps += 1
    totals.seconds = round(totals.seconds + (row.seconds or 0), 3)
    totals.peak_memory = max(totals.peak_memory, row.memory or 0)
    if row.version is None:
        totals.waiting += 1
    elif row.outcome == Outcome.INCONSISTENT.value:
        totals.damaged += 1
        return _id(row, by_kernel)
    elif row.outcome == Outcome.CONSISTENT.value:
        totals.sound += 1
    else:
        nothing = row.outcome is None
        totals.unjudged += nothing
        totals.incomplete += not nothing
        judged, why = "nothing" if nothing else "in part", row.why or "not known"
        fleet.unjudged.append(Unjudged(row.path, judged, why, row.release))
    return ""


def _id(row: Row, by_kernel: bool) -> str:
    signatures = _signatures(row)
    parts = [signature.id for signature in signatures]
    if by_kernel:
        parts += sorted({signature.kernel for signature in signatures})
    return parts[0] if len(parts) == 1 else digest(parts)


def _signatures(row: Row) -> List[Signature]:
    return sorted((_signature(told) for told in row.signatures), key=lambda one: one.id)


def _signature(told: Mapping[str, object]) -> Signature:
    here = {name: told[name] for name in Signature.__dataclass_fields__ if name in told}
    for name in _ADDRESSES:
        here[name] = tuple(here.get(name) or ())  # type: ignore[arg-type]
    return Signature(**here)  # type: ignore[arg-type]


def _group(id: str, rows: Sequence[Row], causes: Sequence[Cause]) -> Group:
    best = min(rows, key=_clutter)
    signatures = _signatures(best)
    kernels = [_signatures(row)[0].kernel if row.signatures else "unknown" for row in rows]
    shown_from = best.path if best.capture is None else best.capture
    root = best.roots[0] if best.roots else {}
    known = [c for c in causes if any(c.fits(s) for row in rows for s in _signatures(row))]
    return Group(
        id=id,
        dumps=len(rows),
        releases=_counted([row.release or "unknown" for row in rows]),
        kernels=_counted(kernels),
        first=_utc(min(row.seen or 0 for row in rows)),
        last=_utc(max(row.seen or 0 for row in rows)),
        signatures=tuple(signatures),
        causes=tuple(Named(cause.name, cause.text) for cause in known),
        example=best.path,
        capture=best.capture,
        command=_command(best, shown_from),
        message=str(root.get("message", "")),
        details=tuple(map(str, root.get("details", ()))),
        paths=tuple(row.path for row in rows),
        copies=len(rows) - len({_moment(row) for row in rows}),
        toml="\n\n".join(map(as_toml, signatures)),
    )


def _moment(row: Row) -> str:
    # What tells two dumps of one kernel apart: where the damage is. A capture has fewer details.
    where = ("code", "cache", "slab", "page", "object", "word", "message")
    return digest([row.release, *([root.get(name) for name in where] for root in row.roots)])


def _command(row: Row, path: str) -> str:
    # A report is all that there is of its dump.
    how = "less" if row.kind == KIND else "drgn-slabtype check -c"
    return f"{how} {_for_a_shell(path)}"


def _for_a_shell(path: str) -> str:
    # What no terminal shows as it is must outlive being copied from one.
    if path.isprintable():
        return shlex.quote(path)
    told = (
        "\\'"
        if byte == 0x27
        else "\\\\"
        if byte == 0x5C
        else chr(byte)
        if 0x20 <= byte < 0x7F
        else f"\\{byte:03o}"
        for byte in os.fsencode(path)
    )
    return f"$'{''.join(told)}'"


def _clutter(row: Row) -> Tuple[object, ...]:
    # How much stands between somebody and the damage; the least is the best example.
    told = sum(len(root.get("details", ())) for root in row.roots)
    return (row.capture is None, row.why is not None, row.findings or 0, -told, row.path)


def _counted(some: Sequence[str]) -> Dict[str, int]:
    counts = Counter(some)
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _release(release: str, rows: Sequence[Tuple[Row, str]]) -> Release:
    groups = {id for _, id in rows if id}
    unjudged = sum(
        row.outcome not in (Outcome.CONSISTENT.value, Outcome.INCONSISTENT.value) for row, _ in rows
    )
    return Release(release, len(rows), sum(bool(id) for _, id in rows), len(groups), unjudged)


def _utc(seconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
