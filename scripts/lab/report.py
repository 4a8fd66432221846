# SPDX-License-Identifier: LGPL-2.1-or-later

"""What came of a run, as tables: for a terminal and for a page of documentation."""

from __future__ import annotations

from typing import Dict, Iterator, List, Sequence, Tuple

from tabulate import tabulate

from . import breakage, trials
from .comparison import Result
from .guests import GUESTS
from .kernels import KERNELS
from .matrix import Matrix, guest_of
from .recipes import Recipes
from .trials import Outcome

__all__ = ("markdown", "table")


def table(matrix: Matrix) -> str:
    """Return the matrix as a table, one of the recipes below it, and what is wrong below each."""
    lines = [_checks(matrix.results)] if matrix.results else []
    for result in matrix.results:
        wrong = [*([result.error] if result.error else []), *result.findings, *result.mismatches]
        lines += [f"{result.dump}: {text}" for text in wrong[:10]]
        if len(wrong) > 10:
            lines.append(f"{result.dump}: and {len(wrong) - 10} more")
    if matrix.recipes:
        lines += ["", _recipes(matrix.recipes), ""]
    if matrix.broken:
        lines += ["", breakage.table(matrix.broken), ""]
    for found in _by_trial(matrix):
        lines += [f"{found[0].trial}:", trials.table(found), ""]
    if not lines:
        lines.append("no dump was checked")
    return "\n".join([*lines, *_totals(matrix)])


def markdown(matrix: Matrix) -> str:
    """Return the same tables for a page of documentation, a row for each guest and format."""
    parts = [_guests(matrix.results)] if matrix.results else []
    if matrix.recipes:
        applied = sorted(matrix.recipes, key=lambda one: _rank(one.dump))
        parts.append(_recipes(applied, "github"))
    parts += [trials.table(found) for found in _by_trial(matrix)]
    return "\n\n".join([*parts, *_totals(matrix)]) + "\n"


def _by_trial(matrix: Matrix) -> List[List[Outcome]]:
    names = dict.fromkeys(one.trial for one in matrix.trials)
    return [[one for one in matrix.trials if one.trial == name] for name in names]


def _rank(dump: str) -> Tuple[int, int]:
    # By kernel and guest, in the order of their tables.
    kernel, guest = dump.split("/")[:2]
    return list(KERNELS).index(kernel), list(GUESTS).index(guest)


def _guests(results: Sequence[Result]) -> str:
    groups: Dict[Tuple[str, str], List[Result]] = {}
    for result in sorted(results, key=lambda result: _rank(result.dump)):
        groups.setdefault((guest_of(result.dump), result.format), []).append(result)
    rows = [
        (
            guest,
            KERNELS[guest.split("/")[0]].architecture,
            format,
            len(group),
            sum(result.slabs for result in group),
            sum(len(result.findings) for result in group),
            sum(result.changing for result in group),
            sum(result.unavailable for result in group),
            f"{compared:,}" if (compared := sum(result.compared for result in group)) else "-",
            sum(len(result.mismatches) for result in group) if compared else "-",
        )
        for (guest, format), group in groups.items()
    ]
    counted = "DUMPS SLABS FINDINGS CHANGING UNAVAILABLE COMPARED MISMATCHES".split()
    headers = ["GUEST", "ARCHITECTURE", "FORMAT", *counted]
    align = ("left", "left", "left", *("right",) * 7)
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True, colalign=align)


def _totals(matrix: Matrix) -> Iterator[str]:
    yield from (f"{name}: no dump: {reason}" for name, reason in matrix.failed.items())
    if matrix.left_out:
        yield f"left out for lack of time: {', '.join(matrix.left_out)}"
    good = sum(matrix.verdicts)
    bad = len(matrix.verdicts) - good + len(matrix.failed)
    yield f"{good} passed, {bad} failed, {len(matrix.left_out)} skipped"


def _checks(results: Sequence[Result]) -> str:
    rows = [
        (
            result.dump,
            result.format,
            result.status if not result.error else "-",
            result.slabs,
            result.slab_pages,
            len(result.findings),
            result.changing,
            result.unavailable,
            f"{result.compared:,}" if result.compared else "-",
            len(result.mismatches) if result.compared else "-",
            result.seconds,
        )
        for result in results
    ]
    headers = (
        "DUMP",
        "FORMAT",
        "EXIT",
        "SLABS",
        "SLAB PAGES",
        "FINDINGS",
        "CHANGING",
        "UNAVAILABLE",
        "COMPARED",
        "MISMATCHES",
        "SECONDS",
    )
    align = ("left", "left", *("right",) * 9)
    return tabulate(rows, headers, tablefmt="plain", disable_numparse=True, colalign=align)


def _recipes(results: Sequence[Recipes], style: str = "plain") -> str:
    # A row for each dump, with what is wrong and what is waited for below.
    rows = [
        (
            one.dump,
            one.found,
            one.quiet,
            len(one.missed),
            len(one.false),
            len(one.pending),
            len(one.no_victim),
            one.words,
            len(one.unexplained),
            one.seconds,
        )
        for one in results
    ]
    counted = "FOUND", "QUIET", "MISSED", "FALSE", "PENDING", "NO VICTIM", "WORDS", "SILENT"
    headers = ("RECIPES ON", *counted, "SECONDS")
    align = ("left", *("right",) * 9)
    lines = [tabulate(rows, headers, tablefmt=style, disable_numparse=True, colalign=align), ""]
    for one in results:
        lines += [f"{one.dump}: recipes: {one.error}"] if one.error else []
        lines += [f"{one.dump}: missed {text}" for text in one.missed]
        lines += [f"{one.dump}: false alarm of {text}" for text in one.false]
        lines += [f"{one.dump}: changed word {text}" for text in one.unexplained]
    pending = sorted({name for one in results for name in one.pending})
    if pending:
        lines.append(f"rule not built for {len(pending)} recipes: {', '.join(pending)}")
    return "\n".join(lines)
