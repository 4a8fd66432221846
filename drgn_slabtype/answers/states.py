# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The state of every object
-------------------------

What the tables of a :class:`~drgn_slabtype.ledger.Ledger` say together about
each object of a cache: columns, with as many rows as the cache has objects.
"""

from __future__ import annotations

import enum
from dataclasses import astuple, dataclass, replace
from typing import (
    Any,
    Collection,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
    overload,
)

import numpy as np

from ..ledger import I32, I64, U8, U64, Bools, Ledger, ListKind, State, Walk, all_differ
from ..particulars import SlabObject as SlabObject
from ..records import Rows, table
from ..rules.claims import container_name


class ObjectState(enum.IntEnum):
    """What can be said of an object."""

    IN_USE = 0
    """Its user, or the allocator itself, holds it."""
    FREE = 1
    """A place records it as free."""
    WAITING = 2
    """Its user has freed it; a grace period has to pass."""
    UNKNOWN = 3
    """The structures contradict each other."""

    @property
    def spelled(self) -> str:
        """Return the name as people read it: ``in use``."""
        return self.name.lower().replace("_", " ")


# What an object is whose only claim says free, waiting, live.
_SAYS = np.zeros(len(State), np.uint8)
_SAYS[State.FREE], _SAYS[State.WAITING] = ObjectState.FREE, ObjectState.WAITING
_SAYS[State.LIVE] = ObjectState.IN_USE

_Ints = Union[U8, I32, I64]

LISTS = {
    ListKind.PARTIAL: "partial",
    ListKind.FULL: "full",
    ListKind.FREE: "free",
    ListKind.CPU_SLAB: "cpu",
    ListKind.CPU_PARTIAL: "cpu partial",
    ListKind.DEFERRED: "deferred",
}
"""What the lists of slabs are called; a CPU allocates from the slab that is on ``cpu``."""


@dataclass(frozen=True)
class Objects:
    """
    Objects of one cache, as columns of equal length; iterating gives :class:`SlabObject`.

    An object that no place claims is in use. That includes objects which a
    caller or a grace period holds in bulk where no list of the cache leads
    (kfree_rcu() batches, prefilled sheaves).
    """

    ledger: Ledger
    """What they were made from."""
    slab: I64
    """Row of ``ledger.slabs``."""
    index: I64
    """Position in the slab."""
    address: U64
    """As users of the object see it."""
    state: U8
    """:class:`ObjectState`."""
    claim: I64
    """First row of ``ledger.claims`` about the object; -1 if there is none."""
    guarded: Tuple[SlabObject, ...] = ()
    """Objects of the cache that are in KFENCE's pool, and so in no row of the columns."""
    unavailable: Tuple[str, ...] = ()
    """What is missing because it is not in the target, or cannot be reached."""
    found: Optional[int] = None
    """How many there are, those included that are not told, and those in KFENCE's pool."""
    guarded_found: int = 0
    """How many of those are in KFENCE's pool."""
    damaged: bool = False
    """Whether there is a finding about the cache; never of a target that moves."""

    def __len__(self) -> int:
        return len(self.address) + len(self.guarded)

    def __repr__(self) -> str:
        return table(self, len(self))

    def take(self, which: Bools) -> Objects:
        """Return the objects that a mask selects, with no guarded ones."""
        return Objects(
            self.ledger,
            self.slab[which],
            self.index[which],
            self.address[which],
            self.state[which],
            self.claim[which],
        )

    def first(self, most: int) -> Objects:
        """Return no more than so many."""
        which = np.arange(len(self.address)) < most
        guarded = self.guarded[: max(most - len(self.address), 0)]
        return replace(self.take(which), guarded=guarded)

    def in_states(self, states: Collection[ObjectState]) -> Objects:
        """Return the objects in any of some states."""
        names = {state.spelled for state in states}
        guarded = tuple(found for found in self.guarded if found.state in names)
        which = np.isin(self.state, np.array(sorted(states), np.uint8))
        return replace(self.take(which), guarded=guarded)

    def addresses(self) -> List[int]:
        """Return the address of every object."""
        found: List[int] = self.address.tolist()
        return found + [guarded.address for guarded in self.guarded]

    def __iter__(self) -> Iterator[SlabObject]:
        for rows in self.batches():
            yield from (SlabObject(*row) for row in rows)

    @overload
    def __getitem__(self, row: int) -> SlabObject: ...

    @overload
    def __getitem__(self, row: slice) -> List[SlabObject]: ...

    def __getitem__(self, row: Union[int, slice]) -> Union[SlabObject, List[SlabObject]]:
        if isinstance(row, slice):
            return Rows(self[at] for at in range(*row.indices(len(self))))
        if not -len(self) <= row < len(self):
            raise IndexError(f"there are {len(self)} objects")
        row %= len(self)
        if row >= len(self.address):
            return self.guarded[row - len(self.address)]
        which = np.zeros(len(self.address), np.bool_)
        which[row] = True
        return next(iter(self.take(which)))

    def batches(
        self, step: int = 1 << 16
    ) -> Iterator[Iterator[Tuple[int, int, int, str, Optional[str], Optional[int]]]]:
        """Yield the rows as plain tuples, many at a time."""
        states = [state.spelled for state in ObjectState]
        page = self.ledger.slabs.page
        for start in range(0, len(self.address), step):
            cut = slice(start, start + step)
            claim = self.claim[cut]
            yield zip(
                self.address[cut].tolist(),
                page[self.slab[cut]].tolist(),
                self.index[cut].tolist(),
                [states[state] for state in self.state[cut].tolist()],
                self._places(claim),
                _positions(self.ledger.claims.position, claim),
            )
        yield (astuple(found) for found in self.guarded)

    def _places(self, claim: I64) -> List[Optional[str]]:
        # The slabs' own freelists all have the same name: spell each name once.
        claims, boxes = self.ledger.claims, self.ledger.containers
        box = np.full(len(claim), -1, np.int64)
        box[claim >= 0] = claims.container[claim[claim >= 0]]
        owner = np.where(box >= 0, boxes.owner[box] if len(boxes) else 0, 0)
        place = np.where(box >= 0, boxes.place[box] if len(boxes) else 0, -1)
        keys = (place + 1) << 32 | (owner + 1)
        _, first, back = np.unique(keys, return_index=True, return_inverse=True)
        names = [
            container_name(self.ledger, int(box[at])) if box[at] >= 0 else None for at in first
        ]
        return [names[at] for at in back.tolist()]


