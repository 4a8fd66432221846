# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What ``slub_debug`` promises about the bytes of a slab
------------------------------------------------------

Red zones before and behind an object and behind the size asked for, poison in a
free one, padding up to the next slot and at the end of the slab, and a record of
who allocated it. Where these lie, :mod:`.layout` tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Iterator, Optional

import numpy as np

from ...codes import WORD
from ...distinct import distinct
from ...ledger import I64, U8, U64, Bools, Ledger, State, Suspect, Walk, Zone
from ...machine import Machine
from ...regions import Region, region
from ..caches import read_caches
from ..kept import Cut
from ..members import at_member
from ..quarantine import QUARANTINE
from ..slots import Claimed, Part, SlabBytes, Slots, read_slabs
from .asked import POISON_PAD, RED_USED, DebugTraits, asked_sizes
from .cache import SlubCache
from .extensions import Extensions
from .layout import SlotLayout, odd_tracks, slot_layout

_RED_FREE, _POISON_FREE, _POISON_END = 0xBB, 0x6B, 0xA5
_PADDING: U8 = np.full((1, 1), POISON_PAD, np.uint8)


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
    told: Bools
    """Of which the record of the allocation is as it was made."""

    def zone(
        self, part: Part, which: Bools, expected: Optional[U8], passing: Optional[U8] = None
    ) -> Zone:
        # The part counts from the object's address.
        rows = np.flatnonzero(which & self.sure)

        def beside(value: Optional[U8]) -> Optional[U8]:
            return value if value is None or len(value) == 1 else value[rows]

        return self.slots.zone(part.after(self.lead), rows, beside(expected), beside(passing))

    def bytes(self, first: int, last: int) -> U8:
        # The same of all slots.
        return self.slots.bytes[:, self.lead + first : self.lead + last]


