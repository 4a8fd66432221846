# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The census
----------

How many pages there are of each kind, where they are, and which of them make no
sense. Everything is counted from one pass over the memory map.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from drgn import Program

from ..arguments import at_least, one_of, require, several
from ..errors import ArgumentError
from ..machine import Machine, machine
from ..machine.kfence import kfence_pool
from ..machine.memory import U64, Bools
from ..machine.told import require_node
from ..records import Listing, Record
from ..shapes import HIDDEN, Address, Bytes, Flags, Key, Word, shown
from .flagnames import BITS, flag_names
from .kinds import MEANINGS, TAIL, Kinds
from .kpageflags import kpageflags
from .map import PageMap, draw
from .scan import Progress, no_pages, page_ranges, runs_of
from .survey import Piece, Survey, survey
from .zones import zone_names


@dataclass(frozen=True)
class CensusRow(Record):
    """The pages of one kind."""

    type: str
    """
    A page type as in the kernel's ``enum pagetype``, without its prefix, or what
    pages without a type are used for.
    """
    pages: int
    """Pages of the kind, tails included."""
    heads: int
    """Pages that are of the kind themselves."""
    tails: int
    """Tails of compound pages, and pages inside free blocks."""
    size_bytes: Bytes = 0
    """Memory of those pages."""
    meaning: str = ""
    """What such pages are, in a few words."""
    kfence_pages: int = 0
    """Those of :attr:`pages` that lie in KFENCE's pool and have the slab mark: of no cache."""


@dataclass(frozen=True)
class Place(Record):
    """The pages of one zone of one node."""

    node: int
    """NUMA node."""
    zone: str
    """Name of the zone."""
    pages: int
    """Its online pages, or those that were selected."""
    types: Dict[str, int]
    """Pages of each kind that occurs."""


@dataclass(frozen=True)
class Run(Record):
    """Neighbouring pages of one kind, or with the same flags."""

    pfn: int
    """Page frame number of the first."""
    pages: int
    """How many there are in a row."""
    type: str
    """What they are: a kind of the census."""
    node: int
    """NUMA node."""
    zone: str
    """Name of the zone."""
    flags: Optional[Flags] = None
    """Word of ``/proc/kpageflags``, if it was asked for."""

    @property
    @shown(Key(asked=True))
    def names(self) -> Optional[Tuple[str, ...]]:
        """Names of the flags that are set."""
        return None if self.flags is None else flag_names(self.flags)


@dataclass(frozen=True)
class FlagRow(Record):
    """Pages that have the same word in ``/proc/kpageflags``."""

    flags: Flags
    """The word."""
    pages: int
    """How many have it."""

    @property
    @shown(Key(after="flags"))
    def names(self) -> Tuple[str, ...]:
        """Names of the flags that are set."""
        return flag_names(self.flags)


@dataclass(frozen=True)
class Conflict(Record):
    """A page whose word no healthy page shows."""

    pfn: int
    """Page frame number."""
    page: Address
    """``struct page *``."""
    word: Word
    """Its page type word."""
    meaning: str
    """What speaks against it."""


@dataclass(frozen=True)
class Selection(Record):
    """
    Which pages to count; all by default.

    >>> census(prog, select=Selection(types=["slab"], pfns=(0, 0x2000))).pages
    1661
    """

    types: Sequence[str] = ()
    """Kinds, of which a page is one."""
    flags: Sequence[str] = ()
    """Names of the page-types tool, all of which a page has."""
    node: Optional[int] = None
    """NUMA node."""
    pfns: Optional[Tuple[int, int]] = None
    """Range [start, end) of page frame numbers."""

    def __bool__(self) -> bool:
        return bool(self.types or self.flags or self.node is not None or self.pfns)


@dataclass(frozen=True)
class Census(Listing):
    """What every online page of the machine is."""

    LISTED = "rows"

    rows: Annotated[List[CensusRow], Key("types")]
    """Most pages first."""
    pages: int
    """Online pages, or those that were selected."""
    unreadable_pages: int
    """Pages whose ``struct page`` could not be read."""
    places: Annotated[List[Place], Key("zones")] = field(default_factory=list)
    """The same by node and zone."""
    conflicts: List[Conflict] = field(default_factory=list)
    """Two types at once, unknown types, map counts that overflowed or underflowed."""
    page_size: Annotated[int, Key(after="pages")] = 4096
    """Bytes of a page."""
    flags: Annotated[Optional[List[FlagRow]], Key(asked=True)] = None
    """Rows as the page-types tool has them, most pages first, if asked for."""
    runs: Annotated[Optional[List[Run]], Key(asked=True)] = None
    """Pages by position, if asked for."""
    runs_found: Annotated[Optional[int], Key(asked=True)] = None
    """How many of these there are, those included that are not told."""
    map: Annotated[Optional[PageMap], Key(asked=True)] = None
    """A picture of memory, if asked for."""
    unsaved: Annotated[List[str], HIDDEN] = field(default_factory=list)
    """A line for each file of the kernel's that a command was to write and could not."""


