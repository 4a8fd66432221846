# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lines and tables of text."""

from __future__ import annotations

from typing import Any, Iterable, Iterator, List, Optional, Sequence, Tuple

from tabulate import tabulate

from ..values import printable
from ..views import Column, Grid, View


def text(lines: Iterable[str]) -> str:
    """Return lines as text that a terminal shows and does not act upon."""
    return "".join(f"{printable(line)}\n" for line in lines)


def unavailable(answer: Any) -> List[str]:
    """Return a line for each thing that an answer could not have."""
    return [f"unavailable: {what}" for what in answer.unavailable]


def heading(column: Column) -> str:
    """Return the heading of a column: in capitals, unless it is a name."""
    return column.heading if column.proper else column.heading.upper()


def table(grid: Grid) -> List[str]:
    """Return the lines of a table."""
    return tabulate(
        grid.rows,
        headers=[heading(column) for column in grid.columns],
        tablefmt="plain",
        colalign=["right" if column.right else "left" for column in grid.columns]
        if grid.rows
        else None,
        disable_numparse=True,
    ).split("\n")


def plain(rows: Sequence[Any], headings: Sequence[str] = ()) -> List[str]:
    """Return the lines of a list."""
    return tabulate(rows, headers=headings, tablefmt="plain", disable_numparse=True).split("\n")


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
