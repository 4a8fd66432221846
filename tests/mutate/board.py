# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words of a program that can be changed, and changed back."""

from __future__ import annotations

from typing import Callable, Dict, List, Sequence, Set, Tuple

from drgn import Program

from ..recipes.overlay import Write, overlay
from .words import Word


class Board:
    """
    Some words of a program.

    :param prog: Of this process alone; it reads these words from here ever after.
    """

    def __init__(self, prog: Program, some: Sequence[Word]) -> None:
        self._words = some
        self._at: Dict[int, Tuple[bytearray, int]] = {}
        self._cells: List[Tuple[int, bytes, bytearray]] = []
        self._read: Set[int] = set()
        for first, end in _ranges(some):
            was = prog.read(first, end - first)
            cell = bytearray(was)
            self._cells.append((first, was, cell))
            self._at.update({at: (cell, at - first) for at in range(first, end)})
        writes = [Write(first, cell) for first, _, cell in self._cells]
        overlay(prog, writes, self._read.add)

    def put(self, word: Word, number: int) -> None:
        """Change a word."""
        cell, at = self._at[word.address]
        cell[at : at + word.size] = word.stored(bytes(cell[at : at + word.size]), number)

    def clear(self) -> None:
        """Change all words back."""
        for _, was, cell in self._cells:
            cell[:] = was

    def read_by(self, look: Callable[[], object]) -> Set[Word]:
        """Return the words that something reads."""
        self._read.clear()
        look()
        read = {
            at
            for first, was, _ in self._cells
            if first in self._read
            for at in range(first, first + len(was))
        }
        return {word for word in self._words if word.address in read}


def _ranges(some: Sequence[Word]) -> List[Tuple[int, int]]:
    # Bit fields share bytes, and bytes are read from one place.
    found: List[Tuple[int, int]] = []
    for first, end in sorted((word.address, word.address + word.size) for word in some):
        if found and first < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((first, end))
    return found
