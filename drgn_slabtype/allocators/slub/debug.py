# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What ``slub_debug`` promises about the bytes of a slab
------------------------------------------------------

From an object's address on: the object, a red zone or padding up to
``inuse``, the free pointer if it lies outside, two tracks, the size asked for,
padding up to the next slot; before it the left red zone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, Optional

import numpy as np

from ...ledger import I64, U8, U64, Bools, Ledger, Walk, Zone
from ...machine import Machine
from ...regions import Region, region
from ..kept import Cut
from ..slots import SlabBytes, Slots, claimed, read_slabs
from .cache import SlubCache
from .extensions import Extensions

_RED_FREE, _RED_USED = 0xBB, 0xCC
_POISON_FREE, _POISON_END, _POISON_PAD = 0x6B, 0xA5, 0x5A
_PADDING: U8 = np.full((1, 1), _POISON_PAD, np.uint8)


class SlotLayout:
    """Where the parts of a slot lie, in bytes from the object's address."""

    def __init__(self, machine: Machine, cache: SlubCache) -> None:
        outside = cache.offset >= cache.inuse
        word = machine.memory.word_size
        self.tracks: Optional[int] = None
        end = cache.inuse + (word if outside else 0)
        if cache.store_user:
            self.tracks = end
            end += 2 * machine.structure("struct track").size
        self.limit = cache.size - cache.red_left_pad
        """Where the next slot's left red zone begins."""
        self.free_pointer_inside = not outside
        self.sound = 0 < cache.object_size <= cache.inuse <= end <= self.limit
        """Whether the parts follow each other in the slot, as in every sound cache."""
        self.orig_size: Optional[int] = None
        # Since Linux kernel commit 6edf2576a6cc ("mm/slub: enable debugging
        # memory wasting of kmalloc") (in v6.1), a kmalloc object remembers the
        # size asked for. It was widened from unsigned int to unsigned long in
        # 6.19 and in 6.12's stable releases; no type tells, so the padding is
        # judged from where it begins in the wider form. Where there is no room
        # for that, the kernel is an older one.
        if cache.store_user and cache.kmalloc and end + word <= self.limit:
            self.orig_size = end
            end += word
        self.end = end
        """Where the padding up to the next slot begins."""


@dataclass(frozen=True)
class _Objects:
    # The slots of some slabs, and what is known of the objects in them.
    slots: Slots
    lead: int
    """Bytes of a slot before its object."""
    free: Bools
    """Which are on the freelist of their slab."""
    sure: Bools
    """Of which that is all there is to know."""

    def zone(
        self,
        code: str,
        name: str,
        first: int,
        last: int,
        which: Bools,
        expected: Optional[U8],
        passing: Optional[U8] = None,
    ) -> Zone:
        # Bytes *first* to *last* from the object's address on.
        rows = np.flatnonzero(which & self.sure)

        def beside(value: Optional[U8]) -> Optional[U8]:
            return value if value is None or len(value) == 1 else value[rows]

        first, last = self.lead + first, self.lead + last
        return self.slots.zone(code, name, first, last, rows, beside(expected), beside(passing))

    def bytes(self, first: int, last: int) -> U8:
        # The same of all slots.
        return self.slots.bytes[:, self.lead + first : self.lead + last]


