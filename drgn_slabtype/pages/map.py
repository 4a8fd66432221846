# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A map of memory
---------------

Physical memory as a grid of cells, each a power of two of neighbouring pages,
with the kinds of the pages in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, List, Optional, Sequence, Tuple

import numpy as np

from ..machine.memory import Bools
from ..shapes import HIDDEN, Pairs
from .kinds import TAIL
from .survey import Piece


@dataclass(frozen=True)
class Cell:
    """Some neighbouring pages."""

    pfn: int
    """The first of them."""
    pages: int
    """How many there are."""
    types: Pairs
    """Pages by kind, most first; pages that were not selected are left out."""


@dataclass(frozen=True)
class PageMap:
    """All cells; what lies between them does not exist."""

    pages_per_cell: int
    """Pages of each, but for the last of a range."""
    cells: List[Cell]
    """In ascending order."""
    colour: Annotated[bool, HIDDEN] = False
    """Whether a terminal that shows colours will show it."""


def draw(
    names: Sequence[str],
    pieces: Sequence[Tuple[Piece, Optional[Bools]]],
    cells: int,
    colour: bool = False,
) -> PageMap:
    """
    Draw a map.

    :param names: Names of the kinds, by number.
    :param pieces: Pages, and which of them are meant.
    :param cells: How many cells there should be, at most about twice as many.
    """
    pages = sum(len(piece.kinds) for piece, _ in pieces)
    per_cell = 1 << max((pages - 1) // max(cells, 1), 0).bit_length()
    grid: List[Tuple[int, int, np.ndarray[Tuple[int], np.dtype[np.int64]]]] = []
    for piece, wanted in pieces:
        first = piece.pfn // per_cell
        cell = np.arange(piece.pfn, piece.end) // per_cell - first
        kinds = (piece.kinds & ~TAIL).astype(np.int64)
        keys = cell * len(names) + kinds
        count = int(cell[-1]) + 1
        counts = np.bincount(keys if wanted is None else keys[wanted], minlength=count * len(names))
        for number, row in enumerate(counts.reshape(count, len(names))):
            low = max((first + number) * per_cell, piece.pfn)
            high = min((first + number + 1) * per_cell, piece.end)
            if grid and grid[-1][0] // per_cell == first + number:
                # Another piece began this cell: a zone or a node ends within it.
                start, size, before = grid.pop()
                grid.append((start, size + high - low, before + row))
            else:
                grid.append((low, high - low, row))
    return PageMap(
        per_cell, [Cell(pfn, size, _types(names, row)) for pfn, size, row in grid], colour
    )


def _types(
    names: Sequence[str], counts: np.ndarray[Tuple[int], np.dtype[np.int64]]
) -> List[Tuple[str, int]]:
    present = [(names[number], int(counts[number])) for number in np.flatnonzero(counts).tolist()]
    return sorted(present, key=lambda item: -item[1])
