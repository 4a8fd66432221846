# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The check
---------

:func:`check` reads a whole kernel, judges it cache by cache and returns a
:class:`~drgn_slabtype.findings.Report`. It never stops at the first damage.
"""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Set

import numpy as np
from drgn import Object, Program
from drgn.helpers.common.format import escape_ascii_string

from .answers.counts import count_objects
from .answers.diagnose import explain
from .answers.lookup import Lookup
from .confirm import confirm
from .errors import CorruptionError, TargetError
from .findings import (
    CATALOGUE,
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
from .rules.blame import join, renumber
from .rules.excuses import settle
from .snapshot import Snapshot


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
    :param addresses: Addresses of slabs (``struct slab *``) or objects; only
        the caches they belong to are judged.
    :param progress: Called as work goes on.
    :raises LayoutError: if the kernel's layout is not understood.
    :raises TargetError: if a cache or address is not known.
    :raises UnsupportedError: if the kernel is a 32-bit one.
    """
    require_64_bit(machine(prog))
    layout = machine(prog).layout
    report = Report(_target(machine(prog)), LayoutSummary(layout.encoding.name, layout.allocator))
    report.layout.evidence = layout.evidence
    groups: List[List[Finding]] = []
    snapshot: Optional[Snapshot] = None
    try:
        snapshot = Snapshot(machine(prog), progress)
        _total_pages(report, snapshot)
        wanted = _wanted(snapshot, caches, addresses)
        suspicious: Dict[int, List[Finding]] = {}
        for done, number in enumerate(wanted):
            if progress:
                progress("caches", done, len(wanted))
            ledger, findings = snapshot.judge(number)
            report.caches.append(count_objects(ledger))
            if findings:
                suspicious[number] = findings
        strays = [] if caches or addresses else snapshot.judge_machine()
        groups = list(suspicious.values())
        if strays:
            groups.append(strays)
        if machine(prog).memory.is_live and groups:
            groups, changing = confirm(machine(prog), snapshot, groups)
            report.changing += changing
    except KeyboardInterrupt:
        report.interrupted = True
    findings = renumber(join(groups))
    _file(
        report, settle(findings, layout.allocator, lambda work: witnesses(machine(prog)).of(work))
    )
    if snapshot is not None and report.findings and not report.interrupted:
        seen = Snapshot(machine(prog)) if machine(prog).memory.is_live else snapshot
        report.findings = explain(Lookup(machine(prog), seen), report.findings)
    _settle_outcomes(report)
    _notes(report, layout, missed_by_equality(machine(prog), snapshot.scan) if snapshot else None)
    return report


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
    kind = "live" if machine.memory.is_live else "core"
    release = escape_ascii_string(machine.prog["UTS_RELEASE"].string_(), escape_backslash=True)
    assert machine.prog.platform is not None
    return Target(kind, None, release, machine.prog.platform.arch.name)


def _total_pages(report: Report, snapshot: Snapshot) -> None:
    index = snapshot.index
    bytes_marked = int(index.spans[index.marked].sum())
    report.totals = Totals(
        pages=snapshot.scan.pages,
        slab_pages=bytes_marked // index.machine.memory.page_size,
        unreadable_pages=snapshot.scan.unreadable,
        zero_filled_pages=index.machine.memory.zero_filled_pages,
    )


def _wanted(snapshot: Snapshot, names: Sequence[str], addresses: Sequence[int]) -> List[int]:
    known = snapshot.allocator.caches.names
    if not names and not addresses:
        return list(range(len(known)))
    wanted: Set[int] = set()
    for name in names:
        numbers = [number for number, found in enumerate(known) if found == name]
        if not numbers:
            raise TargetError(f"there is no slab cache named {name}")
        wanted.update(numbers)
    for address in addresses:
        one = np.array([address], np.uint64)
        rows = [*snapshot.index.rows_of_pages(one), *snapshot.index.rows_of_addresses(one)]
        owners = {int(snapshot.allocator.ownership.cache[row]) for row in rows if row >= 0}
        if not owners - {-1}:
            raise TargetError(f"0x{address:x} is neither a slab nor an address inside one")
        wanted |= owners - {-1}
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
        if finding.moving:
            report.changing.append(finding)
            continue
        shelves.get(CATALOGUE[finding.code].rule, report.findings).append(finding)
    totals = report.totals
    totals.caches = len(report.caches)
    for result in report.caches:
        totals.slabs += result.slabs
        totals.objects += result.objects
        totals.counted += result.counted
        totals.in_use += result.in_use
        totals.free += sum(result.free.values())
        totals.waiting += result.waiting


def _notes(report: Report, layout: PageTypeLayout, missed: Optional[Missed]) -> None:
    notes = [*layout.notes, *([str(missed)] if missed else [])]
    report.notes += [Finding("dump-tools-misread", note) for note in notes]
