# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The ledger of one slab cache
----------------------------

Plain tables of columns, filled by an allocator module and judged by rules that
know neither the allocator nor the program. One row each:

* :class:`Slabs`: a slab of the cache, with the count the kernel keeps;
* :class:`Claims`: a place says that an object is free, waiting or its own;
* :class:`Containers`: a place and what it promises about its contents;
* :class:`Memberships`: a slab stands on a list;
* :class:`Counter`: a number a node keeps, beside what the slabs add up to.

Counts are objects or slabs, never bytes; addresses are as users of the objects
see them; ``-1`` is "none" or "unknown" in signed columns.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, fields
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Type, TypeVar

import numpy as np
import numpy.typing as npt

from .codes import Measure
from .distinct import distinct

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]
I32 = npt.NDArray[np.int32]
U8 = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

_T = TypeVar("_T", bound="_Table")
_SPARSE, _SMALL = 16, 1 << 16


class State(enum.IntEnum):
    """What a place says of an object."""

    FREE = 0
    """It can be handed out."""
    WAITING = 1
    """Its user has freed it; a grace period has to pass."""
    LIVE = 2
    """The allocator itself lives in it."""


class Walk(enum.IntEnum):
    """How the walk through a container ended."""

    WHOLE = 0
    """At its end, with every entry read."""
    POINTER = 1
    """At an entry that is no object of the slab or cache it must belong to."""
    CYCLE = 2
    """At an entry that had been seen before."""
    UNREADABLE = 3
    """At memory that is not in the target."""
    MISPLACED = 4
    """Not begun: the container itself is not where it has to be."""


class Place(NamedTuple):
    """A kind of place where objects are recorded."""

    name: str
    """As findings and reports spell it."""
    counted: bool
    """Whether its objects count as in use in their slab's own counter."""
    per_cpu: bool = False
    """Whether CPUs own them rather than nodes."""
    bad: str = "claim-foreign"
    """Finding code for an entry that is no object."""
    repeat: str = "claim-twice"
    """Finding code for an entry that stands there twice."""
    activity: Optional[str] = None
    """Who can leave an object there that is in another place already, if few can."""


class ListKind(enum.IntFlag):
    """The lists a slab can stand on; bits, so that a state can allow several."""

    NOWHERE = 1
    PARTIAL = 2
    FULL = 4
    FREE = 8
    CPU_SLAB = 16
    CPU_PARTIAL = 32
    DEFERRED = 64


@dataclass
class _Table:
    # Columns of equal length, in declaration order.

    def __len__(self) -> int:
        return len(next(iter(vars(self).values())))

    @classmethod
    def build(cls: Type[_T], length: int, **columns: Any) -> _T:
        """
        Return a table of *length* rows.

        :param columns: Arrays, or one value for all rows. What is left out is
            0, or -1 in signed columns.
        """
        made = []
        for name, dtype, missing in _columns(cls):
            value = columns.pop(name, missing)
            if isinstance(value, np.ndarray):
                if len(value) != length:
                    raise ValueError(f"{name} has {len(value)} rows, not {length}")
                made.append(value.astype(dtype, copy=False))
            else:
                column = np.empty(length, dtype)
                column.fill(value)  # as np.full() does, in a third of the time for few rows
                made.append(column)
        if columns:
            raise TypeError(f"no such columns: {', '.join(columns)}")
        return cls(*made)

    @classmethod
    def empty(cls: Type[_T]) -> _T:
        """Return the table without rows."""
        if cls not in _EMPTY:
            _EMPTY[cls] = [np.empty(0, dtype) for _, dtype, _ in _columns(cls)]
        return cls(*_EMPTY[cls])

    @classmethod
    def join(cls: Type[_T], parts: Sequence[_T]) -> _T:
        """Return one table with the rows of all *parts*."""
        filled = [part for part in parts if len(part)]
        if len(filled) < 2:
            return filled[0] if filled else cls.empty()
        parts = filled
        names = [name for name, _, _ in _columns(cls)]
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))

    @classmethod
    def melt(cls: Type[_T], parts: List[_T]) -> _T:
        """Return one table with the rows of all *parts*, which are gone then, column by column."""
        parts = [part for part in parts if len(part)]
        if len(parts) < 2:
            return cls.join(parts)
        made = []
        for name, _, _ in _columns(cls):
            made.append(np.concatenate([getattr(part, name) for part in parts]))
            for part in parts:
                delattr(part, name)
        return cls(*made)

    def take(self: _T, which: Any) -> _T:
        """Return the table of the rows selected by a mask or by positions."""
        return type(self)(*[column[which] for column in vars(self).values()])


_DTYPES: Dict[str, Tuple[Any, int]] = {
    "I64": (np.dtype(np.int64), -1),
    "I32": (np.dtype(np.int32), -1),
    "U64": (np.dtype(np.uint64), 0),
    "U8": (np.dtype(np.uint8), 0),
    "Bools": (np.dtype(np.bool_), 0),
}
_COLUMNS: Dict[Any, Tuple[Tuple[str, Any, int], ...]] = {}
_EMPTY: Dict[Any, List[Any]] = {}