def _positions(column: Union[I32, I64], rows: I64) -> List[Optional[int]]:
    # column[rows], None where rows is -1, or a place is in no order.
    picked: List[Optional[int]] = [None] * len(rows)
    for at in (rows >= 0).nonzero()[0].tolist():
        position = int(column[rows[at]])
        picked[at] = position if position >= 0 else None
    return picked


def object_states(ledger: Ledger) -> Objects:
    """
    Return every object of a cache with its state.

    ``unknown`` are objects that one place calls free and another not, those
    that may be on the lost part of a damaged freelist, and those about which a
    slab's count and its freelist disagree.
    """
    slabs, claims = ledger.slabs, ledger.claims
    first = np.zeros(len(slabs) + 1, np.int64)
    np.cumsum(slabs.objects, out=first[1:])
    slab = np.repeat(np.arange(len(slabs)), slabs.objects)
    index = np.arange(first[-1]) - first[slab]
    address = slabs.base[slab] + index.astype(np.uint64) * np.uint64(ledger.facts.stride)
    known = _about_objects(ledger).nonzero()[0]
    at = first[claims.slab[known]] + claims.index[known]
    said = _SAYS[claims.state[known]]
    state = np.full(len(slab), ObjectState.IN_USE, np.uint8)
    claim = np.full(len(slab), -1, np.int64)
    # The last assignment wins, and the first claim shall.
    state[at[::-1]], claim[at[::-1]] = said[::-1], known[::-1]
    state[at[said != state[at]]] = ObjectState.UNKNOWN
    lost, excess = _doubts(ledger)
    state[(claim < 0) & lost[slab]] = ObjectState.UNKNOWN
    on_freelist = claim >= 0
    on_freelist[on_freelist] = _is_own(ledger)[claims.place[claim[on_freelist]]]
    state[on_freelist & excess[slab]] = ObjectState.UNKNOWN
    return Objects(ledger, slab, index, address, state, claim)


class Tally(NamedTuple):
    """How many objects each slab has of each kind."""

    by_state: I64
    """Shape (slabs, 4): by :class:`ObjectState`."""
    by_place: I64
    """Shape (slabs, places): free ones by the place that records them first."""


