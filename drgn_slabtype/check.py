# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The check
---------

:func:`check` reads a whole kernel, judges it cache by cache and returns a
:class:`~drgn_slabtype.findings.Report`. It never stops at the first damage.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

import numpy as np
from drgn import Program
from drgn.helpers.common.format import escape_ascii_string

from .allocators import open_allocator
from .errors import TargetError
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
from .index import KnownBy, SlabIndex
from .ledger import Ledger, State
from .memory import memory
from .pages.scan import PageScan, Progress, scan
from .pagetype.detect import PageTypeLayout, page_type_layout
from .rules import judge
from .rules.blame import renumber

# Pauses before a moving target is read again, in seconds.
_PAUSES = (0.0, 0.01, 0.05, 0.2)


class Snapshot:
    """
    One reading of the machine: memory map, slab index, lists and CPUs.

    :param prog: A Linux kernel program.
    """

    def __init__(self, prog: Program, progress: Optional[Progress] = None) -> None:
        self.layout: PageTypeLayout = page_type_layout(prog)
        self.scan: PageScan = scan(prog, progress)
        self.index = SlabIndex(prog, self.scan.heads)
        self.allocator = open_allocator(prog)
        self.allocator.discover(self.index)

    def judge(self, number: int) -> Tuple[Ledger, List[Finding]]:
        """
        Read and judge one cache.

        :param number: Position in ``self.allocator.caches``.
        """
        ledger = self.allocator.collect(number, self.index)
        return ledger, judge(ledger, self.layout.encoding)

    def judge_strays(self) -> List[Finding]:
        """Return the pages marked as slab that belong to no cache."""
        index = self.index
        owner = self.allocator.ownership.cache
        stray = (owner < 0) & ((index.known_by & np.uint8(KnownBy.KFENCE)) == 0)
        pages, words, pointers = index.pages, index.words, index["slab_cache"]
        found = [
            Finding(
                "slab-mark-stray",
                f"page 0x{pages[row]:x} is marked as slab, but its cache pointer "
                f"0x{pointers[row]:x} leads to no slab cache",
                node=int(index.nids[row]),
                slab=int(pages[row]),
                found=f"0x{words[row]:08x}",
                id=number,
            )
            for number, row in enumerate(np.flatnonzero(stray).tolist(), 1)
        ]
        known = {finding.slab for finding in found} | set(pages.tolist())
        for pfn, word in self.scan.conflicts:
            page = int(memory_map_address(index, pfn))
            if page not in known:
                found.append(
                    Finding(
                        "type-conflict",
                        f"page 0x{page:x} (PFN {pfn}): page_type word 0x{word:08x}: "
                        f"{self.layout.encoding.explain(word)}",
                        page=page,
                        found=f"0x{word:08x}",
                        id=len(found) + 1,
                    )
                )
        return found