def _columns(table: Type[_Table]) -> Tuple[Tuple[str, Any, int], ...]:
    # Names, dtypes and what is there if nothing is said, found once: each cache of the
    # machine fills a dozen tables.
    found = _COLUMNS.get(table)
    if found is None:
        found = tuple((column.name, *_DTYPES[str(column.type)]) for column in fields(table))
        _COLUMNS[table] = found
    return found


@dataclass
class Slabs(_Table):
    """The slabs of one cache."""

    page: U64
    """``struct slab *``, before Linux 5.17 ``struct page *`` (head)."""
    base: U64
    """Address of object 0."""
    objects: I64
    """Objects a slab of this order holds in this cache."""
    counted: I64
    """Objects in use by the slab's own count (``active``, ``inuse``)."""
    nid: I64
    """NUMA node of the page."""
    order: I64
    """Compound order: the slab has ``1 << order`` pages."""
    readable: I64
    """Order of the memory that its struct pages leave to it: no more is read."""
    word: I64
    """The page_type word of the head page."""
    marked: Bools
    """Whether the head page carries the slab mark."""
    cache_pointer: U64
    """The slab's own ``slab_cache``."""
    told: Bools
    """Whether that pointer names this cache."""
    allowed: I64
    """:class:`ListKind` bits: where a slab in this state may stand."""
    fits: I64
    """The same by its freelist alone, whatever its marks say; -1 where there are no marks."""
    transit: Bools
    """Whether its own state says that it may be between two lists just now."""
    busy: Bools
    """Whether a lock was held under which its count and lists change."""
    fresh: Bools
    """Whether it is being made just now, so that its freelist may be half written."""
    excused: Bools
    """Outside the accounting, waiting for RCU to give back its pages: not judged."""
    failed: Bools
    """Taken out of service by the kernel's own checks: counted, its objects not judged."""


@dataclass
class Claims(_Table):
    """
    What places say about objects.

    The longest table there is: its numbers have no more bits than they need. Of
    two that are multiplied, one has to be made wider.
    """

    place: I32
    """Index into :attr:`Ledger.places`."""
    container: I32
    """Row of :class:`Containers`."""
    position: I32
    """Position in the container, in the order the kernel would take objects."""
    address: U64
    """The address as it is recorded."""
    slab: I32
    """Row of :class:`Slabs`; -1 if the address is in no slab of the cache."""
    index: I32
    """Index of the object in its slab; -1 if the address is no object."""
    state: U8
    """:class:`State`."""
    passing: Bools
    """Whether whoever fills or empties the container leaves such an entry for a moment, be it of
    no object or of one that is recorded elsewhere."""


@dataclass
class Containers(_Table):
    """Places and what they promise."""

    place: I64
    """Index into :attr:`Ledger.places`."""
    owner: I64
    """CPU or node; -1 for a slab's own freelist."""
    address: U64
    """Address of the structure, or of the freelist array."""
    slab: I64
    """Row of :class:`Slabs` whose objects alone it holds; -1 if any of the cache will do."""
    counted: I64
    """Entries by the container's own count; -1 if it keeps none."""
    limit: I64
    """Most entries it may have; -1 if there is no limit."""
    walked: I64
    """Entries found."""
    state: U8
    """:class:`Walk`."""
    culprit: I64
    """Index of the object (or position) at which the walk ended; -1 before the first."""
    value: U64
    """What was found there: the bad pointer or index."""
    word: U64
    """Address of the word that holds it; 0 if that is not known."""
    nid: I64
    """NUMA node its objects must be from; -1 if they may be from any."""
    busy: Bools
    """Whether it was caught being filled or emptied, which explains how the walk ended."""


@dataclass
class Memberships(_Table):
    """Slabs on lists."""

    slab: I64
    """Row of :class:`Slabs`; -1 for a slab of another cache."""
    page: U64
    """``struct slab *`` of the member."""
    kind: I64
    """One :class:`ListKind`."""
    owner: I64
    """Node or CPU that has the list."""
    position: I64
    """Position from the list's head."""


class Counter(NamedTuple):
    """A number kept per node (or per cache), and what it must be."""

    code: str
    """Finding code if the two differ."""
    name: str
    """Member of ``struct kmem_cache_node``."""
    node: int
    kept: int
    """The kernel's number."""
    summed: int
    """The same, added up from the slabs."""
    slack: int = 0
    """Largest difference that work in progress explains."""
    moves: int = 0
    """Largest difference that whoever holds the node's lock explains; 0 if nobody does."""
    address: int = 0
    """Where the kernel's number is."""
    activity: Optional[str] = None
    """Who can leave such a difference, if few can."""

    @property
    def difference(self) -> int:
        """By how much the two differ."""
        return abs(self.kept - self.summed)

    @property
    def passes(self) -> bool:
        """Whether work in progress explains the difference."""
        return self.difference <= max(self.slack, self.moves)