class ContentReader:
    """
    Reads the promised bytes of a debug cache.

    :param ledger: With claims and containers of the slabs' own freelists.
    :param untracked: Objects that need not know who allocated them.
    """

    def __init__(self, machine: Machine, cache: SlubCache, ledger: Ledger, untracked: U64) -> None:
        self._untracked = untracked
        self._memory = machine.memory
        self._cache = cache
        self._ledger = ledger
        self._slot = SlotLayout(machine, cache)
        self._track = machine.structure("struct track")
        self._extensions = Extensions(machine)
        self._own: Bools = np.array([not place.counted for place in ledger.places], np.bool_)

    def zones(self) -> Iterator[Zone]:
        """Yield the zones of all slabs whose freelist is whole."""
        if not self._slot.sound:
            return
        slabs, judged = self._ledger.slabs, self._judged()
        start = slabs.base - np.uint64(self._cache.red_left_pad)
        for order in np.unique(slabs.order[judged]).tolist():
            some = judged[slabs.order[judged] == order]
            span = self._memory.page_size << order
            for batch in read_slabs(self._memory, some, start[some], span):
                yield from self._batch(batch)

    def _judged(self) -> I64:
        slabs, boxes = self._ledger.slabs, self._ledger.containers
        # Which objects are free is known only where the count agrees.
        known = self._own[boxes.place] & (boxes.state == Walk.WHOLE)
        whole = boxes.slab[known & (boxes.walked == boxes.counted)]
        unsure = (slabs.readable != slabs.order) | slabs.excused | slabs.transit | slabs.busy
        return whole[~unsure[whole]]

    def _batch(self, some: SlabBytes) -> Iterator[Zone]:
        cache, table, span = self._cache, self._ledger.slabs, some.bytes.shape[1]
        count = int(table.objects[some.slabs].max())
        first = cache.red_left_pad + self._slot.end
        pages = table.page[some.slabs]
        self._extensions.cover(some, pages, count, cache.size, first, _POISON_PAD)
        objects = self._objects(some.slots(count, cache.size))
        yield from self._borders(objects)
        if cache.poison:
            yield from self._poison(objects)
        if self._slot.tracks is not None:
            yield from self._tracks(objects, self._slot.tracks)
        at = self._slot.orig_size
        if cache.red_zone and at is not None and not self._slot.free_pointer_inside:
            yield from self._asked_size(objects, at)
        used = count * cache.size
        if cache.poison and used < span:
            yield Zone(
                "padding",
                "padding at the end of the slab",
                some.slabs,
                np.full(len(some.slabs), -1, np.int64),
                some.start + np.uint64(used),
                some.bytes[:, used:],
                np.full((1, span - used), _POISON_PAD, np.uint8),
            )

    def _objects(self, slots: Slots) -> _Objects:
        own = self._own[self._ledger.claims.place]
        free, elsewhere = claimed(self._ledger, own, slots), claimed(self._ledger, ~own, slots)
        return _Objects(slots, self._cache.red_left_pad, free, ~elsewhere)

    def _borders(self, objects: _Objects) -> Iterator[Zone]:
        # Before the object and right behind it.
        cache, every = self._cache, np.ones_like(objects.free)
        gap = cache.object_size, cache.inuse
        if cache.red_zone:
            red = np.where(objects.free, _RED_FREE, _RED_USED).astype(np.uint8)[:, None]
            other = np.where(objects.free, _RED_USED, _RED_FREE).astype(np.uint8)[:, None]
            left = -cache.red_left_pad, 0
            yield objects.zone("redzone", "left red zone", *left, every, red, other)
            yield objects.zone("redzone", "right red zone", *gap, every, red, other)
        elif cache.poison and cache.object_size < cache.inuse:
            yield objects.zone("padding", "padding after the object", *gap, every, _PADDING)

    def _poison(self, objects: _Objects) -> Iterator[Zone]:
        size, every = self._cache.object_size, np.ones_like(objects.free)
        poison = np.full((1, size), _POISON_FREE, np.uint8)
        poison[0, -1] = _POISON_END
        yield objects.zone("poison", "poison", 0, size, objects.free, poison)
        gap = self._slot.end, self._slot.limit
        yield objects.zone("padding", "padding after the slot", *gap, every, _PADDING)

    def _tracks(self, objects: _Objects, at: int) -> Iterator[Zone]:
        # An allocated object has the caller in its first track, but for the
        # node structures that were carved out by hand while SLUB came up. It is
        # off the freelist before its track is written: for a moment, the first
        # time it is allocated, all of the track is as it was made.
        word = self._memory.word_size
        unwritten = ~objects.bytes(at, at + self._track.size).any(axis=1)
        base = objects.slots.address + np.uint64(objects.lead)
        told = ~objects.free & ~np.isin(base, self._untracked)
        first = at + self._track.offset("addr")
        caller = "track", "caller of the allocation", first, first + word
        yield objects.zone(*caller, told & ~unwritten, None)
        yield objects.zone(*caller, told & unwritten, None, np.zeros((1, word), np.uint8))

    def _asked_size(self, objects: _Objects, at: int) -> Iterator[Zone]:
        # Since Linux kernel commit 946fa0dbf2d8 ("mm/slub: extend redzone check
        # to extra allocated kmalloc space than requested") (in v6.2), the bytes
        # between the size asked for and the object's are a red zone. Nothing
        # but the bytes of all the objects tells whether the kernel does it.
        size = self._cache.object_size
        cut = np.ascontiguousarray(objects.bytes(at, at + 4)).view(f"{self._memory.byteorder}u4")
        asked = cut[:, 0].astype(np.int64)
        used = ~objects.free & objects.sure
        rows = np.flatnonzero(used & (asked < size) & (asked >= 0))
        if not len(rows):
            return
        found = objects.bytes(0, size)[rows]
        beyond = np.arange(size)[None, :] >= asked[rows, None]
        red = (found == _RED_USED) | ~beyond
        if 10 * np.count_nonzero(red.all(axis=1)) < 9 * len(rows):
            return
        expected = np.where(beyond, np.uint8(_RED_USED), found)
        first, last = objects.lead, objects.lead + size
        name = "red zone after the size asked for"
        yield objects.slots.zone("redzone", name, first, last, rows, expected)


def beyond_asked(machine: Machine, cache: SlubCache, cut: Cut, used: Bools) -> Iterator[Region]:
    """
    Yield the bytes of kmalloc objects beyond the size asked for, if they are a red zone.

    They are since Linux 6.2; before, they are what the memory held earlier. Only
    a cache where most are red is taken to have red zones there.

    :param used: Shape (slabs, number): which objects are allocated.
    """
    where = SlotLayout(machine, cache).orig_size
    if where is None or not cache.red_zone:
        return
    source = machine.memory
    slots = source.gather(cut.start, cut.number * cut.stride).bytes.reshape(-1, cut.stride)
    at = cut.lead + where
    word = np.ascontiguousarray(slots[:, at : at + 4]).view(f"{source.byteorder}u4")
    asked = word[:, 0].astype(np.int64)
    rows = np.flatnonzero(used.reshape(-1) & (asked < cut.size))
    asked = asked[rows]
    content = slots[rows, cut.lead : cut.lead + cut.size]
    red = (content == _RED_USED) | (np.arange(cut.size) < asked[:, None])
    if 2 * np.count_nonzero(red.all(axis=1)) >= len(rows):
        start = cut.addresses.reshape(-1)[rows] + np.uint64(cut.lead)
        beyond = (cut.size - asked).astype(np.uint64)
        yield region("debugging", start + asked.astype(np.uint64), beyond)


def track_handles(machine: Machine, cache: SlubCache, cut: Cut) -> Iterator[U64]:
    """Yield the handles of the stack depot in both tracks of every object."""
    where = SlotLayout(machine, cache).tracks
    track = machine.structure("struct track")
    # Since "mm/slub: use stackdepot to save stack trace in objects" (in v5.19);
    # before, the addresses themselves are in the track.
    if where is None or not track.has("handle"):
        return
    first = cut.addresses.reshape(-1) + np.uint64(cut.lead + where)
    for start in (first, first + np.uint64(track.size)):
        yield np.unique(machine.rows("struct track", start)["handle"])
