# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What KFENCE says of the objects it guards.

Each has a page of its own, and metadata beside the pool: where it is in the page, what
of it is in use, and of which cache it is. Free ones are on one list. The rest of the page
holds a pattern for as long as the object is given out.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np

from ..findings import Damaged
from ..ledger import I64, U8, U64, Bools
from .content import damaged_ranges

_ALLOCATED = 1  # KFENCE_OBJECT_ALLOCATED
_PATTERN: U8 = np.arange(8, dtype=np.uint8) ^ np.uint8(0xAA)  # KFENCE_CANARY_PATTERN_U8()


class Guarded(NamedTuple):
    """``struct kfence_metadata`` of all objects of the pool, as columns."""

    in_place: Bools
    """Whether the object's address is in its own page."""
    state: U64
    size: U64
    cache: I64
    """Position of the cache; -1 if it is none."""
    object_size: U64
    """Bytes of an object of that cache."""
    pointer: U64
    """``cache``, as it stands there."""
    address: U64
    locked: Bools
    """Whether somebody writes to it."""
    states: int
    """How many states there are."""
    listed: Optional[Bools] = None
    """Whether it is on the list of free objects; ``None`` if that cannot be followed."""


class Odd(NamedTuple):
    """A member that KFENCE cannot have left like this."""

    row: int
    member: str
    found: int
    why: str


def judge_guarded(of: Guarded) -> Iterator[Odd]:
    """
    Yield what is wrong with the metadata, at most once for each object.

    ``kfence_guarded_alloc()`` takes an object off the list of free ones before it marks it
    as given out, and ``kfence_guarded_free()`` marks it as freed before it puts it there;
    all else is written under the object's lock.
    """
    told = of.locked.copy()

    def tell(wrong: Bools, member: str, column: U64, why: str) -> Iterator[Odd]:
        for row in np.flatnonzero(wrong & ~told).tolist():
            told[row] = True
            yield Odd(row, member, int(column[row]), why)

    yield from tell(~of.in_place, "addr", of.address, "which is not in the page of this object")
    yield from tell(of.state >= np.uint64(of.states), "state", of.state, "which is no state")
    used = of.state == _ALLOCATED
    yield from tell(used & (of.cache < 0), "cache", of.pointer, "and leads to no slab cache")
    beyond = used & ((of.size == 0) | (of.size > of.object_size))
    yield from tell(beyond, "size", of.size, "which no object of its cache has")
    if of.listed is not None:
        free = "and it is on the list of free objects"
        yield from tell(used & of.listed, "state", of.state, free)


class Canaries(NamedTuple):
    """The pages of some objects that are given out, as columns."""

    address: U64
    """Of each page."""
    found: U8
    """Shape (n, page size)."""
    first: I64
    """First byte of the object in its page."""
    size: I64
    """Bytes of the object."""

    @property
    def owned(self) -> Bools:
        """Shape (n, page size): which bytes are the object's."""
        at = np.arange(self.found.shape[1])
        inside: Bools = (at >= self.first[:, None]) & (at < (self.first + self.size)[:, None])
        return inside

    @property
    def blank(self) -> Bools:
        """Of which nothing but zeroes is beside the object: never filled, or not in the target."""
        owned = self.owned
        empty: Bools = ((self.found == 0) | owned).all(axis=1) & ~owned.all(axis=1)
        return empty


def judge_canaries(of: Canaries) -> Iterator[Tuple[int, Tuple[Damaged, ...]]]:
    """
    Yield the rows whose page is not the pattern beside the object, and what is there.

    ``set_canary()`` fills it when the object is given out, and ``check_canary()`` looks at
    it when it comes back, not before.
    """
    pattern = np.resize(_PATTERN, of.found.shape[1])  # pages begin at whole words
    expected = np.where(of.owned, of.found, pattern)
    wrong = (of.found != expected).any(axis=1) & ~of.blank
    for row in np.flatnonzero(wrong).tolist():
        yield row, damaged_ranges(int(of.address[row]), of.found[row], expected[row])
