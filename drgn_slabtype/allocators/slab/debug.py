# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What CONFIG_DEBUG_SLAB promises about the bytes of a slot
---------------------------------------------------------

A red zone, the object, a second red zone and the address of the last caller,
which ends the slot. Objects on a freelist or in an array cache are poisoned.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, Optional

import numpy as np

from ...ledger import I64, U8, U64, Bools, Ledger, State, Suspect, Walk, Zone
from ...machine import Machine
from ..slots import Claimed, Part, Slots, read_slabs
from .cache import Mode, SlabCache

_RED_FREE, _RED_USED = 0x09F911029D74E35B, 0xD84156C5635688C0
_RED_BYTES = 8  # an unsigned long long, also on 32 bits
_POISON_FREE, _POISON_END = 0x6B, 0xA5


class DebugReader:
    """
    Reads the promised bytes of a cache.

    :param ledger: With all claims of the cache.
    :param freelist: ``slab->freelist`` of each slab.
    """

    def __init__(self, machine: Machine, cache: SlabCache, ledger: Ledger, freelist: U64) -> None:
        self._memory = machine.memory
        self._knows_cpus = not machine.per_cpu.lost.any()
        self._cache = cache
        self._ledger = ledger
        self._freelist = freelist
        red = np.array([[_RED_USED], [_RED_FREE]], f"{self._memory.byteorder}u{_RED_BYTES}")
        self._red: U8 = red.view(np.uint8)
        word = self._memory.word_size
        self._caller = cache.size - word
        self._second_red = cache.size - _RED_BYTES
        if cache.store_user:
            # The second red zone is aligned like an unsigned long long.
            self._second_red -= max(word, 8)
        self._width = machine.structure("freelist_idx_t").size
        self._array = cache.num * self._width
        """Bytes of an index array, which may lie in a free object."""

    def _fits(self) -> bool:
        # Whether all parts lie in a slot, and the slots in a slab: where they do
        # not, the cache is damaged, and nothing is promised.
        cache = self._cache
        first = _RED_BYTES if cache.red_zone else 0
        within = first <= cache.obj_offset <= cache.size - cache.object_size
        if cache.mode is Mode.OBJFREELIST:
            within = within and self._array <= cache.object_size
        last = self._second_red if cache.red_zone else self._caller if cache.store_user else 0
        return within and last >= 0 and cache.size <= cache.span

    def _misfit(self) -> Optional[str]:
        # What does not add up in a slot, in words.
        cache, word = self._cache, self._memory.word_size
        lead = _RED_BYTES if cache.red_zone else 0
        parts = lead + -(-cache.object_size // word) * word + lead
        if cache.store_user:
            parts += max(word, 8) if cache.red_zone else word
        parts = -(-parts // cache.align) * cache.align
        # Under debug_pagealloc, slots are made as large as pages at their start.
        size = cache.size - (cache.obj_offset - lead)
        if size == parts:
            return None
        return f"slots of {size} bytes have parts that add up to {parts}"

    def suspects(self) -> Iterator[Suspect]:
        """Yield why nothing is promised, where the parts of a slot do not add up."""
        misfit = self._misfit()
        if misfit is not None:
            yield Suspect("not-understood", f"what is around its objects is not judged: {misfit}")

    def zones(self) -> Iterator[Zone]:
        """Yield the zones of all slabs of which it is known which objects are free."""
        if not self._fits() or self._misfit() is not None:
            return
        cache, slabs = self._cache, self._judged()
        start = self._ledger.slabs.base[slabs] - np.uint64(cache.obj_offset)
        known = Claimed(self._ledger, self._ledger.claims.state == State.FREE)
        for some in read_slabs(self._memory, self._ledger, slabs, start, cache.num * cache.size):
            slots = some.slots(cache.num, cache.size)
            (free,) = known.of(slots)
            if cache.red_zone:
                yield from self._red_zones(slots, free)
            if cache.poison:
                yield self._poison(slots, np.flatnonzero(free))
            if cache.store_user:
                used = np.flatnonzero(~free)
                yield slots.zone(Part("track", "last caller", self._caller, cache.size), used, None)

    def _judged(self) -> I64:
        # Slabs of which nothing is doubtful.
        ledger, slabs, boxes = self._ledger, self._ledger.slabs, self._ledger.containers
        arrays = boxes.take(boxes.slab < 0)
        torn = (arrays.counted >= 0) & (arrays.counted != arrays.walked)
        torn |= arrays.state == Walk.UNREADABLE
        # A node that is lost takes its shared array with it.
        if not (ledger.lists_known and self._knows_cpus) or torn.any():
            return np.zeros(0, np.int64)
        unsure = slabs.excused | slabs.transit | slabs.busy
        unsure[[suspect.slab for suspect in ledger.suspects if suspect.slab >= 0]] = True
        own = boxes.slab[(boxes.slab >= 0) & (boxes.state == Walk.WHOLE)]
        return own[~unsure[own]]

    def _red_zones(self, slots: Slots, free: Bools) -> Iterator[Zone]:
        # An object is marked as used after it was taken, and as free before it
        # is put down: for a moment it is marked free and recorded nowhere.
        every = np.arange(len(free))
        expected = self._red[free.astype(np.intp)]
        passing = np.broadcast_to(self._red[1], expected.shape)
        for name, at in (
            ("first red zone", self._cache.obj_offset - _RED_BYTES),
            ("second red zone", self._second_red),
        ):
            yield slots.zone(Part("redzone", name, at, at + _RED_BYTES), every, expected, passing)

    def _poison(self, slots: Slots, rows: I64) -> Zone:
        cache = self._cache
        first, last = cache.obj_offset, cache.obj_offset + cache.object_size
        zone = slots.zone(Part("poison", "poison", first, last), rows, None)
        expected = np.full(zone.found.shape, _POISON_FREE, np.uint8)
        expected[:, -1:] = _POISON_END
        # The index array of a slab may lie in one of its free objects.
        hosts = (self._freelist[zone.slab] == zone.address) & (cache.mode is Mode.OBJFREELIST)
        expected[hosts, : self._array] = zone.found[hosts, : self._array]
        return replace(zone, expected=expected, passing=self._passing(zone, expected))

    def _passing(self, zone: Zone, expected: U8) -> U8:
        # When a slab has become full, the array in its last object gives way to
        # poison with no lock held; until then, a link may lie over its start.
        cache, source, found = self._cache, self._memory, zone.found
        passing = expected.copy()
        if cache.mode is not Mode.OBJFREELIST:
            return passing
        full = self._ledger.slabs.counted[zone.slab] == cache.num
        last = np.ascontiguousarray(found[:, self._array - self._width : self._array])
        left = last.view(f"{source.byteorder}u{self._width}")[:, 0].astype(np.int64) == zone.index
        word = source.word_size
        if self._array <= word <= cache.object_size:
            link = np.ascontiguousarray(found[:, :word]).view(source.word)[:, 0].astype(np.uint64)
            left |= (link == 0) | source.is_kernel_address(link)
        end = max(self._array, word)
        rows = np.flatnonzero(full & left)
        passing[rows, :end] = found[rows, :end]
        return passing
