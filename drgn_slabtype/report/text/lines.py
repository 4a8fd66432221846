# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines and tables of text."""

from __future__ import annotations

import re
from contextvars import ContextVar
from textwrap import wrap
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

from ..values import printable
from ..views import Column, Grid, View

_Made = TypeVar("_Made")

WIDTH: ContextVar[Optional[int]] = ContextVar("WIDTH", default=None)
"""Characters in a line of the terminal that text goes to; ``None``: as many as it needs."""

HANG = 2
"""Characters by which a sentence goes on behind where it began."""

_GAP = 2  # characters between two columns
_PADDING = 2  # characters by which tabulate makes a column wider than its heading
_NARROWEST = 16  # of a column that is broken into several lines


def within(width: Optional[int], make: Callable[[], _Made]) -> _Made:
    """Make text while :data:`WIDTH` is a width."""
    token = WIDTH.set(width)
    try:
        return make()
    finally:
        WIDTH.reset(token)


def each_within(width: Optional[int], pieces: Iterator[str]) -> Iterator[str]:
    """
    Return the pieces of a text that is made while it is written.

    Between two of them other text may be made, such as a report for a file.
    """
    while True:
        piece = within(width, lambda: next(pieces, None))
        if piece is None:
            return
        yield piece


def text(lines: Iterable[str]) -> str:
    """Return lines as text that a terminal shows and does not act upon, none wider than it is."""
    return "".join(f"{part}\n" for line in lines for part in _wrapped(printable(line)))


def _wrapped(line: str) -> List[str]:
    bare = line.lstrip(" ")
    return hung(line[: len(line) - len(bare)], bare, HANG)


def hung(head: str, told: str, hang: int = 0) -> List[str]:
    """
    Return a line, broken where the terminal ends; words, such as addresses, are whole.

    :param head: What the line begins with, and what goes on stands under the end of.
    :param hang: By how many characters it stands behind that.
    """
    width = WIDTH.get()
    if width is None or len(head) + len(told) <= width:
        return [head + told]
    under = len(head) + hang
    if width - under < _NARROWEST:
        under = len(head) - len(head.lstrip(" ")) + HANG
    return wrap(
        head + told,
        width,
        subsequent_indent=" " * under,
        break_long_words=False,
        break_on_hyphens=False,
    )


def facts(told: Iterable[Tuple[str, str]], indent: str = "", least: int = 0) -> List[str]:
    """
    Return a list of what things are called and what they are, in two columns.

    :param least: Characters that the first takes at least.
    """
    rows = list(told)
    wide = max([least, *(len(name) for name, _ in rows)])
    return [line for name, said in rows for line in hung(f"{indent}{name:<{wide}}  ", said)]


def unavailable(answer: Any) -> List[str]:
    """Return a line for each thing that an answer could not have."""
    return [f"unavailable: {what}" for what in answer.unavailable]


def see_check(damaged: bool, cache: str) -> List[str]:
    """Return a line that says that something is wrong with a cache, if something is."""
    return [f"something is wrong with {cache}: see check"] if damaged else []


def left(found: int, told: int, noun: str) -> List[str]:
    """Return a line that says how many more there are than are told, if there are."""
    return [f"{found - told} more {noun}{'s' * (found - told > 1)}"] if found > told else []


def heading(column: Column) -> str:
    """Return the heading of a column: in capitals, unless it is a name."""
    return column.heading if column.proper else column.heading.upper()


def table(grid: Grid) -> List[str]:
    """Return the lines of a table, as wide as :data:`WIDTH` if that can be."""
    width = WIDTH.get()
    if width is None or not grid.rows:
        return _table(grid)
    shown, left_out = fit(grid, width)
    lines = [line.rstrip() for line in _table(shown)]
    if max(map(len, lines)) > width:
        shown, left_out = fit(grid, width, padding=0)
        lines = [line.rstrip() for line in _table(shown, padded=False)]
    if left_out:
        lines += wrap(f"left out: {', '.join(map(heading, left_out))}; --all shows them", width)
    return lines


