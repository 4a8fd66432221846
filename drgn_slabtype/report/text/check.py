# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Text for people
---------------

One line for a healthy kernel; otherwise the caches concerned, each root with
what follows from it, and how much was judged.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Dict, Iterator, List, Sequence, Tuple

from tabulate import tabulate

from ...findings import CacheResult, Finding, Outcome, Report
from ..tables import size, table, text
from ..values import plural, value

if TYPE_CHECKING:
    from ...answers.decode import Decoded
    from ...capture import CaptureSummary
    from ...demo import Act
    from ...pagetype.detect import PageTypeLayout

# Notes and the like come in crowds, such as a slab that waits for RCU in every
# cache; JSON has them all.
_MOST_OF_A_KIND = 10


def check(report: Report) -> str:
    """Present the report of a check."""
    lines: List[str] = []
    concerned = [c for c in report.caches if c.outcome is not Outcome.CONSISTENT]
    if concerned:
        lines += [*_caches(concerned), ""]
    if report.findings:
        lines += [*_findings(report.findings), ""]
    for title, shelf in (
        ("unavailable", report.unavailable),
        ("changing", report.changing),
        ("note", report.notes),
    ):
        lines += _crowd(title, shelf)
    lines.append(_verdict(report))
    return text(lines)


def _caches(caches: Sequence[CacheResult]) -> List[str]:
    numbers = ["OBJSIZE", "SLABS", "OBJECTS", "COUNTED", "IN USE", "FREE", "WAITING"]
    columns = {"CACHE": "left", **dict.fromkeys(numbers, "right"), "OUTCOME": "left"}
    rows = [
        (
            cache.name,
            cache.object_size,
            cache.slabs,
            cache.objects,
            cache.counted,
            cache.in_use,
            sum(cache.free.values()),
            cache.waiting,
            cache.outcome.value,
        )
        for cache in caches
    ]
    return table(columns, rows)


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    followers: Dict[int, List[Finding]] = defaultdict(list)
    known = {finding.id for finding in findings}
    roots = []
    for finding in findings:
        if finding.because in known:
            followers[finding.because or 0].append(finding)
        else:
            roots.append(finding)
    for root in roots:
        yield from _tree(root, followers, 0)


def _tree(finding: Finding, followers: Dict[int, List[Finding]], depth: int) -> Iterator[str]:
    number = f"{'   ' * depth}{'follows: ' if depth else ''}{finding.id}. "
    yield f"{number}{_line(finding)}"
    yield from (f"{' ' * len(number)}{detail}" for detail in finding.details)
    for follower in followers.pop(finding.id, []):
        yield from _tree(follower, followers, depth + 1)


def _line(finding: Finding) -> str:
    text = f"{finding.message} [{finding.code}]"
    details = []
    if finding.expected is not None:
        details.append(f"expected {value(finding.expected)}")
    if finding.found is not None:
        details.append(f"found {value(finding.found)}")
    if finding.attempts > 1:
        details.append(f"read {finding.attempts} times")
    return f"{text}: {', '.join(details)}" if details else text


def _crowd(title: str, shelf: Sequence[Finding]) -> Iterator[str]:
    kinds: Dict[str, List[Finding]] = defaultdict(list)
    for finding in shelf:
        kinds[finding.code].append(finding)
    for code, members in kinds.items():
        for finding in members[:_MOST_OF_A_KIND]:
            yield f"{title}: {_line(finding)}"
        if len(members) > _MOST_OF_A_KIND:
            yield f"{title}: {len(members) - _MOST_OF_A_KIND} more [{code}], all in --format json"


def _verdict(report: Report) -> str:
    totals = report.totals
    judged = sum(c.outcome is not Outcome.UNAVAILABLE for c in report.caches)
    pages = sum(cache.pages for cache in report.caches)
    kernel = " ".join(filter(None, ["Linux", report.target.release, report.target.architecture]))
    coverage = [
        # How many there are is not known when it ended early.
        f"{judged} {'' if report.interrupted else f'of {totals.caches} '}caches judged",
        f"{plural(totals.slabs, 'slab')} in {plural(pages, 'page')}",
        f"{plural(totals.objects, 'object')}: {totals.in_use} in use, {totals.free} free"
        + (f", {totals.waiting} waiting" if totals.waiting else ""),
    ]
    if totals.unreadable_pages or totals.zero_filled_pages:
        coverage.append(
            f"of {plural(totals.pages, 'page')} {totals.slab_pages} of slabs, "
            f"{totals.unreadable_pages} unreadable, {totals.zero_filled_pages} zero-filled"
        )
    else:
        coverage.append(f"all {plural(totals.pages, 'page')} read, {totals.slab_pages} of slabs")
    if report.interrupted:
        coverage.append("interrupted")
    outcome = report.outcome.value
    if report.findings:
        roots = sum(f.because is None for f in report.findings)
        outcome += f" ({plural(roots, 'finding')}"
        if len(report.findings) > roots:
            outcome += f", {plural(len(report.findings) - roots, 'consequence')}"
        outcome += ")"
    layout = f"{report.layout.allocator}, {report.layout.page_type}"
    return f"{outcome}: {kernel}, {layout}: {'; '.join(coverage)}"


def layout(layout: PageTypeLayout) -> str:
    """Present what was detected, and from which evidence."""
    encoding = layout.encoding
    if layout.slab_flag is None:
        mark = f"page type slab ({encoding.types['slab']:#x})"
    else:
        mark = f"PG_slab, bit {layout.slab_flag} of page flags"
    rows: List[Tuple[str, Any]] = [
        ("page types", encoding.name),
        ("allocator", layout.allocator),
        ("slab mark", mark),
    ]
    rows += [("evidence", line) for line in layout.evidence]
    rows += [("note", line) for line in layout.notes]
    return text(tabulate(rows, tablefmt="plain", disable_numparse=True).split("\n"))


def capture(summary: CaptureSummary) -> str:
    """Present what was written to a capture."""
    lines = [
        f"{summary.path}: {size(summary.size)}, {size(summary.memory)} of memory, "
        f"{size(summary.kept)} of it as it was"
    ]
    if summary.left_out:
        lines.append(f"left out: {', '.join(summary.left_out)}")
    if summary.unreadable:
        lines.append(f"not in the target: {size(summary.unreadable)}")
    return text(lines)


def demo(acts: Sequence[Act]) -> str:
    """Present the checks of the demonstration, one after the other."""
    return "\n".join(f"{text([f'== {act.title} =='])}\n{check(act.report)}" for act in acts)


def decode(words: Sequence[Decoded]) -> str:
    """Present the readings of one page_type word."""
    columns = dict.fromkeys(["LAYOUT", "TYPES", "PRINTED AS", "MEANING"], "left")
    rows = [(w.layout, "|".join(w.types) or "-", w.printed or "-", w.meaning) for w in words]
    return text([f"0x{words[0].word:08x}", *table(columns, rows)])