def census(
    prog: Program,
    progress: Optional[Progress] = None,
    *,
    select: Optional[Selection] = None,
    flags: bool = False,
    runs: bool = False,
    most: Optional[int] = None,
    cells: int = 0,
    colour: bool = False,
) -> Census:
    """
    Count the pages of a kernel by what they are, in one pass over the memory map.

    >>> for row in census(prog)[:3]:
    ...     print(row.type, row.pages, row.meaning)
    buddy 40798 free, in the buddy allocator
    reserved 4340 never given out: kernel image, memory map, firmware
    offline 4096 taken by a balloon, or offline

    :param select: Count only some pages.
    :param flags: Also count them by their word in ``/proc/kpageflags``.
    :param runs: Also list them by position.
    :param most: List no more than so many ranges of pages; all are counted.
    :param cells: Also draw a map with about as many cells.
    :param colour: Whether the map may be coloured.
    :param progress: Called as work goes on: with what is done, how far it is, and how far it goes.
    :raises LayoutError: if the kernel's page types are not understood.
    :raises ArgumentError: if a type, a flag or a node to select does not exist, or a range
        of pages is none, or has no page of the machine.
    """
    at_least("most", most)
    at_least("cells", cells)
    select = Selection() if select is None else select
    require("select", select, Selection)
    if select.pfns is not None:
        _require_range(machine(prog), select.pfns)
    if select.node is not None:
        require_node(machine(prog), select.node)
    found = survey(machine(prog), progress)
    words = kpageflags(prog, progress) if flags or select.flags else None
    counter = _Counter(machine(prog), found, select, words if flags else None)
    pieces = list(_selected(found, select, words))
    for piece, wanted in pieces:
        counter.count(piece, wanted)
        if flags:
            counter.count_flags(piece, wanted)
        if runs:
            counter.list_runs(piece, wanted)
    return Census(
        rows=counter.rows(),
        pages=int(sum(counter.totals)),
        unreadable_pages=found.unreadable,
        places=counter.places(),
        conflicts=_conflicts(machine(prog), found, select),
        page_size=machine(prog).memory.page_size,
        flags=counter.flag_rows() if flags else None,
        runs=counter.runs[:most] if runs else None,
        runs_found=len(counter.runs) if runs else None,
        map=draw(found.names, pieces, cells, colour) if cells else None,
    )


def _require_range(machine: Machine, pfns: Tuple[int, int]) -> None:
    low_high = several(pfns)
    if len(low_high) != 2 or not all(isinstance(pfn, int) for pfn in low_high):
        raise ArgumentError(f"{pfns!r} is no range of page frames: (first, last + 1) is")
    if not 0 <= low_high[0] < low_high[1]:
        raise ArgumentError(f"{pfns!r} is no range of page frames: it is empty or negative")
    low, high = low_high
    if not any(start < high and low < end for start, end in page_ranges(machine)):
        raise ArgumentError(no_pages(machine, f"PFN {low:#x} to {high - 1:#x}"))


def _selected(
    found: Survey, select: Selection, words: Optional[U64]
) -> Iterator[Tuple[Piece, Optional[Bools]]]:
    # Pieces with something in them, and which of their pages are meant (None: all).
    numbers = [_number(found, name) for name in several(select.types)]
    asked = 0
    for name in several(select.flags):
        one_of("page flag", name, BITS)
        asked |= 1 << BITS[name]
    for piece in found.pieces:
        if select.node is not None and piece.node != select.node:
            continue
        if select.pfns is not None:
            low, high = max(piece.pfn, select.pfns[0]), min(piece.end, select.pfns[1])
            if low >= high:
                continue
            piece = piece._replace(pfn=low, kinds=piece.kinds[low - piece.pfn : high - piece.pfn])
        wanted: Optional[Bools] = None
        if numbers:
            wanted = np.isin(piece.kinds & ~TAIL, np.array(numbers, np.uint8))
        if asked:
            assert words is not None
            word = _cut(words, piece)
            has = word & np.uint64(asked) == np.uint64(asked)
            wanted = has if wanted is None else wanted & has
        if wanted is None or wanted.any():
            yield piece, wanted


def _cut(words: U64, piece: Piece) -> U64:
    # kpageflags may end before the last section does.
    cut = words[piece.pfn : piece.end]
    return np.concatenate([cut, np.zeros(len(piece.kinds) - len(cut), np.uint64)])


