# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of a check: caches, findings, and how much was judged."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from ...arguments import named
from ...findings import UNKNOWN, CacheResult, Finding, Outcome, Report, Totals
from ...shapes import Kind, Value
from ...signals import spell_reason
from ..members import told
from ..values import plural, size
from . import Column, Fact, View


def cache_view(caches: Sequence[CacheResult]) -> View:
    """Return what is told of caches."""
    return View(
        Column("cache", "name"),
        Column("objsize", "object_size", less=4),
        Column("slabs", less=3),
        Column("objects"),
        Column("counted", less=2),
        Column("in use"),
        Column("free", cell=lambda cache: sum(cache.free.values())),
        Column("waiting", less=1),
        Column("unknown", less=1),
        Column("KFENCE", "guarded", when=any(cache.guarded for cache in caches), less=1),
        Column("outcome"),
        quiet="address size objects_per_slab pages fill places",
    )


# Numbers in a message that are no values.
_NAMED = re.compile(r"\b(?:CPU|node|object|slab) \S+")


def _unsaid(member: str) -> Callable[[Finding], Optional[str]]:
    # A value, unless the message has both, what was expected and what was found.
    def cell(finding: Finding) -> Optional[str]:
        values = {name: _value(finding, getattr(finding, name)) for name in ("expected", "found")}
        said = all(_says(finding.message, value) for value in values.values() if value)
        return None if said else values[member] or None

    return cell


def _value(finding: Finding, value: Value) -> str:
    # NULL by its name, as in messages.
    if finding.value_kind == "address" and isinstance(value, int):
        return named(value)
    return told(value, Kind.MIXED)


def _says(message: str, value: str) -> bool:
    among = _NAMED.sub("", message) if value.isdigit() else message
    return bool(re.search(rf"(?<![\w-]){re.escape(value)}(?![\w-])", among))


# The message names the place.
FINDING = View(
    Column("expected", cell=_unsaid("expected")),
    Column("found", cell=_unsaid("found")),
    Column("", "attempts", lambda f: f"read {f.attempts} times" if f.attempts > 1 else None),
    Column("accepted as", "accepted"),
    quiet="code rule message because cache node cpu slab page object index slot position place "
    "address ranges id details stretches seen confirmed signature value_kind value_unit word "
    "member state places previous next tracks clues",
)

TOTALS = View(
    Column("caches"),
    Column("slabs"),
    Column("objects"),
    Column("in use"),
    Column("free"),
    Column("waiting", cell=lambda sums: sums.waiting or None),
    Column("unknown", cell=lambda sums: sums.unknown or None),
    Column("KFENCE", "guarded", lambda sums: sums.guarded or None),
    Column("pages unreadable", "unreadable_pages", lambda sums: sums.unreadable_pages or None),
    quiet="pages slab_pages kfence_pages counted zero_filled_pages reads "
    "bytes_read peak_memory seconds",
)

TARGET = View(quiet="kind path release architecture")

LAYOUT = View(quiet="page_type allocator evidence")

REPORT = View(
    quiet="target layout totals caches findings notes changing unavailable interrupted stopped "
    "outcome exit_status readings refuted decided kernel looks_like "
    "accepted"
)


ACT = View(quiet="title report")

ROUND = View(quiet="number time report new still gone capture")


class Shelf(NamedTuple):
    """A list of findings in a report."""

    name: str
    """Of the member of the report."""
    word: str
    """For each of them."""
    title: str
    """For all of them."""

    def of(self, report: Report) -> List[Finding]:
        """Return what stands there."""
        found: List[Finding] = getattr(report, self.name)
        return found


SHELVES = (
    Shelf("findings", "finding", "Findings"),
    Shelf("accepted", "accepted", "Accepted"),
    Shelf("unavailable", "unavailable", "Not judged"),
    Shelf("changing", "changing", "Changing"),
    Shelf("notes", "note", "Notes"),
)
"""Every list of findings, the proven ones first."""


def concerned(caches: Sequence[CacheResult]) -> List[CacheResult]:
    """Return the caches of which there is something to say."""
    return [cache for cache in caches if cache.outcome is not Outcome.CONSISTENT]


def statement(finding: Finding) -> str:
    """Return a finding in one line, without its details."""
    text, more = f"{finding.message} [{finding.code}]", FINDING.sentence(finding)
    return f"{text}: {more}" if more else text


def lines(finding: Finding) -> List[str]:
    """Return all that is told of a finding."""
    return [statement(finding), *finding.details]


LIKENESS = View(quiet="name text findings")


def likenesses(report: Report) -> List[str]:
    """Return what findings look like, a line each."""
    told = []
    for one in report.looks_like or ():
        numbers = ", ".join(map(str, one.findings))
        which = f"finding{'s' if len(one.findings) > 1 else ''} {numbers}"
        more = LIKENESS.sentence(one)
        text = ": ".join(filter(None, (one.name, one.text, more)))
        told.append(f"{which}: {text}")
    return told


class Branch(NamedTuple):
    """A finding with what follows from it."""

    finding: Finding
    followers: List[Branch]


