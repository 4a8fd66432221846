# SPDX-License-Identifier: LGPL-2.1-or-later
"""Drawings of the HTML page, as SVG that scales and needs no script."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Iterator, List, Sequence, Tuple

from ..values import printable, size
from .style import COLOURS

if TYPE_CHECKING:
    from ...pages.map import Cell, PageMap

_COLUMNS = 128
_MOSTLY = 0.9  # a cell with this share of one kind is drawn as all of it


def kind_class(kind: str) -> str:
    """Return the CSS class of a kind of pages."""
    return f"k-{kind if kind in COLOURS else 'unknown'}"


def memory_map(map: PageMap, page_size: int) -> Iterator[str]:
    """Draw memory: rows of cells, each cell divided by what its pages are."""
    yield '<div class="map">'
    for row in _rows(map):
        label = f"{row[0].pfn * page_size:#x}"
        yield f'<div class="row"><code class="quiet">{label}</code>'
        yield f'<svg viewBox="0 0 {_COLUMNS} 6" preserveAspectRatio="none" role="img">'
        yield f"<title>Memory from {label}</title>"
        first = row[0].pfn // map.pages_per_cell
        column = first % _COLUMNS
        for cells, types in _runs(row):
            yield from _cells(column, cells, types, page_size)
            column += len(cells)
        yield "</svg></div>"
    yield "</div>"
    told = f"One cell is {size(map.pages_per_cell * page_size)} of memory. Holes are left out."
    yield f'<p class="quiet">{told}</p>'


def _rows(map: PageMap) -> Iterator[List[Cell]]:
    row: List[Cell] = []
    for cell in map.cells:
        number = cell.pfn // map.pages_per_cell
        if row and (number % _COLUMNS == 0 or cell.pfn != row[-1].pfn + row[-1].pages):
            yield row
            row = []
        row.append(cell)
    if row:
        yield row


_Shares = Tuple[Tuple[str, float], ...]


def _runs(row: Sequence[Cell]) -> Iterator[Tuple[List[Cell], _Shares]]:
    # Neighbours that look the same are one rectangle.
    run: List[Cell] = []
    look: _Shares = ()
    for cell in row:
        shares = _shares(cell)
        if run and (shares != look or len(shares) > 1):
            yield run, look
            run = []
        run.append(cell)
        look = shares
    if run:
        yield run, look


def _shares(cell: Cell) -> _Shares:
    total = sum(pages for _, pages in cell.types)
    if not total:
        return ()
    first = cell.types[0]
    if first[1] >= _MOSTLY * total:
        return ((first[0], 1.0),)
    return tuple((kind, pages / total) for kind, pages in cell.types)


def _cells(column: int, cells: List[Cell], shares: _Shares, page_size: int) -> Iterator[str]:
    start, end = cells[0].pfn, cells[-1].pfn + cells[-1].pages
    told = ", ".join(f"{kind} {share:.0%}" for kind, share in shares)
    where = f"{start * page_size:#x} to {end * page_size - 1:#x}"
    yield f"<g><title>{where}: {escape(printable(told))}</title>"
    top = 0.0
    for kind, share in shares:
        yield (
            f'<rect class="{kind_class(kind)}" x="{column}" y="{6 * top:.2f}" '
            f'width="{len(cells)}" height="{6 * share:.2f}"/>'
        )
        top += share
    yield "</g>"


def bar(parts: Sequence[Tuple[str, int]], whole: int, told: str) -> str:
    """
    Draw a bar.

    :param parts: CSS class and length of each part.
    :param whole: Length of the whole scale.
    :param told: What it says, in words.
    """
    at, drawn = 0.0, []
    for name, value in parts:
        width = 100 * value / whole if whole else 0.0
        drawn.append(f'<rect class="{name}" x="{at:.2f}" width="{width:.2f}" height="10"/>')
        at += width
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" role="img">'
        f"<title>{escape(printable(told))}</title>{''.join(drawn)}</svg>"
    )


def histogram(counts: Sequence[int], told: str) -> str:
    """Draw how many slabs are how full: the first column is empty, the last full."""
    most = max([*counts, 1])
    columns = []
    for number, count in enumerate(counts):
        height = 40 * count / most
        if count:
            height = max(height, 1.0)
        columns.append(
            f'<rect class="p-in-use" x="{number * 10 + 1}" y="{40 - height:.1f}" width="8" '
            f'height="{height:.1f}"><title>{_fill(number, len(counts))}: {count}</title></rect>'
        )
    width = 10 * len(counts)
    return (
        f'<svg viewBox="0 0 {width} 41" role="img"><title>{escape(printable(told))}</title>'
        f'<rect class="axis" x="0" y="40" width="{width}" height="1"/>{"".join(columns)}</svg>'
    )


def _fill(number: int, count: int) -> str:
    if number == count - 1:
        return "full"
    return f"{100 * number // (count - 1)} to {100 * (number + 1) // (count - 1)} %"
