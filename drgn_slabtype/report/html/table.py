# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text and tables of the HTML page."""

from __future__ import annotations

import re
from html import escape
from typing import Any, Collection, Iterator

from ..values import printable
from ..views import Column, Grid

_DATE = re.compile(r"\d{4}-\d\d-\d\d")


class Markup(str):
    """A cell that is HTML already."""

    __slots__ = ()


def text(told: object) -> str:
    """Return what is told as HTML, unless it is that already."""
    return told if isinstance(told, Markup) else escape(printable(str(told)))


def prose(told: str) -> str:
    """Return a sentence as HTML; what stands between backticks is code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", text(told))


def table(grid: Grid, marked: Collection[int] = ()) -> Iterator[str]:
    """
    Return the lines of a table.

    On a narrow screen each row stands by itself, with the headings as labels.

    :param marked: Rows that stand out.
    """
    first = grid.rows[0] if grid.rows else [""] * len(grid.columns)
    looks = [_look(at, column, first[at]) for at, column in enumerate(grid.columns)]
    heads = "".join(
        f'<th scope="col" class="{look}">{text(column.heading)}</th>'
        for column, look in zip(grid.columns, looks)
    )
    yield f"<table><thead><tr>{heads}</tr></thead><tbody>"
    for number, row in enumerate(grid.rows):
        cells = "".join(
            f'<td class="{look}" data-label="{text(column.heading)}">{text(cell)}</td>'
            for column, look, cell in zip(grid.columns, looks, row)
        )
        mark = ' class="damaged"' if number in marked else ""
        yield f"<tr{mark}>{cells}</tr>"
    yield "</tbody></table>"


def _look(at: int, column: Column, cell: Any) -> str:
    # The class of a column.
    if str(cell).startswith("<svg"):
        return "bar"
    if _DATE.fullmatch(str(cell)):
        return "words date"
    return "name" if at == 0 else "" if column.right else "words"
