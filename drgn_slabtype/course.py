# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The course of a check
---------------------

A kernel is judged cache by cache, then as a whole; what moves is confirmed, what
is excused meets its witnesses, what is left is explained. It can be stopped at
any moment.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from functools import partial
from typing import Counter, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from drgn import FaultError, ProgramFlags
from drgn.helpers.common.format import escape_ascii_string

from . import reading as guards
from .answers.counts import count_objects
from .answers.culprit import locate
from .answers.diagnose import explain
from .answers.extent import Together, in_one_piece
from .answers.guarded import guarded_counts
from .answers.kernellog import as_note, kernel_state
from .answers.lookup import Lookup
from .answers.names import known_as
from .answers.proven import proven, shelf
from .answers.signs import signed
from .arguments import CacheName, named, platform_of
from .confirm import Evidence
from .copies import copies
from .distinct import distinct
from .errors import ArgumentError, SlabTypeError
from .findings import (
    CacheResult,
    Finding,
    KernelState,
    LayoutSummary,
    Outcome,
    Report,
    Share,
    Target,
    Totals,
)
from .footprint import Peak, grown
from .index import KnownBy
from .ledger import Ledger
from .machine import Machine
from .machine.gone import boot, confirm_boot, gone
from .machine.page import page_of
from .machine.reads import Spent
from .machine.shuffled import SAID, is_shuffled
from .pages.exported import Missed, misread, missed_by_equality
from .pages.scan import PageScan, Progress, require_64_bit
from .pagetype.detect import PageTypeLayout
from .reading import Reading, Scope
from .rules.blame import join, renumber, undecided
from .rules.oneroot import one_root
from .signals import reason_of
from .strays import judge_machine, judge_pages_of
from .workers import spread, worth_while

_MOST_ORDER = 14  # more than any page has
_MANY_SLABS = 1 << 14  # of which a check takes longer than processes do to begin