def branches(findings: Sequence[Finding]) -> List[Branch]:
    """Return the roots among findings, each with what follows from it."""
    known = {finding.id for finding in findings if finding.id}
    under: Dict[Optional[int], List[Finding]] = defaultdict(list)
    for finding in findings:
        under[finding.because if finding.because in known else None].append(finding)
    return [_branch(finding, under) for finding in under[None]]


def _branch(finding: Finding, under: Dict[Optional[int], List[Finding]]) -> Branch:
    # A finding without a number is nobody's root.
    followers = under.pop(finding.id, []) if finding.id else []
    return Branch(finding, [_branch(follower, under) for follower in followers])


def others(report: Report) -> Iterator[Fact]:
    """Return what no sentence about a report tells, its totals apart."""
    yield from TARGET.others(report.target)
    yield from LAYOUT.others(report.layout)
    yield from REPORT.others(report)


def own_word(report: Report) -> Iterator[Fact]:
    """Return what is told of the state that a kernel says it is in, its reports apart."""
    state = report.kernel
    if state is None:
        return
    if state.tainted:
        yield "tainted", ", ".join(state.tainted)
    if report.target.kind == "capture":
        return  # which has no log, and to begin with had no flags
    if state.tainted is None:
        yield "taint flags", "could not be read"
    if not state.log:
        yield "log", "could not be read"


def verdict(report: Report) -> str:
    """Return how the check came out, and how much it judged, in one line."""
    if report.layout.allocator == UNKNOWN:
        return f"{_outcome(report)}: {ending(report)} before anything was judged"
    kernel = " ".join(filter(None, ["Linux", report.target.release, report.target.architecture]))
    layout = f"{report.layout.allocator}, {report.layout.page_type}"
    return f"{_outcome(report)}: {kernel}, {layout}: {'; '.join(_coverage(report))}"


def _cost(totals: Totals) -> Iterator[str]:
    # Of the machine that was looked at, or that it ran on.
    if totals.reads:
        memory = totals.peak_memory
        more = "" if memory is None else f", {size(memory)} of memory taken"
        yield f"read {size(totals.bytes_read)} in {plural(totals.reads, 'read')}{more}"


def ending(report: Report) -> str:
    """Return why a check ended early; empty if it did not."""
    return spell_reason(report.stopped) if report.interrupted else ""


def _outcome(report: Report) -> str:
    outcome = report.outcome.value
    counts = []
    if report.findings:
        roots = sum(finding.because is None for finding in report.findings)
        counts.append(plural(roots, "finding"))
        if len(report.findings) > roots:
            counts.append(plural(len(report.findings) - roots, "consequence"))
    if report.accepted:
        accepted = sum(one.because is None for one in report.accepted)
        counts.append(f"{accepted} accepted" if counts else plural(accepted, "finding"))
    return f"{outcome} ({', '.join(counts)})" if counts else outcome


def _decided(report: Report) -> Iterator[str]:
    # Where that is not all of it, and of every target that moves.
    decided = report.decided
    shares = [(name, getattr(decided, name)) for name in ("caches", "slabs", "places")]
    known = [(name, one) for name, one in shares if one.of is not None]
    if known and (report.readings > 1 or any(one.decided < one.of for _, one in known)):
        told = ", ".join(f"{one.decided} of {one.of} {name}" for name, one in known)
        yield f"decided {told}"
    if report.readings > 1:
        yield f"read {report.readings} times, {plural(report.refuted, 'statement')} refuted"


def _coverage(report: Report) -> Iterator[str]:
    totals = report.totals
    judged = sum(cache.outcome is not Outcome.UNAVAILABLE for cache in report.caches)
    pages = sum(cache.pages for cache in report.caches)
    # How many there are is not known when it ended early.
    yield (
        f"{plural(judged, 'cache')} judged"
        if report.interrupted
        else f"{judged} of {plural(totals.caches, 'cache')} judged"
    )
    yield f"{plural(totals.slabs, 'slab')} in {plural(pages, 'page')}"
    waiting = f", {totals.waiting} waiting" if totals.waiting else ""
    unknown = f", {totals.unknown} unknown" if totals.unknown else ""
    objects = plural(totals.objects, "object")
    apart = f", {totals.guarded} more in KFENCE's pool" if totals.guarded else ""
    yield f"{objects}: {totals.in_use} in use, {totals.free} free{waiting}{unknown}{apart}"
    kfence = f" ({totals.kfence_pages} of them KFENCE's)" if totals.kfence_pages else ""
    if totals.unreadable_pages or totals.zero_filled_pages:
        yield (
            f"of {plural(totals.pages, 'page')} {totals.slab_pages} of slabs{kfence}, "
            f"{totals.unreadable_pages} unreadable, {totals.zero_filled_pages} zero-filled"
        )
    else:
        yield f"all {plural(totals.pages, 'page')} read, {totals.slab_pages} of slabs{kfence}"
    yield from _decided(report)
    more = (*TOTALS.others(totals), *others(report))
    yield from (f"{name} {text}" for name, text in more)
    yield from _cost(totals)
    if report.interrupted:
        yield ending(report)