class Break(NamedTuple):
    """A list whose links do not close."""

    kind: ListKind
    owner: int
    at: int
    """``struct slab *`` whose link is wrong, or the address of the list head."""
    member: str
    """``next`` or ``prev``."""
    expected: Optional[int]
    """Address the link should hold, where its neighbour tells."""
    found: int
    """Address it holds."""
    busy: bool = False
    """The list's lock was held, and who holds it can have left such a link for a moment."""
    activity: Optional[str] = None
    """Which work alone would, if that does not follow from the code."""
    word: Optional[int] = None
    """Where the link itself is."""
    of_page: bool = False
    """Whether :attr:`at` is a page that both of its neighbours lead to, a slab or not."""


class Suspect(NamedTuple):
    """Damage an allocator met while reading, in the words of a finding."""

    code: str
    message: str
    slab: int = -1
    """Row of :class:`Slabs`."""
    node: Optional[int] = None
    cpu: Optional[int] = None
    place: Optional[str] = None
    expected: Optional[int] = None
    found: Optional[int] = None
    moving: bool = False
    """Work in progress explains it."""
    address: Optional[int] = None
    """Where the damage is."""
    activity: Optional[str] = None
    """Which work would explain it, if that does not follow from the code."""
    member: Optional[str] = None
    """The member at fault, of the structure that the finding is about."""
    word: Optional[int] = None
    """Where what was found is in memory."""
    measure: Optional[Measure] = None
    """What was expected and found, if that does not follow from the code."""


@dataclass(frozen=True)
class Zone:
    """
    Bytes of many objects or slabs whose value the kernel's debugging promises.

    Row *i* of each array belongs to the same object.
    """

    code: str
    """Finding code if they differ: ``redzone``, ``poison``, ``padding`` or ``track``."""
    name: str
    """What the bytes are, as a finding spells it: ``left red zone``."""
    slab: I64
    """Row of :class:`Slabs`."""
    index: I64
    """Index of the object in its slab; -1 for bytes of the slab itself."""
    address: U64
    """Address of the first byte."""
    found: U8
    """Shape (n, width): what memory holds."""
    expected: Optional[U8]
    """Shape (n, width) or broadcastable to it: what it must hold; ``None``: anything but zeroes."""
    passing: Optional[U8] = None
    """What it holds for a moment while the object changes hands, in the same shape."""
    wanted: Optional[str] = None
    """What it must be, in words, where more than one value is right: each row is damaged, whole."""


@dataclass
class Facts:
    """What is the same for every slab of the cache."""

    name: str
    address: int
    """``struct kmem_cache *``."""
    object_size: int
    """Bytes users asked for."""
    stride: int
    """Bytes from one object to the next."""
    objects_per_slab: int
    """Of a slab of the usual order."""
    in_flight: int = 0
    """Most slabs that can be between two places at once: one per CPU."""
    refill: int = 0
    """Most free objects of the slabs that are taken off a list at once to be emptied, by all
    CPUs together; 0 where a CPU takes one slab at a time."""
    idle_word: Optional[int] = None
    """What the page_type word of each slab must hold, where that is always the same."""


@dataclass
class Ledger:
    """Everything that was read of one cache."""

    facts: Facts
    places: Tuple[Place, ...]
    slabs: Slabs
    claims: Claims = field(default_factory=Claims.empty)
    containers: Containers = field(default_factory=Containers.empty)
    memberships: Memberships = field(default_factory=Memberships.empty)
    counters: List[Counter] = field(default_factory=list)
    breaks: List[Break] = field(default_factory=list)
    suspects: List[Suspect] = field(default_factory=list)
    zones: Iterable[Zone] = ()
    """Read while it is iterated, some slabs at a time."""
    lists_known: bool = True
    """Whether every list of the cache could be read, so that absence means something."""
    notes: List[Suspect] = field(default_factory=list)
    """States that are worth a word and are no damage."""
    judged: Dict[str, int] = field(default_factory=dict)
    """How many rows of :attr:`zones` were looked at, by their name."""
    unread: int = 0
    """Slabs that :attr:`zones` would be about, but are not in the target."""

    def claims_of(self, name: str) -> Claims:
        """Return the claims of one kind of place."""
        wanted = [i for i, place in enumerate(self.places) if place.name == name]
        return self.claims.take(np.isin(self.claims.place, wanted))


def all_differ(numbers: I64, limit: int) -> bool:
    """
    Return whether no number comes twice.

    :param limit: Most are below it, and all are at least 0.
    """
    # Sorting them takes longer than marking them, unless they are few and far between.
    most = int(numbers.max(initial=-1))
    if most >= limit or limit > _SPARSE * len(numbers) + _SMALL:
        return len(distinct(numbers)) == len(numbers)
    seen = np.zeros(limit, np.bool_)
    seen[numbers] = True
    return int(np.count_nonzero(seen)) == len(numbers)


__all__ = [
    "Break",
    "Claims",
    "Containers",
    "Counter",
    "Facts",
    "Ledger",
    "ListKind",
    "Memberships",
    "Place",
    "Slabs",
    "State",
    "Suspect",
    "Walk",
    "Zone",
    "all_differ",
]