def _number(found: Survey, name: str) -> int:
    one_of("page type", name, found.names)
    return found.names.index(name)


def _conflicts(machine: Machine, found: Survey, select: Selection) -> List[Conflict]:
    encoding, size = machine.layout.encoding, machine.page.size
    vmemmap = machine.memory_map.vmemmap
    low, high = select.pfns or (0, 1 << 62)
    return [
        Conflict(pfn, vmemmap + pfn * size, word, encoding.explain(word))
        for pfn, word in found.conflicts
        if low <= pfn < high
    ]


class _Counter:
    def __init__(
        self, machine: Machine, found: Survey, select: Selection, words: Optional[U64]
    ) -> None:
        self._names = found.names
        self._zone_names = zone_names(machine)
        self._words = words
        self._page_size = machine.memory.page_size
        self._places: Dict[Tuple[int, str], List[int]] = {}
        self._flags: Dict[int, int] = {}
        self._slab = found.names.index("slab") if "slab" in found.names else None
        self._pool = machine.settled(kfence_pool)
        self._virtual = machine.memory.phys_to_virt
        self._kfence = 0
        self.totals = [0] * 256
        self.runs: List[Run] = []

    def _zone(self, piece: Piece) -> str:
        return self._zone_names.get((piece.node, piece.zone), f"zone {piece.zone}")

    def count(self, piece: Piece, wanted: Optional[Bools]) -> None:
        kinds = piece.kinds if wanted is None else piece.kinds[wanted]
        counts = count_bytes(kinds)
        place = self._places.setdefault((piece.node, self._zone(piece)), [0] * 256)
        for number in np.flatnonzero(counts).tolist():
            self.totals[number] += int(counts[number])
            place[number] += int(counts[number])
        self._kfence += self._of_kfence(piece, wanted)

    def _of_kfence(self, piece: Piece, wanted: Optional[Bools]) -> int:
        # How many pages of slabs are of its pool.
        if not self._pool.start:
            return 0
        size = self._page_size
        start = int(self._virtual(np.array([piece.pfn * size], np.uint64))[0])
        low, high = (max(0, end - start) // size for end in (self._pool.start, self._pool.end))
        slabs = piece.kinds[low:high] & ~TAIL == self._slab
        return int((slabs if wanted is None else slabs & wanted[low:high]).sum())

    def count_flags(self, piece: Piece, wanted: Optional[Bools]) -> None:
        assert self._words is not None
        words = _cut(self._words, piece)
        values, counts = np.unique(words if wanted is None else words[wanted], return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist()):
            self._flags[value] = self._flags.get(value, 0) + count

    def list_runs(self, piece: Piece, wanted: Optional[Bools]) -> None:
        kinds = piece.kinds & ~TAIL
        changes = kinds[1:] != kinds[:-1]
        words = None
        if self._words is not None:
            words = _cut(self._words, piece)
            changes |= words[1:] != words[:-1]
        if wanted is not None:
            changes |= wanted[1:] != wanted[:-1]
        edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(kinds)]
        for low, high in zip(edges, edges[1:]):
            if wanted is None or wanted[low]:
                flags = None if words is None else int(words[low])
                name = self._names[int(kinds[low])]
                zone = self._zone(piece)
                self.runs.append(Run(piece.pfn + low, high - low, name, piece.node, zone, flags))

    def rows(self) -> List[CensusRow]:
        rows = []
        for number, name in enumerate(self._names):
            heads, tails = self.totals[number], self.totals[number | int(TAIL)]
            if heads or tails:
                size = (heads + tails) * self._page_size
                meaning = MEANINGS.get(name, "a page type of this kernel")
                kfence = self._kfence if number == self._slab else 0
                rows.append(CensusRow(name, heads + tails, heads, tails, size, meaning, kfence))
        return sorted(rows, key=lambda row: -row.pages)

    def places(self) -> List[Place]:
        places = []
        for (node, zone), counts in sorted(self._places.items()):
            types = {
                name: counts[number] + counts[number | int(TAIL)]
                for number, name in enumerate(self._names)
            }
            places.append(Place(node, zone, sum(counts), {k: n for k, n in types.items() if n}))
        return places

    def flag_rows(self) -> List[FlagRow]:
        rows = [FlagRow(flags, pages) for flags, pages in self._flags.items()]
        return sorted(rows, key=lambda row: (-row.pages, row.flags))


def count_bytes(values: Kinds) -> np.ndarray[Tuple[int], np.dtype[np.int64]]:
    """Return how often each of the 256 values occurs."""
    # Most are like the one before; whole runs are counted.
    starts, lengths = runs_of(values)
    return np.bincount(values[starts], lengths, 256).astype(np.int64)