class Course:
    """
    What a check has so far.

    Each step leaves what it came to in one piece, so that a report can be made at
    any moment, and without reading anything.

    :param jobs: How many processes judge caches beside this one, of a target that does
        not move; none if fewer than 2. ``None``: as many as are worth while.
    """

    def __init__(self, kernel: Machine, jobs: Optional[int] = 1) -> None:
        self.kernel = kernel
        self._jobs = jobs
        self._peak, self._began = Peak(), time.monotonic()
        self._before = kernel.spent
        self._target = _target(kernel)
        self._layout: Optional[PageTypeLayout] = None
        self._totals = Totals()
        self._judged: List[_Judged] = []
        self._wanted: Optional[int] = None  # how many caches, if that is known
        self._evidence: Optional[Evidence] = None
        self._readings = self._refuted = 0
        self._known: Optional[_Confirmed] = None
        self._confirmed: Optional[_Confirmed] = None
        self._settled: Optional[List[Finding]] = None
        self._explained: Optional[List[Finding]] = None
        self._kernel: Optional[KernelState] = None
        self._shuffled = False
        self._missed: Optional[Missed] = None
        self._stopped: Optional[str] = None
        self._why: Optional[str] = None
        self._lost: Optional[Finding] = None
        self._guarded: Counter[int] = Counter()
        self.whole: Optional[Reading] = None
        """The reading of the whole machine, if there was one."""

    def finish(
        self,
        caches: Sequence[CacheName],
        addresses: Sequence[int],
        progress: Optional[Progress],
        evidence: Optional[Evidence],
    ) -> Report:
        """Return the report: of the whole, or of as much as there is when it is stopped."""
        try:
            self._run(caches, addresses, progress, evidence)
            return self.report()
        except KeyboardInterrupt as stop:
            self._stop(reason_of(stop))
        except Exception as error:
            why = gone(self.kernel, error)
            if why is not None:
                self._stop("target", why)
            elif isinstance(error, guards.CAUGHT) and not _is_told(error):
                # Not in one cache, but in what all of them hang on.
                self._lost = guards.not_read("the machine", error)
            else:
                raise
        return self.report()

    def _run(
        self,
        caches: Sequence[CacheName],
        addresses: Sequence[int],
        progress: Optional[Progress],
        evidence: Optional[Evidence],
    ) -> None:
        kernel = self.kernel
        require_64_bit(kernel)
        self._layout = kernel.layout
        kernel.fact(boot)  # to be compared with
        self._shuffled = is_shuffled(kernel)
        seen = Lookup(kernel, progress=progress)
        scan: Optional[PageScan] = None
        with kernel.moment():
            some = _judge_some(kernel, _scopes(seen, caches, addresses), progress)
        if some is not None:
            self._judged, self._totals = some
            self._wanted = len(self._judged)
            self._confirmed = _Confirmed(_told(self._judged), [])
        else:
            self.whole = seen.whole
            scan = self.whole.scan
            if kernel.is_live:
                self._follow(Evidence() if evidence is None else evidence)
            self._judge(seen, caches, addresses, progress)
            confirmed = self._confirm(progress)
            # First of all: others follow from it. No judging again would tell it.
            damage = list(kernel.damage)
            groups = [damage, *confirmed.groups] if damage else confirmed.groups
            self._confirmed = _Confirmed(groups, confirmed.changing)
        self._guarded = guarded_counts(kernel)
        results = [judged.result for judged in self._judged if judged.result]
        all_of_them = not caches and not addresses
        settled = proven(kernel, self._confirmed.groups, results, all_of_them)
        settled = [locate(kernel, finding) for finding in settled]
        self._settled = settled = _one_root(kernel, self.whole, settled)
        # What moves is explained as it is now.
        findings = [finding for finding in settled if shelf(finding) == "findings"]
        asked = Lookup(kernel) if kernel.is_live else seen
        with kernel.moment():
            self._explained = signed(asked, explain(asked, findings))
        if not caches and not addresses:
            self._kernel = kernel_state(kernel, findings)
        self._missed = None if scan is None else missed_by_equality(kernel, scan)

    def _judge(
        self,
        seen: Lookup,
        caches: Sequence[CacheName],
        addresses: Sequence[int],
        progress: Optional[Progress],
    ) -> None:
        # Cache by cache, and what is wrong with the machine after them.
        self._totals = _count_pages([seen.whole])
        numbers = _wanted(seen, caches, addresses)
        self._wanted = len(numbers)
        for done, judged in enumerate(_judge_each(seen.whole, numbers, self._jobs, self._peak)):
            if progress:
                progress("caches", done, len(numbers))
            if judged.findings:
                confirm_boot(self.kernel)
            self._judged.append(judged)
        some = caches or addresses
        found = judge_pages_of(seen.whole, numbers) if some else judge_machine(seen.whole)
        confirm_boot(self.kernel)
        self._judged.append(_Judged(None, 0, found))

    def _follow(self, evidence: Evidence) -> None:
        self._readings, self._refuted = evidence.readings, evidence.refuted
        self._evidence = evidence

    def _confirm(self, progress: Optional[Progress]) -> _Confirmed:
        if self._evidence is None:
            return _Confirmed(_told(self._judged), [])
        self._begin(self._evidence)
        self._evidence.settle(self.kernel, progress)
        confirm_boot(self.kernel)
        return _Confirmed(*self._evidence.settled())

    def _begin(self, evidence: Evidence) -> None:
        # Once in a check, with what was judged by then.
        evidence.begin([(judged.unit, judged.findings) for judged in self._judged])
        # What other checks have proven: that counts if the target goes away now.
        self._known = _Confirmed(*evidence.settled())

    def _stop(self, reason: str, why: Optional[str] = None) -> None:
        self._stopped, self._why = reason, why

    def report(self) -> Report:
        """Return what there is so far; without reading anything."""
        layout = self._layout
        summary = LayoutSummary()
        if layout is not None:
            summary = LayoutSummary(layout.encoding.name, layout.allocator, layout.evidence)
        # Fresh copies: a report may be made twice.
        results = list(_results(self._judged, self._guarded))
        report = Report(self._target, summary, replace(self._totals), results)
        groups, changing = self._so_far()
        report.changing += changing
        for finding in renumber(join(groups)) if self._settled is None else self._settled:
            getattr(report, shelf(finding)).append(finding)
        if self._explained is not None:
            report.findings = list(self._explained)
        if self._stopped is not None:
            report.stop(self._stopped)
        if self._why is not None:
            report.unavailable.insert(0, Finding("target-gone", self._why))
        if self._lost is not None:
            report.unavailable.insert(0, self._lost)
        if self._evidence is not None:
            report.readings = self._evidence.readings - self._readings
            report.refuted = self._evidence.refuted - self._refuted
        _settle_outcomes(report)
        _add_up(report)
        _decide(report, self._wanted, self._confirmed is not None)
        report.kernel = self._kernel
        if self._kernel is not None:
            report.notes += as_note(self._kernel, report.findings)
        if self._shuffled:
            report.notes.append(Finding("structures-shuffled", SAID))
        notes = () if layout is None else misread(layout, self._missed)
        report.notes += [Finding("dump-tools-misread", note) for note in notes]
        spent = self.kernel.spent.since(self._before)
        report.totals.reads, report.totals.bytes_read = spent
        report.totals.peak_memory = self._peak.bytes
        report.totals.seconds = round(time.monotonic() - self._began, 3)
        return report

    def _so_far(self) -> _Confirmed:
        if self._confirmed is not None:
            return self._confirmed
        if self._evidence is None:
            return _Confirmed(_told(self._judged), [])
        if self._known is None:
            self._begin(self._evidence)
        if self._stopped == "target" and self._known is not None:
            return self._known
        return _Confirmed(*self._evidence.settled())


