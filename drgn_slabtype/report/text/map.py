# SPDX-License-Identifier: LGPL-2.1-or-later
"""A map of memory in letters, or in shades."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, Sequence

from ..values import size
from .lines import WIDTH

if TYPE_CHECKING:
    from ...pages.map import Cell, PageMap

_CELLS_IN_ROW = 64

# A letter for each kind, and the colour of its cells among the 256 of terminals.
_SYMBOLS = {
    "slab": ("S", 33),
    "buddy": (".", 236),
    "pcp": (",", 240),
    "anon": ("a", 71),
    "file": ("f", 137),
    "shmem": ("m", 101),
    "table": ("T", 134),
    "hugetlb": ("H", 64),
    "large_kmalloc": ("K", 38),
    "zsmalloc": ("Z", 173),
    "reserved": ("R", 95),
    "offline": ("O", 130),
    "balloon": ("O", 130),
    "guard": ("G", 124),
    "unaccepted": ("U", 60),
    "kmemcg": ("k", 31),
    "unknown": ("?", 196),
    "unreadable": ("!", 160),
    "other": ("o", 67),
}
_SHADES = " ░▒▓█"


def draw(map: PageMap, page_size: int) -> Iterator[str]:
    """
    Draw memory, one character for some neighbouring pages.

    With pages of several kinds each cell is the letter of the one it has most
    of; with pages of one kind, it is as dark as it has many of them.
    """
    kinds = {name: 0 for cell in map.cells for name, _ in cell.types}
    single = len(kinds) == 1
    for row in _rows(map):
        cells = "".join(_shade(cell) if single else _letter(cell, map.colour) for cell in row)
        yield f"{row[0].pfn * page_size:>#14x} {cells}\n"
    per_cell = size(map.pages_per_cell * page_size)
    yield f"{'':14} one character is {per_cell}; holes are left out\n"
    if single:
        yield f"{'':14} {', '.join(kinds)}: {_SHADES[1:]} is up to 25, 50, 75, 100 %\n"
        return
    for names in _legend(_by_pages(map)):
        told = (f"{_colour(_symbol(name), name, map.colour)} {name}" for name in names)
        yield f"{'':14} {'  '.join(told)}\n"


def _legend(names: Sequence[str]) -> Iterator[List[str]]:
    # As many in a line as there is room for.
    width = WIDTH.get()
    line: List[str] = []
    for name in names:
        wide = 15 + sum(len(f"  x {one}") for one in (*line, name)) - len("  ")
        if line and width is not None and wide > width:
            yield line
            line = []
        line.append(name)
    yield line


def _rows(map: PageMap) -> Iterator[List[Cell]]:
    row: List[Cell] = []
    for cell in map.cells:
        begins_row = cell.pfn // map.pages_per_cell % _CELLS_IN_ROW == 0
        if row and (begins_row or cell.pfn != row[-1].pfn + row[-1].pages):
            yield row
            row = []
        row.append(cell)
    if row:
        yield row


def _by_pages(map: PageMap) -> List[str]:
    totals: Dict[str, int] = {}
    for cell in map.cells:
        for name, pages in cell.types:
            totals[name] = totals.get(name, 0) + pages
    return sorted(totals, key=lambda name: -totals[name])


def _symbol(name: str) -> str:
    return _SYMBOLS.get(name, _SYMBOLS["unknown"])[0]


def _letter(cell: Cell, colour: bool) -> str:
    if not cell.types:
        return " "
    name = cell.types[0][0]
    return _colour(_symbol(name), name, colour)


def _colour(letter: str, name: str, colour: bool) -> str:
    if not colour:
        return letter
    number = _SYMBOLS.get(name, _SYMBOLS["unknown"])[1]
    return f"\x1b[48;5;{number};38;5;231m{letter}\x1b[0m"


def _shade(cell: Cell) -> str:
    pages = sum(pages for _, pages in cell.types)
    return _SHADES[-(-4 * pages // cell.pages)] if cell.pages else " "
