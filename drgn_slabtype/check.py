# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The check
---------

:func:`check` reads a whole kernel, judges it cache by cache and returns a
:class:`~drgn_slabtype.findings.Report`. It never stops at the first damage.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Set, Tuple

import numpy as np
from drgn import Object, Program
from drgn.helpers.common.format import escape_ascii_string

from .answers.counts import count_objects
from .answers.diagnose import explain
from .answers.lookup import Lookup
from .blanks import hide_blanks
from .confirm import Groups, confirm
from .errors import CorruptionError, TargetError
from .findings import (
    CATALOGUE,
    CacheResult,
    Finding,
    LayoutSummary,
    Outcome,
    Report,
    Target,
    Totals,
)
from .machine import Machine, machine
from .machine.witness import witnesses
from .pages.exported import Missed, missed_by_equality
from .pages.scan import Progress, require_64_bit
from .pagetype.detect import PageTypeLayout
from .reading import Reading, Scope
from .rules.blame import join, renumber
from .rules.excuses import settle
from .strays import judge_machine


def check(
    prog: Program,
    *,
    caches: Sequence[str] = (),
    addresses: Sequence[int] = (),
    progress: Optional[Progress] = None,
) -> Report:
    """
    Check the slab allocator of a kernel.

    :param caches: Names of the caches to judge; all if empty.
    :param addresses: Addresses of slabs (``struct slab *``) or objects: only
        these slabs are judged, with the places of their caches that could hold
        their objects. Where anything speaks against one, it is judged with its
        whole cache.
    :param progress: Called as work goes on.
    :raises LayoutError: if the kernel's layout is not understood.
    :raises TargetError: if a cache or address is not known.
    :raises UnsupportedError: if the kernel is a 32-bit one.
    :raises FaultError: if what all else hangs on is not in the target.
    """
    kernel = machine(prog)
    require_64_bit(kernel)
    report, whole = _check(kernel, caches, addresses, progress)
    if whole is None or not report.findings or report.interrupted or not kernel.is_dump:
        return report
    # What is said may rest on pages that the dumper left as zeroes.
    blank = hide_blanks(whole, report.findings)
    if not blank:
        return report
    kernel.forget()
    again, _ = _check(kernel, caches, addresses, progress)
    again.totals.zero_filled_pages += blank
    return again


def _check(
    kernel: Machine,
    caches: Sequence[str],
    addresses: Sequence[int],
    progress: Optional[Progress],
) -> Tuple[Report, Optional[Reading]]:
    # With the reading of the whole machine, if there was one.
    layout = kernel.layout
    report = Report(_target(kernel), LayoutSummary(layout.encoding.name, layout.allocator))
    report.layout.evidence = layout.evidence
    seen = Lookup(kernel, progress=progress)
    groups: Groups = []
    whole: Optional[Reading] = None
    try:
        if not _judge_some(report, kernel, _scopes(seen, caches, addresses), progress):
            whole = seen.whole
            _judge(report, whole, _wanted(seen, caches, addresses), groups, progress)
            if not caches and not addresses:
                groups += filter(None, [judge_machine(seen.whole)])
            if kernel.is_live and groups:
                groups, changing = confirm(seen.whole, groups)
                report.changing += changing
            # First of all: others follow from it. No judging again would tell it.
            groups[:0] = filter(None, [list(kernel.damage)])
    except KeyboardInterrupt:
        report.interrupted = True
    found = renumber(join(groups))
    _file(report, settle(found, layout.allocator, lambda work: witnesses(kernel).of(work)))
    if report.findings and not report.interrupted:
        # What moves is explained as it is now.
        report.findings = explain(Lookup(kernel) if kernel.is_live else seen, report.findings)
    _settle_outcomes(report)
    scan = None if whole is None else whole.scan
    _notes(report, layout, None if scan is None else missed_by_equality(kernel, scan))
    return report, whole


def validate_slab_cache(slab_cache: Object) -> None:
    """
    Check one slab cache, and complain about the first damage.

    :param slab_cache: ``struct kmem_cache *``
    :raises CorruptionError: if anything in it is inconsistent.
    :raises TargetError: if there is no such cache.
    """
    name = escape_ascii_string(slab_cache.name.string_(), escape_backslash=True)
    for finding in check(slab_cache.prog_, caches=[name]).findings:
        raise CorruptionError(finding)


