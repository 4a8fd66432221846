# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What CONFIG_DEBUG_SLAB promises about the bytes of a slot
---------------------------------------------------------

A red zone, the object, a second red zone and the address of the last caller,
which ends the slot. Objects on a freelist or in an array cache are poisoned.
"""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ...ledger import I64, U8, U64, Bools, Ledger, State, Walk, Zone
from ...machine import Machine
from .cache import Mode, SlabCache

_RED_FREE, _RED_USED = 0x09F911029D74E35B, 0xD84156C5635688C0
_RED_BYTES = 8  # an unsigned long long, also on 32 bits
_POISON_FREE, _POISON_END = 0x6B, 0xA5
_BATCH_BYTES = 8 << 20  # slab memory held at a time


class DebugReader:
    """
    Reads the promised bytes of a cache.

    :param ledger: With all claims of the cache.
    :param freelist: ``slab->freelist`` of each slab.
    """

    def __init__(self, machine: Machine, cache: SlabCache, ledger: Ledger, freelist: U64) -> None:
        self._memory = machine.memory
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

    def zones(self) -> Iterator[Zone]:
        """Yield the zones of all slabs of which it is known which objects are free."""
        ledger, cache = self._ledger, self._cache
        boxes, slabs = ledger.containers, ledger.slabs
        arrays = boxes.take((boxes.slab < 0) & (boxes.counted >= 0))
        # Without the sizes, which the cache's own rule judges, no byte has a meaning.
        if cache.num * cache.size > cache.span or self._second_red < _RED_BYTES:
            return
        # A node that is lost takes its shared array with it.
        if not ledger.lists_known or (arrays.counted != arrays.walked).any():
            return
        own = boxes.slab[(boxes.slab >= 0) & (boxes.state == Walk.WHOLE)]
        unsure = slabs.excused | slabs.transit | slabs.busy
        unsure[[suspect.slab for suspect in ledger.suspects if suspect.slab >= 0]] = True
        judged = own[~unsure[own]]
        step = max(1, _BATCH_BYTES // cache.span)
        for start in range(0, len(judged), step):
            yield from self._batch(judged[start : start + step])

    def _batch(self, slabs: I64) -> Iterator[Zone]:
        cache, table = self._cache, self._ledger.slabs
        count = cache.num
        first = table.base[slabs] - np.uint64(cache.obj_offset)
        gathered = self._memory.gather(first, count * cache.size)
        slabs = slabs[gathered.ok]
        slots = gathered.bytes[gathered.ok].reshape(len(slabs) * count, cache.size)
        slab, index = np.repeat(slabs, count), np.tile(np.arange(count), len(slabs))
        base = first[gathered.ok].repeat(count) + (index * cache.size).astype(np.uint64)
        free = self._free(slab, index)
        if cache.red_zone:
            yield from self._red_zones(slots, slab, index, base, free)
        if cache.poison:
            yield self._poison(slots, slab, index, base, free)
        if cache.store_user:
            used = np.flatnonzero(~free)
            yield Zone(
                "track",
                "last caller",
                slab[used],
                index[used],
                base[used] + np.uint64(self._caller),
                slots[used, self._caller :],
                None,
            )

    def _free(self, slab: I64, index: I64) -> Bools:
        # Which objects some place records as free.
        claims = self._ledger.claims
        known = (claims.slab >= 0) & (claims.index >= 0) & (claims.state == State.FREE)
        keys = claims.slab[known] * self._cache.num + claims.index[known]
        return np.isin(slab * self._cache.num + index, keys)

    def _red_zones(
        self, slots: U8, slab: I64, index: I64, base: U64, free: Bools
    ) -> Iterator[Zone]:
        # An object is marked as used after it was taken, and as free before it
        # is put down: for a moment it is marked free and recorded nowhere.
        expected = self._red[free.astype(np.intp)]
        passing = np.broadcast_to(self._red[1], expected.shape)
        for name, at in (
            ("first red zone", self._cache.obj_offset - _RED_BYTES),
            ("second red zone", self._second_red),
        ):
            yield Zone(
                "redzone",
                name,
                slab,
                index,
                base + np.uint64(at),
                slots[:, at : at + _RED_BYTES],
                expected,
                passing,
            )

    def _poison(self, slots: U8, slab: I64, index: I64, base: U64, free: Bools) -> Zone:
        cache = self._cache
        rows = np.flatnonzero(free)
        lead = cache.obj_offset
        found = slots[rows, lead : lead + cache.object_size]
        expected = np.full(found.shape, _POISON_FREE, np.uint8)
        expected[:, -1:] = _POISON_END
        hosts = self._hosts(slab[rows], base[rows])
        expected[hosts, : cache.freelist_size] = found[hosts, : cache.freelist_size]
        passing = self._passing(slab[rows], index[rows], found, expected)
        where = base[rows] + np.uint64(lead)
        return Zone("poison", "poison", slab[rows], index[rows], where, found, expected, passing)

    def _hosts(self, slab: I64, base: U64) -> Bools:
        # Which objects hold the index array of their slab.
        cache = self._cache
        host: Bools = self._freelist[slab] == base + np.uint64(cache.obj_offset)
        return host & (cache.mode is Mode.OBJFREELIST)

    def _passing(self, slab: I64, index: I64, found: U8, expected: U8) -> U8:
        # When a slab has become full, the array in its last object gives way to
        # poison with no lock held; until then, a link may lie over its start.
        cache, source = self._cache, self._memory
        passing = expected.copy()
        if cache.mode is not Mode.OBJFREELIST:
            return passing
        full = self._ledger.slabs.counted[slab] == cache.num
        width = cache.freelist_size // cache.num
        last = np.ascontiguousarray(found[:, cache.freelist_size - width : cache.freelist_size])
        left = last.view(f"{source.byteorder}u{width}")[:, 0].astype(np.int64) == index
        word = source.word_size
        if cache.freelist_size <= word:
            link = np.ascontiguousarray(found[:, :word]).view(source.word)[:, 0].astype(np.uint64)
            left |= (link == 0) | source.is_kernel_address(link)
        end = max(cache.freelist_size, word)
        rows = np.flatnonzero(full & left)
        passing[rows, :end] = found[rows, :end]
        return passing
