# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What ``slub_debug`` promises about the bytes of a slab
------------------------------------------------------

From an object's address on: the object, a red zone or padding up to
``inuse``, the free pointer if it lies outside, two tracks, the size asked for,
padding up to the next slot; before it the left red zone.
"""

from __future__ import annotations

from typing import Iterator, Optional, Tuple

import numpy as np
from drgn import sizeof

from ...ledger import I64, U8, U64, Bools, Ledger, Walk, Zone
from ...machine import Machine
from .cache import SlubCache

_RED_FREE, _RED_USED = 0xBB, 0xCC
_POISON_FREE, _POISON_END, _POISON_PAD = 0x6B, 0xA5, 0x5A
_EXTENSION_FLAGS = 7  # of slab->obj_exts; the rest is a pointer
_BATCH_BYTES = 8 << 20  # slab memory held at a time


class SlotLayout:
    """Where the parts of a slot lie, in bytes from the object's address."""

    def __init__(self, machine: Machine, cache: SlubCache) -> None:
        outside = cache.offset >= cache.inuse
        word = machine.memory.word_size
        self.tracks: Optional[int] = None
        end = cache.inuse + (word if outside else 0)
        if cache.store_user:
            self.tracks = end
            end += 2 * sizeof(machine.prog.type("struct track"))
        self.orig_size: Optional[int] = None
        # Since Linux kernel commit 6edf2576a6cc ("mm/slub: enable debugging
        # memory wasting of kmalloc") (in v6.1), a kmalloc object remembers the
        # size asked for. It was widened from unsigned int to unsigned long in
        # 6.19 and in 6.12's stable releases; no type tells, so the padding is
        # judged from where it begins in the wider form.
        if cache.store_user and cache.kmalloc:
            self.orig_size = end
            end += word
        self.end = end
        """Where the padding up to the next slot begins."""
        self.limit = cache.size - cache.red_left_pad
        """Where the next slot's left red zone begins."""
        self.free_pointer_inside = not outside
        self.fits = 0 < cache.object_size <= cache.inuse and end <= self.limit
        """Whether the parts lie one after the other in the slot."""


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
        self._track_addr = self._track.offset("addr")
        self._slab = machine.structure(f"struct {machine.layout.slab_struct}")
        self._extension = _extension_bytes(machine) if self._slab.has("obj_exts") else 0

    def zones(self) -> Iterator[Zone]:
        """Yield the zones of all slabs whose freelist is whole."""
        # Without the sizes, which the cache's own rule judges, no byte has a meaning.
        if not self._slot.fits:
            return
        ledger = self._ledger
        boxes = ledger.containers
        own = np.array([not place.counted for place in ledger.places], np.bool_)[boxes.place]
        # Which objects are free is known only where the count agrees.
        whole = boxes.slab[own & (boxes.state == Walk.WHOLE) & (boxes.walked == boxes.counted)]
        slabs = ledger.slabs
        whole = whole[slabs.readable[whole] == slabs.order[whole]]
        judged = whole[~slabs.excused[whole] & ~slabs.transit[whole] & ~slabs.busy[whole]]
        for order in np.unique(slabs.order[judged]).tolist():
            some = judged[slabs.order[judged] == order]
            span = self._memory.page_size << order
            step = max(1, _BATCH_BYTES // span)
            for start in range(0, len(some), step):
                yield from self._batch(some[start : start + step], span)

    def _batch(self, slabs: I64, span: int) -> Iterator[Zone]:
        cache, table = self._cache, self._ledger.slabs
        start = table.base[slabs] - np.uint64(cache.red_left_pad)
        gathered = self._memory.gather(start, span)
        slabs, data = slabs[gathered.ok], gathered.bytes[gathered.ok]
        if not len(slabs):
            return
        count = int(table.objects[slabs].max())
        used = count * cache.size
        self._cover_extensions(slabs, start[gathered.ok], data, count)
        slots = data[:, :used].reshape(len(slabs) * count, cache.size)
        slab, index = np.repeat(slabs, count), np.tile(np.arange(count), len(slabs))
        free, sure = self._free(slab, index)
        base = table.base[slab] + (index * cache.size).astype(np.uint64)
        yield from self._slots(slots, slab, index, base, free, sure)
        if cache.poison and used < span:
            tail = data[:, used:]
            yield Zone(
                "padding",
                "padding at the end of the slab",
                slabs,
                np.full(len(slabs), -1, np.int64),
                start[gathered.ok] + np.uint64(used),
                tail,
                np.full((1, tail.shape[1]), _POISON_PAD, np.uint8),
            )

    def _cover_extensions(self, slabs: I64, start: U64, data: U8, count: int) -> None:
        # What memory cgroups and allocation profiling know of each object is a
        # struct slabobj_ext. Since Linux 7.0, these lie in the slab itself where
        # there is room: behind the last object, or in the padding of each. Here
        # they become the padding that they replace.
        if not self._extension:
            return
        word, size = self._memory.word_size, self._cache.size
        where = self._ledger.slabs.page[slabs] + np.uint64(self._slab.offset("obj_exts"))
        gathered = self._memory.gather(where, word)
        pointers = gathered.bytes.view(self._memory.word)[:, 0].astype(np.uint64)
        offsets = (pointers & ~np.uint64(_EXTENSION_FLAGS)) - start
        used, span = count * size, data.shape[1]
        first = self._cache.red_left_pad + self._slot.end
        behind = (offsets >= np.uint64(used)) & (offsets < np.uint64(span))
        within = (offsets >= np.uint64(first)) & (offsets < np.uint64(size))
        for row in np.flatnonzero(behind).tolist():
            at = int(offsets[row])
            data[row, at : at + self._extension * count] = _POISON_PAD
        for row in np.flatnonzero(within).tolist():
            at = int(offsets[row])
            slots = data[row, :used].reshape(count, size)
            slots[:, at : at + self._extension] = _POISON_PAD

    def _free(self, slab: I64, index: I64) -> Tuple[Bools, Bools]:
        # Whether each object is on its slab's freelist, and whether that is
        # all there is to know about it.
        claims = self._ledger.claims
        known = (claims.slab >= 0) & (claims.index >= 0)
        most = int(self._ledger.slabs.objects.max(initial=0)) + 1
        keys = claims.slab * most + claims.index
        counted = np.array([place.counted for place in self._ledger.places], np.bool_)
        own = known & ~counted[claims.place]
        mine = slab * most + index
        return np.isin(mine, keys[own]), ~np.isin(mine, keys[known & ~own])

    def _slots(
        self, slots: U8, slab: I64, index: I64, base: U64, free: Bools, sure: Bools
    ) -> Iterator[Zone]:
        cache, slot, pad = self._cache, self._slot, self._cache.red_left_pad

        def zone(
            code: str,
            name: str,
            first: int,
            last: int,
            value: U8,
            which: Bools,
            other: Optional[U8],
        ) -> Zone:
            rows = np.flatnonzero(which & sure)
            return Zone(
                code,
                name,
                slab[rows],
                index[rows],
                base[rows] + np.uint64(first),
                slots[rows, pad + first : pad + last],
                value if len(value) == 1 else value[rows],
                None if other is None else other[rows],
            )

        every = np.ones(len(slots), np.bool_)
        red = np.where(free, _RED_FREE, _RED_USED).astype(np.uint8)[:, None]
        other = np.where(free, _RED_USED, _RED_FREE).astype(np.uint8)[:, None]
        padding = np.full((1, 1), _POISON_PAD, np.uint8)
        if cache.red_zone:
            # The left red zone ends at the object; base + first wraps below it.
            rows = np.flatnonzero(sure)
            yield Zone(
                "redzone",
                "left red zone",
                slab[rows],
                index[rows],
                base[rows] - np.uint64(pad),
                slots[rows, :pad],
                red[rows],
                other[rows],
            )
            right = cache.object_size, cache.inuse
            yield zone("redzone", "right red zone", *right, red, every, other)
        elif cache.poison and cache.object_size < cache.inuse:
            gap = cache.object_size, cache.inuse
            yield zone("padding", "padding after the object", *gap, padding, every, None)
        if cache.poison:
            poison = np.full((1, cache.object_size), _POISON_FREE, np.uint8)
            poison[0, -1] = _POISON_END
            yield zone("poison", "poison", 0, cache.object_size, poison, free, None)
            gap = slot.end, slot.limit
            yield zone("padding", "padding after the slot", *gap, padding, every, None)
        if slot.tracks is not None:
            yield from self._tracks(slots, slab, index, base, ~free & sure)
        if cache.red_zone and slot.orig_size is not None and not slot.free_pointer_inside:
            yield from self._asked_size(slots, slab, index, base, ~free & sure)

    def _tracks(self, slots: U8, slab: I64, index: I64, base: U64, used: Bools) -> Iterator[Zone]:
        # An allocated object has the caller in its first track, but for the
        # node structures that were carved out by hand while SLUB came up. It is
        # off the freelist before its track is written: for a moment, the first
        # time it is allocated, all of the track is as it was made.
        assert self._slot.tracks is not None
        word = self._memory.word_size
        start = self._cache.red_left_pad + self._slot.tracks
        tracks = slots[:, start : start + self._track.size]
        addr = tracks[:, self._track_addr : self._track_addr + word]
        unwritten = ~tracks.any(axis=1)
        told = used & ~np.isin(base, self._untracked)
        for which, passing in ((~unwritten, None), (unwritten, np.zeros((1, word), np.uint8))):
            rows = np.flatnonzero(told & which)
            yield Zone(
                "track",
                "caller of the allocation",
                slab[rows],
                index[rows],
                base[rows] + np.uint64(self._slot.tracks + self._track_addr),
                addr[rows],
                None,
                passing,
            )

    def _asked_size(
        self, slots: U8, slab: I64, index: I64, base: U64, used: Bools
    ) -> Iterator[Zone]:
        # Since Linux kernel commit 946fa0dbf2d8 ("mm/slub: extend redzone check
        # to extra allocated kmalloc space than requested") (in v6.2), the bytes
        # between the size asked for and the object's are a red zone. Nothing
        # but the bytes of all the objects tells whether the kernel does it.
        cache = self._cache
        assert self._slot.orig_size is not None
        at = cache.red_left_pad + self._slot.orig_size
        cut = np.ascontiguousarray(slots[:, at : at + 4]).view(f"{self._memory.byteorder}u4")
        asked = cut[:, 0].astype(np.int64)
        rows = np.flatnonzero(used & (asked < cache.object_size) & (asked >= 0))
        if not len(rows):
            return
        objects = slots[rows, cache.red_left_pad : cache.red_left_pad + cache.object_size]
        beyond = np.arange(cache.object_size)[None, :] >= asked[rows, None]
        red = (objects == _RED_USED) | ~beyond
        if 10 * np.count_nonzero(red.all(axis=1)) < 9 * len(rows):
            return
        yield Zone(
            "redzone",
            "red zone after the size asked for",
            slab[rows],
            index[rows],
            base[rows],
            objects,
            np.where(beyond, np.uint8(_RED_USED), objects),
        )


def _extension_bytes(machine: Machine) -> int:
    # A word for cgroups and one for profiling, where both are built in; that
    # is taken, too, where the type is not known.
    try:
        return machine.structure("struct slabobj_ext").size
    except LookupError:
        return 2 * machine.memory.word_size
