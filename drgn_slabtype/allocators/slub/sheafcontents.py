# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What stands in sheaves
----------------------

Header and array of each sheaf of a cache, as far as they reach. Caches have few, and
those of many caches are read together.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence, Set

import numpy as np

from ...index import SlabIndex
from ...ledger import I64, U64
from ...machine.columns import Rows
from ...machine.memory import Gathered
from ..caches import Caches
from .barns import Found

_MAX_CAPACITY = 1 << 16
_AT_ONCE = 1 << 20  # bytes that are read together


class Content(NamedTuple):
    """What stands in the sheaves of one cache: a row each."""

    rows: Rows
    """``struct slab_sheaf`` with :attr:`readable` objects."""
    room: I64
    """How many objects there is room for in its memory; -1 where nothing tells."""
    readable: int
    """How many objects are read of each."""


class SheafContents:
    """
    Reads the sheaves of caches, and hands them out cache by cache.

    :param found: The sheaves of each cache, by its position.
    :param owner: Position of the cache of each row of the index.
    """

    def __init__(
        self, found: Dict[int, List[Found]], caches: Caches, index: SlabIndex, owner: I64
    ) -> None:
        self._found = found
        self._caches, self._index, self._owner = caches, index, owner
        self._layout = index.machine.structure("struct slab_sheaf")
        self._ahead: Dict[int, Content] = {}
        self._given: Set[int] = set()

    def of(self, number: int) -> Content:
        """Return those of a cache that has any, and no longer keep them."""
        if number in self._ahead:
            return self._ahead.pop(number)
        # Of one that is asked for again, nobody knows whether others will be.
        self._ahead.update(self._read([number] if number in self._given else self._next(number)))
        self._given.update(self._ahead)
        return self._ahead.pop(number)

    def _next(self, number: int) -> List[int]:
        # The cache, and those after it that have not been read.
        some, size = [number], 0
        for other in sorted(self._found):
            if other > number and other not in self._given:
                size += len(self._found[other]) * self._width(self._capacity(other))
                if size > _AT_ONCE:
                    break
                some.append(other)
        return some

    def _capacity(self, number: int) -> int:
        return min(int(self._caches.rows["sheaf_capacity"][number]), _MAX_CAPACITY)

    def _width(self, objects: int) -> int:
        return self._layout.offset("objects") + objects * self._index.machine.memory.word_size

    def _read(self, numbers: Sequence[int]) -> Dict[int, Content]:
        addresses = [
            np.array([sheaf.address for sheaf in self._found[number]], np.uint64)
            for number in numbers
        ]
        ends = np.cumsum([len(some) for some in addresses])
        rooms = np.split(self._room(np.concatenate(addresses)), ends[:-1])
        readable = []
        for number, room in zip(numbers, rooms):
            fits = int(room.max())
            readable.append(min(self._capacity(number), fits if fits >= 0 else _MAX_CAPACITY))
        found: Dict[int, Content] = {}
        for most in set(readable):
            alike = [at for at, one in enumerate(readable) if one == most]
            where = np.concatenate([addresses[at] for at in alike])
            rows = self._index.machine.rows("struct slab_sheaf", where, self._width(most))
            first = 0
            for at in alike:
                end = first + len(addresses[at])
                own = Rows(
                    rows.structure,
                    addresses[at],
                    Gathered(rows.raw[first:end], rows.ok[first:end]),
                )
                found[numbers[at]] = Content(own, rooms[at], most)
                first = end
        return found

    def _room(self, addresses: U64) -> I64:
        # Unknown for one that is in pages of its own, or in KFENCE's.
        room = np.full(len(addresses), -1, np.int64)
        rows = self._index.rows_of_addresses(addresses)
        known = np.flatnonzero(rows >= 0)
        known = known[self._owner[rows[known]] >= 0]
        sizes = self._caches.rows["object_size"].astype(np.int64)
        bytes_left = sizes[self._owner[rows[known]]] - self._layout.offset("objects")
        room[known] = np.maximum(bytes_left // self._index.machine.memory.word_size, -1)
        return room