class ContentReader:
    """
    Reads the promised bytes of a debug cache.

    :param traits: What debugging does in all caches.
    :param ledger: With claims and containers of the slabs' own freelists.
    :param untracked: Objects that need not know who allocated them.
    """

    def __init__(
        self,
        machine: Machine,
        cache: SlubCache,
        traits: DebugTraits,
        ledger: Ledger,
        untracked: U64,
    ) -> None:
        self._untracked = untracked
        self._machine = machine
        self._memory = machine.memory
        self._cache = cache
        self._traits = traits
        self._ledger = ledger
        self._slot = SlotLayout(traits.parts, cache)
        self._misfit = self._slot.misfit() or traits.misfit
        self._track = machine.structure("struct track")
        self._extensions = Extensions(machine)
        self._held: Bools = np.array([place is QUARANTINE for place in ledger.places], np.bool_)
        self._own: Bools = np.array([not place.counted for place in ledger.places], np.bool_)

    def suspects(self) -> Iterator[Suspect]:
        """Yield why nothing is promised, where the parts of a slot do not add up."""
        tracked = self._misfit is not None and self._traits.misfit is None
        if tracked and odd_tracks(self._machine, self._traits.parts, self._cache):
            rows = self._machine.settled(read_caches).rows
            found = int(rows["flags"][self._cache.number])
            told = "with" if self._cache.store_user else "without"
            what = f"flags is 0x{found:x}, {told} SLAB_STORE_USER: {self._misfit}"
            one = Suspect("cache-wrong", what, found=found, member="flags", measure=WORD)
            yield from at_member(rows, self._cache.number, [one])
        elif self._misfit is not None:
            what = f"what is around its objects is not judged: {self._misfit}"
            yield Suspect("not-understood", what)

    def zones(self) -> Iterator[Zone]:
        """Yield the zones of all slabs whose freelist is whole."""
        if not self._slot.sound or self._misfit is not None:
            return
        slabs, judged = self._ledger.slabs, self._judged()
        start = slabs.base - np.uint64(self._cache.red_left_pad)
        for order in distinct(slabs.order[judged]).tolist():
            some = judged[slabs.order[judged] == order]
            span = self._memory.page_size << order
            for batch in read_slabs(self._memory, self._ledger, some, start[some], span):
                yield from self._batch(batch)

    def _judged(self) -> I64:
        slabs, boxes = self._ledger.slabs, self._ledger.containers
        # Which objects are free is known only where the count agrees.
        known = self._own[boxes.place] & (boxes.state == Walk.WHOLE)
        whole = boxes.slab[known & (boxes.walked == boxes.counted)]
        unsure = (slabs.readable != slabs.order) | slabs.excused | slabs.failed
        unsure |= slabs.transit | slabs.busy
        return whole[~unsure[whole]]

    def _batch(self, some: SlabBytes) -> Iterator[Zone]:
        cache, table, span = self._cache, self._ledger.slabs, some.bytes.shape[1]
        count = int(table.objects[some.slabs].max())
        first = cache.red_left_pad + self._slot.end
        pages = table.page[some.slabs]
        self._extensions.cover(some, pages, count, cache.size, first, POISON_PAD)
        objects = self._objects(some.slots(count, cache.size))
        yield from self._borders(objects)
        if cache.poison:
            yield self._poison(objects)
        if cache.padded:
            behind = Part("padding", "padding after the slot", self._slot.end, self._slot.limit)
            yield objects.zone(behind, np.ones_like(objects.free), _PADDING)
        if self._slot.tracks is not None:
            yield from self._tracks(objects, self._slot.tracks)
        at = self._slot.orig_size
        red = self._traits.asked_red and cache.red_zone and not self._slot.free_pointer_inside
        if red and at is not None:
            yield self._asked_size(objects, at)
        used = count * cache.size
        if cache.padded and used < span:
            yield Zone(
                "padding",
                "padding at the end of the slab",
                some.slabs,
                np.full(len(some.slabs), -1, np.int64),
                some.start + np.uint64(used),
                some.bytes[:, used:],
                np.full((1, span - used), POISON_PAD, np.uint8),
            )

    def _objects(self, slots: Slots) -> _Objects:
        # What the allocator lives in is in use, and what KASAN holds back looks as
        # if it were; what else is claimed by a place other than a freelist has
        # been freed by half.
        free, lived_in, held, elsewhere = self._claimed.of(slots)
        sure = ~elsewhere & ~(free & lived_in)
        told = ~free & ~held
        return _Objects(slots, self._cache.red_left_pad, free, sure, told)

    @cached_property
    def _claimed(self) -> Claimed:
        claims, held = self._ledger.claims, self._held[self._ledger.claims.place]
        own, live = self._own[claims.place], held | (claims.state == State.LIVE)
        return Claimed(self._ledger, own, live, held, ~own & ~live)

    def _borders(self, objects: _Objects) -> Iterator[Zone]:
        # Before the object and right behind it.
        cache, every = self._cache, np.ones_like(objects.free)
        gap = cache.object_size, cache.inuse
        if cache.red_zone:
            red = np.where(objects.free, _RED_FREE, RED_USED).astype(np.uint8)[:, None]
            other = np.where(objects.free, RED_USED, _RED_FREE).astype(np.uint8)[:, None]
            left = Part("redzone", "left red zone", -cache.red_left_pad, 0)
            yield objects.zone(left, every, red, other)
            yield objects.zone(Part("redzone", "right red zone", *gap), every, red, other)
        elif cache.padded and cache.object_size < cache.inuse:
            yield objects.zone(Part("padding", "padding after the object", *gap), every, _PADDING)

    def _poison(self, objects: _Objects) -> Zone:
        size = self._cache.object_size
        poison = np.full((1, size), _POISON_FREE, np.uint8)
        poison[0, -1] = _POISON_END
        return objects.zone(Part("poison", "poison", 0, size), objects.free, poison)

    def _tracks(self, objects: _Objects, at: int) -> Iterator[Zone]:
        # An allocated object has the caller in its first track, but for the
        # node structures that were carved out by hand while SLUB came up. It is
        # off the freelist before its track is written: for a moment, the first
        # time it is allocated, all of the track is as it was made.
        word = self._memory.word_size
        unwritten = ~objects.bytes(at, at + self._track.size).any(axis=1)
        base = objects.slots.address + np.uint64(objects.lead)
        told = objects.told & ~np.isin(base, self._untracked)
        first = at + self._track.offset("addr")
        caller = Part("track", "caller of the allocation", first, first + word)
        yield objects.zone(caller, told & ~unwritten, None)
        yield objects.zone(caller, told & unwritten, None, np.zeros((1, word), np.uint8))

    def _asked_size(self, objects: _Objects, at: int) -> Zone:
        size, width = self._cache.object_size, self._traits.parts.asked
        order = self._memory.byteorder
        asked = asked_sizes(objects.slots.bytes, objects.lead + at, width, order)
        which = ~objects.free & (asked < size)
        found = objects.bytes(0, size)
        beyond = np.arange(size)[None, :] >= asked[:, None]
        expected = np.where(beyond, np.uint8(RED_USED), found)
        return objects.zone(
            Part("redzone", "red zone after the size asked for", 0, size), which, expected
        )


def beyond_asked(
    machine: Machine, cache: SlubCache, traits: DebugTraits, cut: Cut, used: Bools
) -> Iterator[Region]:
    """
    Yield the bytes of kmalloc objects beyond the size asked for, if they are a red zone.

    Otherwise they are what the memory held earlier.

    :param used: Shape (slabs, number): which objects are allocated.
    """
    where = SlotLayout(traits.parts, cache).orig_size
    if where is None or not cache.red_zone or not traits.asked_red:
        return
    source = machine.memory
    slots = source.gather(cut.start, cut.number * cut.stride).bytes.reshape(-1, cut.stride)
    asked = asked_sizes(slots, cut.lead + where, traits.parts.asked, source.byteorder)
    rows = np.flatnonzero(used.reshape(-1) & (asked < cut.size))
    start = cut.addresses.reshape(-1)[rows] + np.uint64(cut.lead)
    beyond = (cut.size - asked[rows]).astype(np.uint64)
    yield region("debugging", start + asked[rows].astype(np.uint64), beyond)


def track_handles(machine: Machine, cache: SlubCache, cut: Cut) -> Iterator[U64]:
    """Yield the handles of the stack depot in both tracks of every object."""
    where = slot_layout(machine, cache).tracks
    track = machine.structure("struct track")
    # Since "mm/slub: use stackdepot to save stack trace in objects" (in v5.19);
    # before, the addresses themselves are in the track.
    if where is None or not track.has("handle"):
        return
    first = cut.addresses.reshape(-1) + np.uint64(cut.lead + where)
    for start in (first, first + np.uint64(track.size)):
        yield distinct(machine.rows("struct track", start)["handle"])
