# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Survey of the memory map
------------------------

One pass over all online pages that remembers one byte for each: its kind. What
the census counts, lists and draws is taken from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ..distinct import distinct
from ..machine import Machine
from ..machine.memory import U64
from .kinds import TAIL, KindFinder, Kinds, Rows
from .pcp import orders_on_lists
from .scan import Progress, page_blocks
from .sections import online_ranges
from .zones import ZoneBits, zone_bits


class Piece(NamedTuple):
    """Consecutive pages of one node and zone."""

    pfn: int
    node: int
    zone: int
    kinds: Kinds
    """Number of the kind of each page, with :data:`~drgn_slabtype.pages.kinds.TAIL`."""

    @property
    def end(self) -> int:
        """Page frame number after the last page."""
        return self.pfn + len(self.kinds)


@dataclass(frozen=True)
class Survey:
    """What every online page of a machine is."""

    names: Tuple[str, ...]
    """Names of the kinds, by number."""
    pieces: List[Piece]
    """In ascending order of page frame number."""
    conflicts: List[Tuple[int, int]]
    """(PFN, word) of words no healthy page shows."""
    unreadable: int
    """Pages whose struct page could not be read."""

    @property
    def pages(self) -> int:
        """Number of online pages."""
        return sum(len(piece.kinds) for piece in self.pieces)


def survey(machine: Machine, progress: Optional[Progress] = None) -> Survey:
    """
    Find out what every online page is.

    :raises LayoutError: if the kernel's page types are not understood.
    """
    return _Surveyor(machine).survey(progress)


class _Surveyor:
    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.ranges = online_ranges(machine)
        self.finder = KindFinder(machine, self.ranges)
        self.zones: ZoneBits = zone_bits(machine)
        # (first page frame, place) wherever the place changes.
        self.places: List[Tuple[int, int]] = []

    def survey(self, progress: Optional[Progress]) -> Survey:
        seen = 0
        for block in page_blocks(self.machine, progress, self.ranges):
            rows = self.finder.take(block)
            if rows is None:
                self._place(block.pfn, block.flags)
            elif len(rows):
                self._place(block.pfn, block.flags_of(rows), rows)
            seen += len(block)
            del block  # the next one is read into the same memory
        conflicts = self.finder.finish()
        self._free_pages_of_cpus()
        unreadable = self.finder.pages.total - seen
        return Survey(self.finder.names, list(self._pieces()), conflicts, unreadable)

    def _place(self, pfn: int, flags: U64, rows: Optional[Rows] = None) -> None:
        # Where the place changes among the pages of a block, or some rows of it:
        # pages before the first row are inside a free block that began earlier.
        low = int(np.bitwise_and.reduce(flags)) >> self.zones.shift
        if low == int(np.bitwise_or.reduce(flags)) >> self.zones.shift:
            places, starts = [low], [0]
        else:
            column = self.zones.place(flags)
            changes = np.flatnonzero(column[1:] != column[:-1]) + 1
            starts = [0, *changes.tolist()]
            places = column[starts].tolist()
        for start, place in zip(starts, places):
            if not self.places or self.places[-1][1] != place:
                self.places.append((pfn + (start if rows is None else int(rows[start])), place))

    def _free_pages_of_cpus(self) -> None:
        # A page without references is free if a list of a CPU has it, or else
        # part of an allocation of several pages that is no compound page.
        pages, after, before = self.finder.unused
        numbers, kinds = self.finder.pages, self.finder.kinds
        pcp, other = self.finder.numbers["pcp"], self.finder.numbers["other"]
        orders = orders_on_lists(self.machine, numbers, pages, after, before)
        kinds[pages] = np.where(orders == 0, pcp, other)
        for order in distinct(orders[orders > 0]).tolist():
            # A block may not reach beyond its range.
            rows, steps = (orders == order).nonzero()[0], np.arange(1, 1 << order)
            last = numbers.numbers(numbers.pfns(pages[rows]) + np.uint64(steps[-1]))
            heads = pages[rows[last == pages[rows] + steps[-1]]]
            kinds[heads[:, None] + steps] = pcp | TAIL
            kinds[heads] = pcp

    def _pieces(self) -> Iterator[Piece]:
        places = [*self.places, (1 << 62, -1)]
        before = 0
        for start, end in self.ranges:
            for (pfn, place), (after, _) in zip(places, places[1:]):
                low, high = max(pfn, start), min(after, end)
                if low < high:
                    node, zone = self.zones.split(place)
                    kinds = self.finder.kinds[before + low - start : before + high - start]
                    yield Piece(low, node, zone, kinds)
            before += end - start