def tally(ledger: Ledger) -> Tally:
    """Return how many objects are in which state, as :func:`object_states` has it, by slab."""
    slabs, claims = ledger.slabs, ledger.claims
    objects = np.maximum(slabs.objects, 0)
    lost, excess = _doubts(ledger)
    inside = _about_objects(ledger)
    # Of nearly all caches all are, and none is copied then.
    some: Any = slice(None) if inside.all() else inside
    slab, place, state = claims.slab[some], claims.place[some], _SAYS[claims.state[some]]
    width = int(objects.max(initial=0))
    keys = _cells(slab, claims.index[some], width)
    if not all_differ(keys, len(slabs) * width):
        _, first, back = np.unique(keys, return_index=True, return_inverse=True)
        differs = np.zeros(len(first), np.bool_)
        differs[back[state != state[first][back]]] = True
        state = np.where(differs, np.uint8(ObjectState.UNKNOWN), state[first])
        slab, place = slab[first], place[first]
    del keys
    state[_is_own(ledger)[place] & excess[slab]] = ObjectState.UNKNOWN
    by_state = _counted(slab, state, (len(slabs), len(ObjectState)))
    unclaimed = objects - by_state.sum(axis=1)
    by_state[:, ObjectState.UNKNOWN] += np.where(lost, unclaimed, 0)
    by_state[:, ObjectState.IN_USE] += np.where(lost, 0, unclaimed)
    free: Any = state == ObjectState.FREE
    free = slice(None) if free.all() else free
    return Tally(by_state, _counted(slab[free], place[free], (len(slabs), len(ledger.places))))


def _about_objects(ledger: Ledger) -> Bools:
    # Which claims are about an object of a slab that is known.
    slabs, claims = ledger.slabs, ledger.claims
    inside = (claims.slab >= 0) & (claims.index >= 0)
    if len(slabs):
        inside &= claims.index < slabs.objects[np.maximum(claims.slab, 0)]
    return inside


def _counted(rows: _Ints, columns: _Ints, shape: Tuple[int, int]) -> I64:
    cells = _cells(rows, columns, shape[1])
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape)


def _cells(rows: _Ints, columns: _Ints, width: int) -> I64:
    # Numbers of the cells of a table, row by row.
    cells = rows.astype(np.int64)
    cells *= width
    cells += columns
    return cells


def _is_own(ledger: Ledger) -> Bools:
    # Which places are the slabs' own freelists.
    return np.array([not place.counted for place in ledger.places], np.bool_)


def _doubts(ledger: Ledger) -> Tuple[Bools, Bools]:
    # Slabs of which more objects may be free than are known to be, and slabs
    # whose freelist holds more than their count leaves.
    slabs, boxes = ledger.slabs, ledger.containers
    of_slab = boxes.slab >= 0
    broken = np.zeros(len(slabs), np.bool_)
    broken[boxes.slab[of_slab & (boxes.state != Walk.WHOLE)]] = True
    walked = np.zeros(len(slabs), np.int64)
    freelist = of_slab & _is_own(ledger)[boxes.place]
    walked[boxes.slab[freelist]] = boxes.walked[freelist]
    should = slabs.objects - slabs.counted
    return broken | (walked < should) | _nowhere(ledger), walked > should


def _nowhere(ledger: Ledger) -> Bools:
    # Slabs of SLAB of which it is not known where their objects lie.
    slabs = ledger.slabs
    nowhere = np.zeros(len(slabs), np.bool_)
    for suspect in ledger.suspects:
        if suspect.code == "slab-base-wrong":
            found = int(suspect.found or 0)
            nowhere[suspect.slab] = 0 <= int(slabs.base[suspect.slab]) - found < ledger.facts.stride
    return nowhere


def places_of(objects: Objects, row: int) -> Sequence[str]:
    """Return every place that records one object, with the position there."""
    ledger, claims = objects.ledger, objects.ledger.claims
    mine = (claims.slab == objects.slab[row]) & (claims.index == objects.index[row])
    places = []
    for claim in mine.nonzero()[0].tolist():
        place = container_name(ledger, int(claims.container[claim]))
        # The allocator's own structures are in no order.
        live = claims.state[claim] == State.LIVE
        places.append(place if live else f"{place}, position {claims.position[claim]}")
    return places