class _Judged(NamedTuple):
    # A cache, or the machine, and what seems to be wrong with it.
    result: Optional[CacheResult]
    unit: int
    findings: List[Finding]


class _Confirmed(NamedTuple):
    # What is proven, and of a target that moves what is still open.
    groups: List[List[Finding]]
    changing: List[Finding]


def _judge_cache(reading: Reading, number: int) -> Tuple[Ledger, _Judged]:
    began = time.monotonic()
    ledger, findings = reading.judge(number)
    result = count_objects(ledger)
    result.seconds = time.monotonic() - began
    return ledger, _Judged(result, ledger.facts.address, findings)


def _judge_each(
    reading: Reading, numbers: Sequence[int], jobs: Optional[int], peak: Peak
) -> Iterator[_Judged]:
    # In processes of their own, all but the first: with that is found what all need.
    here, memory = os.getpid(), reading.machine.memory
    jobs = worth_while(jobs, _moves(reading.machine), len(reading.index) >= _MANY_SLABS)

    def work(number: int) -> Tuple[int, _Judged, Spent, int]:
        process, before = os.getpid(), memory.spent
        if process == here:
            return here, _judge_cache(reading, number)[1], Spent(0, 0), 0
        grown()
        judged = _judge_cache(reading, number)[1]
        return process, judged, memory.spent.since(before), grown()

    slabs = np.bincount(
        reading.allocator.ownership.cache + 1, minlength=max(numbers, default=0) + 2
    )
    for share in reading.read_ahead(numbers, jobs):
        weights = [int(slabs[number + 1]) for number in share]
        first = 1 if jobs > 1 else len(share)
        yield from (work(number)[1] for number in share[:first])
        for process, judged, spent, size in spread(work, share[first:], jobs, weights[first:]):
            memory.count(spent)
            peak.add(process, size)
            yield judged


def _results(judged: Sequence[_Judged], guarded: Counter[int]) -> Iterator[CacheResult]:
    # Copies, with what KFENCE's pool has of each cache.
    for one in judged:
        if one.result:
            yield replace(one.result, guarded=guarded[one.result.address])


def _one_root(kernel: Machine, whole: Optional[Reading], found: List[Finding]) -> List[Finding]:
    # What one write explains has one root.
    if not found:
        return found
    lost: List[range] = []
    broken = None if whole is None else whole.allocator.caches.lost
    if whole is not None and broken is not None and broken.readable:
        layout = kernel.structure("struct kmem_cache")
        strays = whole.index["slab_cache"][whole.allocator.ownership.cache < 0]
        starts = [broken.found - layout.offset("list"), *distinct(strays).tolist()]
        lost = [range(start, start + layout.size) for start in starts]
    wrong = [one for one in found if shelf(one) == "findings"]
    copied = copies(whole, wrong) if wrong and whole is not None else []
    pages = partial(page_of, kernel)
    near = Together() if _moves(kernel) else in_one_piece(kernel, wrong)
    told = one_root(found, pages, kernel.page.size, lost, copied, near.pieces, near.inside)
    return undecided(renumber([told]))


def _told(judged: Sequence[_Judged]) -> List[List[Finding]]:
    return [one.findings for one in judged if one.findings]


def _is_told(error: Exception) -> bool:
    # What says by itself why nothing can be judged; drgn's own errors of what is
    # not there are LookupErrors, and those of Python of kinds of them.
    told = isinstance(error, (OSError, SlabTypeError, FaultError))
    return told or type(error) is LookupError


def _moves(kernel: Machine) -> bool:
    return bool(kernel.prog.flags & ProgramFlags.IS_LIVE)


def _target(machine: Machine) -> Target:
    kind = "live" if _moves(machine) else "core"
    platform = platform_of(machine.prog)
    release = escape_ascii_string(machine.prog["UTS_RELEASE"].string_(), escape_backslash=True)
    return Target(kind, None, release, platform.arch.name.lower())