def memory_map_address(index: SlabIndex, pfn: int) -> int:
    """Return the ``struct page *`` of a page frame."""
    return index.vmemmap + pfn * index.page_bytes


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
    """
    layout = page_type_layout(prog)
    report = Report(_target(prog), LayoutSummary(layout.encoding.name, layout.allocator))
    report.layout.evidence = layout.evidence
    groups: List[List[Finding]] = []
    try:
        snapshot = Snapshot(prog, progress)
        _total_pages(report, snapshot)
        wanted = _wanted(snapshot, caches, addresses)
        suspicious: Dict[int, List[Finding]] = {}
        for done, number in enumerate(wanted):
            if progress:
                progress("caches", done, len(wanted))
            ledger, findings = snapshot.judge(number)
            report.caches.append(_result(ledger, findings))
            if findings:
                suspicious[number] = findings
        strays = [] if caches or addresses else snapshot.judge_strays()
        if memory(prog).is_live and (suspicious or strays):
            suspicious, strays = _confirm(prog, suspicious, strays, report)
        groups = [*suspicious.values(), strays]
    except KeyboardInterrupt:
        report.interrupted = True
    _file(report, renumber(groups))
    _notes(report, layout)
    return report


def _target(prog: Program) -> Target:
    kind = "live" if memory(prog).is_live else "core"
    release = escape_ascii_string(prog["UTS_RELEASE"].string_(), escape_backslash=True)
    assert prog.platform is not None
    return Target(kind, None, release, prog.platform.arch.name)


def _total_pages(report: Report, snapshot: Snapshot) -> None:
    marked = snapshot.index.orders[snapshot.index.marked].astype(np.int64)
    report.totals = Totals(
        pages=snapshot.scan.pages,
        slab_pages=int((1 << marked).sum()),
        unreadable_pages=snapshot.scan.unreadable,
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


def _result(ledger: Ledger, findings: Iterable[Finding]) -> CacheResult:
    facts, slabs, claims = ledger.facts, ledger.slabs, ledger.claims
    result = CacheResult(
        facts.name, facts.address, facts.object_size, facts.stride, facts.objects_per_slab
    )
    result.slabs = len(slabs)
    result.pages = int((1 << slabs.order).sum())
    result.objects = int(slabs.objects.sum())
    result.counted = int(slabs.counted.sum())
    result.in_use = result.counted
    for number, place in enumerate(ledger.places):
        here = claims.place == number
        free = int((here & (claims.state == State.FREE)).sum())
        waiting = int((here & (claims.state == State.WAITING)).sum())
        if free or not place.counted:
            result.free[place.name] = free
        result.waiting += waiting
        if place.counted:
            result.in_use -= free + waiting
    result.outcome = _outcome(findings)
    return result


def _outcome(findings: Iterable[Finding]) -> Outcome:
    findings = list(findings)
    rules = {finding.rule for finding in findings if not finding.moving}
    if rules - {"note", "unavailable"}:
        return Outcome.INCONSISTENT
    if any(finding.moving for finding in findings):
        return Outcome.CHANGING
    return Outcome.UNAVAILABLE if "unavailable" in rules else Outcome.CONSISTENT


def _confirm(
    prog: Program,
    suspicious: Dict[int, List[Finding]],
    strays: List[Finding],
    report: Report,
) -> Tuple[Dict[int, List[Finding]], List[Finding]]:
    # What a moving target showed is true only if it stays, unchanged, through
    # several readings. What goes away was work in progress.
    address = {result.address: result for result in report.caches}
    names = {n: findings[0].cache for n, findings in suspicious.items()}
    for attempt, pause in enumerate(_PAUSES, 2):
        time.sleep(pause)
        snapshot = Snapshot(prog)
        known = snapshot.allocator.caches
        for number in list(suspicious):
            if number >= len(known) or known.names[number] != names[number]:
                del suspicious[number]
                continue
            ledger, again = snapshot.judge(number)
            result = _result(ledger, again)
            if result.address in address:
                report.caches[report.caches.index(address[result.address])] = result
                address[result.address] = result
            suspicious[number] = _still(suspicious[number], again, attempt, report)
            if not suspicious[number]:
                del suspicious[number]
        strays = _still(strays, snapshot.judge_strays(), attempt, report)
        if not suspicious and not strays:
            break
    return suspicious, strays


def _still(
    before: List[Finding], again: List[Finding], attempt: int, report: Report
) -> List[Finding]:
    earlier = {finding.key(): finding for finding in before}
    stay = []
    for finding in again:
        was = earlier.get(finding.key())
        if was is None:
            continue
        if (was.expected, was.found) == (finding.expected, finding.found):
            stay.append(replace(finding, attempts=attempt))
        elif attempt == len(_PAUSES) + 1:
            report.changing.append(replace(finding, attempts=attempt, because=None))
    kept = {finding.id for finding in stay}
    return [f if f.because in kept else replace(f, because=None) for f in stay]


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


def _notes(report: Report, layout: PageTypeLayout) -> None:
    report.notes += [Finding("dump-tools-misread", note) for note in layout.notes]