def _target(machine: Machine) -> Target:
    kind = "live" if machine.is_live else "core"
    release = escape_ascii_string(machine.prog["UTS_RELEASE"].string_(), escape_backslash=True)
    assert machine.prog.platform is not None
    return Target(kind, None, release, machine.prog.platform.arch.name)


def _scopes(seen: Lookup, names: Sequence[str], addresses: Sequence[int]) -> List[Scope]:
    # What to read for an answer about some caches or slabs alone; nothing if
    # that is the whole machine.
    if names and addresses:
        return []
    if names:
        known = seen.listed
        numbers = [number for number, name in enumerate(known.names) if name in names]
        if set(names) - {known.names[number] for number in numbers}:
            return []
        return [Scope(caches=tuple(known.addresses[numbers].tolist()))]
    slabs = [seen.at(address) or seen.of_page(address) for address in addresses]
    if not all(slab is not None and slab.is_alone for slab in slabs):
        return []
    return [Scope(slab=page) for page in dict.fromkeys(slab.page for slab in slabs if slab)]


def _judge_some(
    report: Report, machine: Machine, scopes: Sequence[Scope], progress: Optional[Progress]
) -> bool:
    # By readings of less than the machine; leaves the report alone and returns
    # False where that cannot settle it, or there is none.
    if not scopes or machine.damage:
        return False
    results: List[CacheResult] = []
    notes: List[Finding] = []
    totals = Totals()
    for scope in scopes:
        reading = Reading(machine, scope, progress)
        for number in np.flatnonzero(reading.allocator.caches.chosen).tolist():
            ledger, findings = reading.judge(number)
            if reading.doubts(ledger, findings):
                return False
            notes += findings
            results.append(count_objects(ledger))
        _count_pages(totals, reading)
    report.caches, report.totals = results, totals
    report.notes += notes
    return True


def _judge(
    report: Report,
    reading: Reading,
    numbers: Sequence[int],
    groups: Groups,
    progress: Optional[Progress],
) -> None:
    # Adds some caches to a report, and what is wrong with each to the groups.
    _count_pages(report.totals, reading)
    for done, number in enumerate(numbers):
        if progress:
            progress("caches", done, len(numbers))
        ledger, findings = reading.judge(number)
        report.caches.append(count_objects(ledger))
        if findings:
            groups.append(findings)


def _count_pages(totals: Totals, reading: Reading) -> None:
    index, source = reading.index, reading.machine.memory
    marked = int(index.spans[index.marked].sum()) // source.page_size
    totals.slab_pages += marked
    totals.pages += marked if reading.scan is None else reading.scan.pages
    totals.unreadable_pages += 0 if reading.scan is None else reading.scan.unreadable
    totals.zero_filled_pages = source.zero_filled_pages


def _wanted(seen: Lookup, names: Sequence[str], addresses: Sequence[int]) -> List[int]:
    known = seen.caches.names
    if not names and not addresses:
        return list(range(len(known)))
    wanted: Set[int] = set()
    for name in names:
        numbers = [number for number, found in enumerate(known) if found == name]
        if not numbers:
            raise TargetError(f"there is no slab cache named {name}")
        wanted.update(numbers)
    for address in addresses:
        slab = seen.widely_at(address) or seen.widely(address)
        if slab is None or slab.number < 0:
            raise TargetError(f"0x{address:x} is neither a slab nor an address inside one")
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


def _file(report: Report, findings: List[Finding]) -> None:
    shelves = {"note": report.notes, "unavailable": report.unavailable}
    for finding in findings:
        rule = CATALOGUE[finding.code].rule
        # What is missing does not come back by waiting.
        if finding.moving and rule != "unavailable":
            report.changing.append(finding)
            continue
        shelves.get(rule, report.findings).append(finding)
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


def _notes(report: Report, layout: PageTypeLayout, missed: Optional[Missed]) -> None:
    notes = [*layout.notes, *([str(missed)] if missed else [])]
    report.notes += [Finding("dump-tools-misread", note) for note in notes]
