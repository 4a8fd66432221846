# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What grew
---------

Two moments of one kernel, as dumps, captures or saved reports: which caches grew,
by which call traces, what is newly wrong, and what pages became.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import (
    Annotated,
    Any,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from drgn import FaultError, Program

from .answers.stacks import stacks
from .arguments import at_least, path_of, require
from .check import check
from .errors import ArgumentError, TargetError
from .findings import Report
from .pages.census import census
from .records import Listing, Record
from .shapes import HIDDEN, Bytes
from .signals import spell_reason

_IDENTITY = ("code", "cache", "node", "cpu", "slab", "object", "place", "address")
_Key = Tuple[Any, ...]


@dataclass(frozen=True)
class CacheGrowth(Record):
    """How a cache changed; *before* is ``None`` if it is new, *after* if it is gone."""

    cache: str
    """Name of the slab cache."""
    before: Optional[int]
    """Objects in use."""
    after: Optional[int]
    """Objects in use."""
    growth: int
    """Of objects in use."""
    bytes: Bytes
    """The same in memory: bytes from one object to the next for each."""
    slabs: int
    """Growth in slabs."""
    unknown: int = 0
    """Growth in objects of which damage hides whether they are in use: those are in no other
    number here."""


@dataclass(frozen=True)
class StackGrowth(Record):
    """How many more objects a call trace has."""

    cache: str
    """Name of the slab cache."""
    before: int
    """How many objects it had."""
    after: int
    """How many it has."""
    growth: int
    """How many more."""
    caller: Optional[str]
    """Symbol and offset."""
    stack: Tuple[str, ...] = ()
    """Call trace, innermost first, if it was kept."""


@dataclass(frozen=True)
class PageGrowth(Record):
    """How many more pages are of a type."""

    type: str
    """The kind of page, as in the census."""
    before: int
    """How many there were."""
    after: int
    """How many there are."""
    growth: int
    """How many more."""


@dataclass(frozen=True)
class Changed(Record):
    """A finding that one of the two has, or both."""

    change: str
    """``new``, ``gone`` or ``still there``."""
    code: str
    """Of the finding."""
    cache: Optional[str]
    """Name of the slab cache, if it is about one."""
    message: str
    """What it says."""


@dataclass
class Difference(Listing):
    """From one moment to another; what did not change is left out."""

    LISTED = "caches"

    caches: List[CacheGrowth] = field(default_factory=list)
    """Those that grew most bytes first, those that shrank last."""
    stacks: Optional[List[StackGrowth]] = None
    """``None`` unless both keep who allocated their objects."""
    pages: Optional[List[PageGrowth]] = None
    """``None`` if one of the two is a saved report."""
    findings: List[Changed] = field(default_factory=list)
    """What was found in either."""
    left_out: Dict[str, int] = field(default_factory=dict)
    """How many more ``caches``, ``stacks`` and ``pages`` there are than are told."""
    overwritten_before: int = 0
    """How many objects of the earlier moment are in no call trace, since the record of who
    allocated them is overwritten."""
    overwritten_after: int = 0
    """How many of the later one."""
    unavailable: List[str] = field(default_factory=list)
    """What could not be read of either, and so looks as if it had grown or shrunk."""
    everything: Annotated[bool, HIDDEN] = False
    """Whether text tells all of :attr:`caches`, and not just those of :attr:`grown`."""

    @property
    def grown(self) -> List[CacheGrowth]:
        """Caches that grew or shrank, are new or gone; not those of another size alone."""
        return [
            one
            for one in self.caches
            if None in (one.before, one.after)
            or one.growth
            or one.bytes
            or one.slabs
            or one.unknown
        ]

    @property
    def exit_status(self) -> int:
        """1 if something is newly wrong, else 3 if not all could be read, else 0."""
        if any(one.change == "new" for one in self.findings):
            return 1
        return 3 if self.unavailable else 0


@dataclass
class Moment(Record):
    """What is compared of one of the two."""

    release: Optional[str]
    caches: Dict[str, Tuple[int, int, int, int]]
    """By name: objects in use, bytes from one to the next, slabs, objects of unknown state."""
    findings: Dict[_Key, Tuple[str, Optional[str], str]]
    """By what identifies them: code, cache, message."""
    stacks: Optional[Dict[Tuple[str, Optional[str], Tuple[str, ...]], int]] = None
    pages: Optional[Dict[str, int]] = None
    overwritten: int = 0
    """Objects of which the record of who allocated them is overwritten."""
    unavailable: List[str] = field(default_factory=list)
    """What could not be read."""
    partial: bool = False
    """Whether it is about some caches, and what is in no other is not known."""


def moment(source: Union[Program, Report, Mapping[str, Any]]) -> Moment:
    """
    Return what is compared of a program, the report of a check, or a saved one.

    :param source: A saved report is what ``check --format json`` wrote, as
        :func:`json.load` returns it.
    :raises ArgumentError: if it is none of these.
    :raises TargetError: if a saved report is none.
    """
    if isinstance(source, Program):
        found = _of_report(check(source))
        tracked = stacks(source)
        if tracked.caches:
            found.stacks, found.overwritten = {}, tracked.overwritten
            for one in tracked.stacks:
                key = (one.cache, one.caller, one.stack)
                found.stacks[key] = found.stacks.get(key, 0) + one.count
        found.pages = {row.type: row.pages for row in census(source).rows}
        return found
    if isinstance(source, Report):
        return _of_report(source)
    if not isinstance(source, Mapping):
        raise ArgumentError(
            f"{source!r} is no drgn.Program, no report of a check, and no saved one"
        )
    return _of_document(source, "this")


def _of_report(report: Report) -> Moment:
    return Moment(
        report.target.release,
        {one.name: (one.in_use, one.size, one.slabs, one.unknown) for one in report.caches},
        {
            tuple(getattr(finding, name) for name in _IDENTITY): (
                finding.code,
                finding.cache,
                finding.message,
            )
            for finding in report.findings
            if finding.because is None
        },
        unavailable=[
            *_stopped(report.interrupted, report.stopped),
            *(one.message for one in report.unavailable),
        ],
        # What the kernel has said is read for reports of all caches, at the end.
        partial=report.kernel is None,
    )


def _stopped(interrupted: bool, reason: Optional[str]) -> List[str]:
    return [f"all that a check would have come to: {spell_reason(reason)}"] if interrupted else []


def _of_document(saved: Mapping[str, Any], name: str) -> Moment:
    def plain(value: Any) -> Any:
        return int(value, 16) if isinstance(value, str) and value.startswith("0x") else value

    try:
        return Moment(
            saved["target"]["release"],
            {
                one["name"]: (one["in_use"], one["size"], one["slabs"], one.get("unknown", 0))
                for one in saved["caches"]
            },
            {
                tuple(plain(one.get(name)) for name in _IDENTITY): (
                    one["code"],
                    one["cache"],
                    one["message"],
                )
                for one in saved["findings"]
                if one["because"] is None
            },
            unavailable=[
                *_stopped(bool(saved.get("interrupted")), saved.get("stopped")),
                *(str(one["message"]) for one in saved.get("unavailable", ())),
            ],
            partial=saved.get("kernel") is None,
        )
    except KeyError as error:
        raise TargetError(f"{name} is no report of check --format json: no {error}") from None
    except (TypeError, ValueError) as error:
        raise TargetError(f"{name} is no report of check --format json: {error}") from None


def diff(
    before: Union[Program, Report, Mapping[str, Any]],
    after: Union[Program, Report, Mapping[str, Any]],
    *,
    most: Optional[int] = None,
) -> Difference:
    """
    Return what changed from one moment of a kernel to another.

    >>> before = check(prog)
    >>> for cache in diff(before, prog)[:5]:
    ...     print(cache.cache, cache.growth, cache.bytes)

    :param before: A program, the report of a check, or a saved one.
    :param after: Likewise.
    :param most: Tell no more than so many caches, call traces and kinds of pages.
    :raises ArgumentError: if *most* is negative, or one of the two nothing of the kind.
    :raises TargetError: if they are of two kernels.
    """
    at_least("most", most)
    return compare(moment(before), moment(after), most=most)


def compare(before: Moment, after: Moment, *, most: Optional[int] = None) -> Difference:
    """
    Return what changed.

    >>> before, after = (open_moment("vmcore.xz", []) for _ in range(2))
    >>> len(compare(before, after))
    0

    :param before: What :func:`open_moment` returned of the earlier file.
    :param after: Of the later one.
    :param most: Tell no more than so many caches, call traces and kinds of pages.
    :raises ArgumentError: if *most* is negative, or one of the two no moment.
    :raises TargetError: if the two are of different kernels.
    """
    at_least("most", most)
    require("before", before, Moment)
    require("after", after, Moment)
    if before.release and after.release and before.release != after.release:
        raise TargetError(f"two kernels: {before.release} and {after.release}")
    told = list(_unavailable(before.unavailable, after.unavailable))
    for when, one, other in (("before", before, after), ("after", after, before)):
        if one.partial and other.caches.keys() - one.caches.keys():
            told.append(f"{when}: caches that the report is not about")
    before, after = _common(before, after)
    found = Difference(_caches(before, after))
    if before.stacks is not None and after.stacks is not None:
        grown = [
            StackGrowth(cache, was, now, now - was, caller, stack)
            for (cache, caller, stack), was, now in _paired(before.stacks, after.stacks)
        ]
        found.stacks = sorted(grown, key=lambda one: -one.growth)
        found.overwritten_before = before.overwritten
        found.overwritten_after = after.overwritten
    if before.pages is not None and after.pages is not None:
        changed = [
            PageGrowth(type, was, now, now - was)
            for type, was, now in _paired(before.pages, after.pages)
        ]
        found.pages = sorted(changed, key=lambda one: -one.growth)
    for change, keys, here in (
        ("new", after.findings.keys() - before.findings.keys(), after),
        ("still there", after.findings.keys() & before.findings.keys(), after),
        ("gone", before.findings.keys() - after.findings.keys(), before),
    ):
        found.findings += [
            Changed(change, *what) for key, what in here.findings.items() if key in keys
        ]
    found.unavailable = told
    return found if most is None else _shortened(found, most)


def _common(before: Moment, after: Moment) -> Tuple[Moment, Moment]:
    # What a report is not about is neither new nor gone.
    names = before.caches.keys() | after.caches.keys()
    for one in (before, after):
        names &= one.caches.keys() if one.partial else names
    if not (before.partial or after.partial):
        return before, after
    both = []
    for one in (before, after):
        own = {name: told for name, told in one.caches.items() if name in names}
        findings = {key: told for key, told in one.findings.items() if told[1] in names}
        both.append(replace(one, caches=own, findings=findings))
    return both[0], both[1]


def _unavailable(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    for told in dict.fromkeys([*before, *after]):
        when = "before" if told not in after else "after" if told not in before else "both"
        yield f"{when}: {told}"


def _shortened(found: Difference, most: int) -> Difference:
    for name in ("caches", "stacks", "pages"):
        rows = getattr(found, name)
        if rows is not None and len(rows) > most:
            found.left_out[name] = len(rows) - most
            setattr(found, name, rows[:most])
    return found


def _paired(before: Mapping[Any, int], after: Mapping[Any, int]) -> List[Tuple[Any, int, int]]:
    keys = dict.fromkeys([*after, *before])
    pairs = ((key, before.get(key, 0), after.get(key, 0)) for key in keys)
    return [pair for pair in pairs if pair[1] != pair[2]]


def _caches(before: Moment, after: Moment) -> List[CacheGrowth]:
    grown = []
    for name in dict.fromkeys([*after.caches, *before.caches]):
        was, now = before.caches.get(name), after.caches.get(name)
        if was == now:
            continue
        used = [0 if one is None else one[0] for one in (was, now)]
        slabs = [0 if one is None else one[2] for one in (was, now)]
        unknown = [0 if one is None else one[3] for one in (was, now)]
        # A cache of the same name may have been made anew, of another size.
        held = [0 if one is None else one[0] * one[1] for one in (was, now)]
        grown.append(
            CacheGrowth(
                name,
                None if was is None else was[0],
                None if now is None else now[0],
                used[1] - used[0],
                held[1] - held[0],
                slabs[1] - slabs[0],
                unknown[1] - unknown[0],
            )
        )
    return sorted(grown, key=lambda one: (-one.bytes, -one.slabs, one.cache))


def open_moment(path: str, symbols: List[str]) -> Moment:
    """
    Return what is compared of a file: a dump, a capture or a saved report.

    >>> moment = open_moment("vmcore.xz", [])
    >>> len(compare(moment, moment))
    0

    :param symbols: Files with debug info, for a dump.
    :param path: A dump, a capture, or what ``check --format json`` wrote.
    :raises ArgumentError: if *path* is no path.
    :raises TargetError: if it is none of these.
    """
    path = path_of("path", path)
    from .target import TargetOptions, nothing_judged, open_target

    try:
        with open(path, "rb") as file:
            is_report = file.read(1) == b"{"
        if is_report:
            with open(path, encoding="utf-8") as text:
                return _of_document(json.load(text), path)
    except OSError as error:
        raise TargetError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise TargetError(f"{path}: {error}") from None
    prog = open_target(TargetOptions(core=path, symbols=symbols))
    try:
        return moment(prog)
    except FaultError as error:
        told = nothing_judged(prog, error)
        # There are two of them.
        raise TargetError(told if told.startswith(path) else f"{path}: {told}") from error