def _scopes(seen: Lookup, names: Sequence[CacheName], addresses: Sequence[int]) -> List[Scope]:
    # What to read for an answer about some caches or slabs alone; nothing if
    # that is the whole machine.
    if names and addresses:
        return []
    if names:
        known = seen.listed
        try:
            numbers = sorted({number for name in names for number in seen.among(known, name)})
        except ArgumentError:
            return []
        return [Scope(caches=tuple(known.addresses[numbers].tolist()))]
    slabs = [seen.at(address) or seen.of_page(address) for address in addresses]
    if not all(slab is not None and slab.is_alone for slab in slabs):
        return []
    return [Scope(slab=page) for page in dict.fromkeys(slab.page for slab in slabs if slab)]


def _judge_some(
    machine: Machine, scopes: Sequence[Scope], progress: Optional[Progress]
) -> Optional[Tuple[List[_Judged], Totals]]:
    # By readings of less than the machine; None where that cannot settle it, or
    # there is none.
    if not scopes or machine.damage:
        return None
    judged: List[_Judged] = []
    readings: List[Reading] = []
    for scope in scopes:
        reading = Reading(machine, scope, progress)
        if reading.lost:
            return None
        numbers = np.flatnonzero(reading.allocator.caches.chosen).tolist()
        if reading.scan is not None and judge_pages_of(reading, numbers):
            return None
        for number in numbers:
            ledger, one = _judge_cache(reading, number)
            if reading.doubts(ledger, one.findings):
                return None
            judged.append(one)
        readings.append(reading)
    return judged, _count_pages(readings)


def _count_pages(readings: Sequence[Reading]) -> Totals:
    totals = Totals()
    for reading in readings:
        index, source = reading.index, reading.machine.memory
        spans = index.spans[index.marked] >> np.uint64(source.page_shift)
        # What damage has made a page larger than any is one page.
        marked = int(np.where(spans >> np.uint64(_MOST_ORDER), 1, spans).sum())
        totals.slab_pages += marked
        kfence = (index.known_by & np.uint8(KnownBy.KFENCE)) != 0
        totals.kfence_pages += int((index.marked & kfence).sum())
        totals.pages += marked if reading.scan is None else reading.scan.pages
        totals.unreadable_pages += 0 if reading.scan is None else reading.scan.unreadable
        totals.zero_filled_pages = source.zero_filled_pages
    return totals


def _wanted(seen: Lookup, names: Sequence[CacheName], addresses: Sequence[int]) -> List[int]:
    known = seen.caches.names
    if not names and not addresses:
        return list(range(len(known)))
    wanted: Set[int] = set()
    for name in names:
        wanted.update(seen.numbers(name))
    for address in addresses:
        slab = seen.widely_at(address) or seen.widely(address)
        if slab is None or slab.number < 0:
            meant = known_as(seen.machine, address)
            raise ArgumentError(
                f"{named(address)} is neither a slab nor an address inside one{meant}"
            )
        wanted.add(slab.number)
    return sorted(wanted)


def _settle_outcomes(report: Report) -> None:
    # Once it is known what stayed wrong.
    shelves = (
        (Outcome.UNAVAILABLE, report.unavailable),
        (Outcome.CHANGING, report.changing),
        (Outcome.INCONSISTENT, report.findings),
    )
    for outcome, findings in shelves:
        names = {finding.cache for finding in findings}
        for result in report.caches:
            if result.name in names:
                result.outcome = outcome


def _decide(report: Report, wanted: Optional[int], whole: bool) -> None:
    # What share of everything is decided: nothing is left open about it. Of how many is not
    # known before all are judged.
    left = [*report.changing, *report.unavailable]
    names = {finding.cache for finding in left}
    slabs = {finding.slab for finding in left if finding.slab is not None}
    # What is not of one cache is no place, but a variable or a section.
    places = {
        (one.cache, one.place, one.node, one.cpu, one.address)
        for one in left
        if one.slab is None and one.place and one.cache is not None
    }
    totals, decided = report.totals, report.decided
    of_caches = sum(result.name not in names for result in report.caches)
    decided.caches = Share(of_caches, wanted)
    decided.slabs = Share(max(totals.slabs - len(slabs), 0), totals.slabs if whole else None)
    # Where a structure is not in the target, it is not known what places are in it.
    lost = {
        (one.cache, one.message)
        for one in report.unavailable
        if one.slab is None and one.place is None and one.cache is not None
    }
    of_places = sum(result.places for result in report.caches) + len(lost)
    of_decided = max(of_places - len(places) - len(lost), 0)
    decided.places = Share(of_decided, of_places if whole else None)


def _add_up(report: Report) -> None:
    totals = report.totals
    totals.caches = len(report.caches)
    for result in report.caches:
        totals.slabs += result.slabs
        totals.objects += result.objects
        totals.counted += result.counted
        totals.in_use += result.in_use
        totals.free += sum(result.free.values())
        totals.waiting += result.waiting
        totals.unknown += result.unknown
        totals.guarded += result.guarded
