# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages in their zone
-------------------

Each page says in the top bits of its flags which zone of which node it is of, and
that zone spans it: ``bad_range()`` of the page allocator.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError

from ..machine import Machine
from ..machine.memory import U64, Bools
from ..machine.ram import memory_ranges
from .folios import Folios
from .zones import online_nodes, populated_zones, zone_bits, zone_names

I64 = npt.NDArray[np.int64]

_MOST_PFN = 1 << 52  # beyond all memory, wherever a damaged zone says that it lies
_SHARE = 4  # a zone that does not span so many of its pages is itself not where it says


class Span(NamedTuple):
    """A zone, as a page names it."""

    node: int
    zone: int
    name: Optional[str]
    """``None`` for one that this machine does not have."""
    start: int
    end: int
    """Page frames [start, end) that it spans."""

    def __str__(self) -> str:
        """Return it in words."""
        return f"zone {self.zone if self.name is None else self.name} of node {self.node}"


class Spans:
    """Where the zones of a machine lie, and which of its pages must lie in one."""

    def __init__(self, machine: Machine) -> None:
        self._bits = zone_bits(machine)
        self._names = zone_names(machine)
        places = 1 << (self._bits.word_bits - self._bits.shift)
        self._starts = np.zeros(places, np.uint64)
        self._ends = np.zeros(places, np.uint64)
        self.known: Dict[int, Span] = {}
        """By the number that a page names a zone with."""
        for nid, number, zone in populated_zones(machine):
            start = min(int(zone.zone_start_pfn), _MOST_PFN)
            end = start + min(int(zone.spanned_pages), _MOST_PFN)
            place = nid << self._bits.zone_width | number
            if place < places:
                self._starts[place], self._ends[place] = start, end
                name = self._names.get((nid, number), str(number))
                self.known[place] = Span(nid, number, name, start, end)
        flags = machine.enumerators("pageflags")
        self._reserved = np.uint64(1 << flags.get("PG_reserved", 0))
        self._memory: Optional[npt.NDArray[np.uint64]] = None
        ranges, shift = machine.fact(memory_ranges), machine.memory.page_shift
        if ranges is not None:
            whole = [(-(-start >> shift), end >> shift) for start, end in ranges]
            self._memory = np.array(whole, np.uint64).reshape(-1, 2)
        self._deferred = list(_deferred(machine))

    def places(self, flags: U64) -> I64:
        """Return the numbers that pages name their zones with."""
        return self._bits.place(flags).astype(np.int64)

    def span_all(self, pfns: U64, flags: U64) -> bool:
        """Return whether pages in ascending order name one zone, and that spans them."""
        place = self._bits.place(np.bitwise_or.reduce(flags))
        if place != self._bits.place(np.bitwise_and.reduce(flags)):
            return False
        return bool(self._starts[place] <= pfns[0] and pfns[-1] < self._ends[place])

    def outside(self, pfns: U64, flags: U64) -> Bools:
        """Return which pages lie outside of the zones that they name."""
        places = self.places(flags)
        outside: Bools = (pfns < self._starts[places]) | (pfns >= self._ends[places])
        if not outside.any():
            return outside
        rows = outside.nonzero()[0]
        outside[rows] = self._must_be(pfns[rows], flags[rows])
        return outside

    def named(self, place: int) -> Span:
        """Return the zone that a page names with a number."""
        return self.known.get(place) or Span(*self._bits.split(place), None, 0, 0)

    def around(self, pfn: int) -> Optional[Span]:
        """Return the zone that spans a page, if it is one alone."""
        found = [span for span in self.known.values() if span.start <= pfn < span.end]
        return found[0] if len(found) == 1 else None

    def _must_be(self, pfns: U64, flags: U64) -> Bools:
        # Struct pages of what is no memory are made like their neighbours', or not at all.
        if self._memory is None:
            there: Bools = flags & self._reserved == 0
        else:
            first = self._memory[:, 0].searchsorted(pfns, "right") - 1
            there = (first >= 0) & (pfns < self._memory[first, 1])
        for start, end in self._deferred:
            there &= (pfns < np.uint64(start)) | (pfns >= np.uint64(end))
        return there


def spans(machine: Machine) -> Spans:
    """Return the :class:`Spans` of a machine."""
    return machine.settled(Spans)


def _deferred(machine: Machine) -> List[Tuple[int, int]]:
    # Struct pages that a kernel which was starting had still to make.
    found = []
    for node in online_nodes(machine):
        try:
            first = int(node.first_deferred_pfn)
            start, spanned = int(node.node_start_pfn), int(node.node_spanned_pages)
        except (AttributeError, FaultError, LookupError):
            continue
        if start <= first < start + spanned:
            found.append((first, start + spanned))
    return found


class Misplaced(NamedTuple):
    """Pages that name a zone which does not span them."""

    pfns: I64
    places: I64
    """The number that each names a zone with."""


class Placed:
    """Collects pages that lie outside of the zones that they name; takes blocks of pages."""

    def __init__(self, machine: Machine) -> None:
        self._spans = spans(machine)
        self._found: List[Misplaced] = []

    def take(self, folios: Folios, free: Bools) -> None:
        """Look at a block of pages."""
        count = len(folios)
        flags, pfns = folios.flags[:count], folios.pfns[:count]
        if self._spans.span_all(pfns, flags):
            return
        rows = self._spans.outside(pfns, flags).nonzero()[0]
        if len(rows):
            found = (rows + folios.block.pfn).astype(np.int64)
            self._found.append(Misplaced(found, self._spans.places(flags[rows])))

    @property
    def found(self) -> Misplaced:
        """These pages, but for those of zones that are themselves not where they say."""
        none = np.zeros(0, np.int64)
        parts = [Misplaced(none, none), *self._found]
        pfns, places = (np.concatenate(column) for column in zip(*parts))
        right = np.ones(len(pfns), np.bool_)
        for place, span in self._spans.known.items():
            of_zone = places == place
            if _SHARE * np.count_nonzero(of_zone) > span.end - span.start:
                right &= ~of_zone
        return Misplaced(pfns[right], places[right])