def _table(grid: Grid, padded: bool = True) -> List[str]:
    from tabulate import tabulate  # imports much, for what often has no table

    headings = [heading(column) for column in grid.columns]
    return tabulate(
        grid.rows if padded else [headings, *grid.rows],
        headers=headings if padded else (),
        tablefmt="plain",
        colalign=["right" if column.right else "left" for column in grid.columns]
        if grid.rows
        else None,
        disable_numparse=True,
    ).split("\n")


def fit(grid: Grid, width: int, padding: int = _PADDING) -> Tuple[Grid, List[Column]]:
    """
    Return a table that is no wider than a terminal, and the columns left out for that.

    Columns in which nothing is go without a word, then those that matter less; what
    is still too wide is broken into several lines, and addresses are not.

    :param width: In characters.
    :param padding: By how many of them a column is wider than its heading, at least.
    """
    cells = [list(column) for column in zip(*grid.rows)]
    kept = [at for at, column in enumerate(cells) if any(column) or not grid.columns[at].less]
    widths = {
        at: max(len(heading(grid.columns[at])) + padding, *(len(str(cell)) for cell in cells[at]))
        for at in kept
    }
    left_out: Dict[int, int] = {}
    while _width(_broken_to(widths, grid.columns)) > width:
        last = max(widths, key=lambda at: (grid.columns[at].less, at))
        if not grid.columns[last].less:
            break
        left_out[last] = widths.pop(last)
    # Those that went before a wide one may have room without it.
    for at in sorted(left_out, key=lambda at: (grid.columns[at].less, at)):
        if _width(_broken_to({**widths, at: left_out[at]}, grid.columns)) <= width:
            widths[at] = left_out.pop(at)
    kept = sorted(widths)
    least = {at: _least(cells[at]) for at in kept if not grid.columns[at].right}
    while _width(widths) > width:
        loose = [at for at in least if widths[at] > least[at]]
        if not loose:
            break
        widest = max(loose, key=widths.__getitem__)
        widths[widest] = max(widths[widest] - (_width(widths) - width), least[widest])
    columns = [grid.columns[at] for at in kept]
    rows = [[_broken(row[at], widths[at]) for at in kept] for row in grid.rows]
    return Grid(columns, rows), [grid.columns[at] for at in sorted(left_out)]


def _least(cells: Sequence[Any]) -> int:
    # Characters to which a column can be broken and every address in it be whole.
    parts = (part for cell in cells for part in _PARTS.sub(" ", _loose(str(cell))).split())
    words = (part for part in parts if "0x" in part and not part.startswith("+"))
    return max([_NARROWEST, *map(len, words)])


def _broken_to(widths: Mapping[int, int], columns: Sequence[Column]) -> Mapping[int, int]:
    return {at: min(width, columns[at].least or width) for at, width in widths.items()}


def _width(widths: Mapping[int, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def _broken(cell: Any, width: int) -> Any:
    text = str(cell)
    if len(text) <= width:
        return cell
    loose = _loose(text)
    # Of what no line has room for.
    apart = _PARTS.sub(_APART, loose) if max(map(len, loose.split())) > width else loose
    lines = wrap(apart, width, break_on_hyphens=False)
    if loose is not text:
        lines = [_LISTED.sub(r"\1", line) for line in lines]
    return "\n".join(line.replace(_APART, "").replace(_APART.strip(" "), "") for line in lines)


_LISTED = re.compile("([,|]) ")
_PARTS = re.compile(r"(?<=\S)(?=[+]0x)|(?<=-)(?=0x)")  # of a name with an offset, of a range
_APART = " \0"


def _loose(text: str) -> str:
    # Lists without spaces, too, are broken between what they list.
    return text if " " in text else re.sub("([,|])(?=.)", r"\1 ", text)


def stream(view: View, records: Sequence[Any]) -> Iterator[str]:
    """Return a table of many rows line by line, in columns of fixed width."""
    columns, rows = view.table(records)
    widths = [(column.width, column.right) for column in columns]
    yield text([_line(widths, [heading(column) for column in columns])])
    for cells in rows:
        yield text([_line(widths, cells)])


def _line(widths: Sequence[Tuple[int, Optional[bool]]], cells: Sequence[Any]) -> str:
    line = "  ".join(
        str(cell).rjust(width) if right else str(cell).ljust(width)
        for (width, right), cell in zip(widths, cells)
    )
    return line.rstrip()
