# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A check
-------

One line for a healthy kernel; otherwise the caches concerned, each root with
what follows from it, and how much was judged.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

from ...findings import Finding, Report
from ..views.check import (
    ACT,
    ROUND,
    SHELVES,
    Branch,
    branches,
    cache_view,
    concerned,
    likenesses,
    lines,
    own_word,
    statement,
    verdict,
)
from .lines import HANG, hung, table, text

if TYPE_CHECKING:
    from ...demo import Act
    from ...watch import Round

# Notes and the like come in crowds, such as a slab that waits for RCU in every
# cache; JSON has them all.
_MOST_OF_A_KIND = 10


def check(report: Report) -> str:
    """Present the report of a check."""
    told: List[str] = []
    caches = concerned(report.caches)
    if caches:
        told += [*table(cache_view(caches).grid(caches)), ""]
    for branch in branches(report.findings):
        told += _tree(branch)
    told += [f"looks like: {line}" for line in likenesses(report)]
    if report.findings or report.looks_like:
        told.append("")
    for shelf in SHELVES[1:]:
        told += _crowd(shelf.word, shelf.of(report))
    told += [f"kernel: {name} {said}" for name, said in own_word(report)]
    return text([*told, verdict(report)])


def watch(rounds: Iterable[Round]) -> Iterator[str]:
    """Present rounds of checks as they are done: in a line what is as it was."""
    for number, one in enumerate(rounds):
        news = f"{len(one.new)} new, {len(one.still)} still there, {len(one.gone)} gone"
        more = "".join(f", {name} {told}" for name, told in ROUND.others(one))
        head = f"round {one.number}, {one.time}: {news}{more}"
        told = [f"gone: {statement(finding)}" for finding in one.gone]
        told += [f"capture: {one.capture}"] if one.capture else []
        if one.new or number == 0:
            yield text([head, *told]) + check(one.report)
        else:
            yield text([f"{head}; {verdict(one.report)}", *told, *_lost(one.report)])


def _lost(report: Report) -> Iterator[str]:
    # Why it ends, if that is not anybody's wish.
    if report.stopped == "target":
        yield from (f"unavailable: {statement(one)}" for one in report.unavailable[:1])


_Said = Tuple[Optional[int], str]  # of which object


def _tree(branch: Branch, above: Tuple[_Said, ...] = (), depth: int = 0) -> Iterator[str]:
    number = f"{'   ' * depth}{'follows: ' if depth else ''}{branch.finding.id}. "
    first, *details = lines(branch.finding)
    yield from hung(number, first, HANG)
    of = branch.finding.object
    said = [(of, detail) for detail in details]
    # What stands above of the same object is not said again.
    new = [detail for detail in details if of is None or (of, detail) not in above]
    yield from (f"{' ' * len(number)}{detail}" for detail in new)
    for follower in branch.followers:
        yield from _tree(follower, (*above, *said), depth + 1)


def _crowd(word: str, shelf: Sequence[Finding]) -> Iterator[str]:
    kinds: Dict[str, List[Finding]] = defaultdict(list)
    for finding in shelf:
        kinds[finding.code].append(finding)
    for code, crowd in kinds.items():
        for finding in crowd[:_MOST_OF_A_KIND]:
            first, *details = lines(finding)
            yield from hung(f"{word}: ", first, HANG)
            yield from (f"{' ' * len(word)}  {detail}" for detail in details)
        if len(crowd) > _MOST_OF_A_KIND:
            yield f"{word}: {len(crowd) - _MOST_OF_A_KIND} more [{code}], all in --format json"


def demo(acts: Sequence[Act]) -> str:
    """Present the checks of the demonstration, one after the other."""
    return "\n".join(f"{text([_title(act)])}\n{check(act.report)}" for act in acts)


def _title(act: Act) -> str:
    more = "".join(f", {name} {told}" for name, told in ACT.others(act))
    return f"== {act.title}{more} =="
