# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is amiss with a dump, by a number."""

from __future__ import annotations

import random
from pathlib import Path
from typing import List, NamedTuple, Sequence, Set

from .files import Dump
from .memory import ANY, Areas

WAYS = ("cut", "hole", "zero")
_RUNS = (1, 1, 1, 2, 8, 64, 512)


class Variant(NamedTuple):
    """One way in which a dump is not whole."""

    seed: int
    way: str
    """``cut``, ``hole`` or ``zero``."""
    area: str
    """What the memory that is amiss holds, or the place of the cut."""
    size: int
    """Bytes that are left, of a cut file."""
    pages: Sequence[int]
    """Pages that are amiss, of any other."""

    def __str__(self) -> str:
        what = f"at {self.size}" if self.way == "cut" else f"{len(self.pages)} pages"
        return f"{self.seed}: {self.way} {self.area}, {what}"

    def write(self, dump: Dump, target: Path) -> None:
        """Write the dump so."""
        if self.way == "cut":
            dump.cut(target, self.size)
        elif self.way == "hole":
            dump.without(target, self.pages)
        else:
            dump.zeroed(target, self.pages)


def variant(dump: Dump, areas: Areas, seed: int, ways: Sequence[str] = WAYS) -> Variant:
    """Return the variant of a number, always the same of the same dump."""
    chance = random.Random(f"{dump.name} {seed}")
    way = ways[seed % len(ways)]
    names = sorted(areas.frames)
    # Some of them anywhere.
    area = ANY if chance.random() < 0.3 else chance.choice(names)
    frames = areas.frames[area]
    if way == "cut":
        offset = dump.offset(chance.choice(frames)) + chance.randrange(4096)
        if area == ANY:
            offset = chance.choice((offset, chance.randrange(dump.size), chance.randrange(8192)))
        return Variant(seed, way, area, min(offset, dump.size - 1), ())
    return Variant(seed, way, area, 0, _some(frames, chance))


def _some(frames: Sequence[int], chance: random.Random) -> List[int]:
    # A few runs of pages, each as they follow each other in the dump.
    found: Set[int] = set()
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(frames))
        found.update(frames[at : at + chance.choice(_RUNS)])
    return sorted(found)
