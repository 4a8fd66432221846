# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where the parts of a slot lie
-----------------------------

From an object's address on: the object, a red zone or padding up to
``inuse``, the free pointer if it lies outside, two tracks, the size asked for,
what KASAN keeps of the object, padding up to the next slot; before it the left
red zone. Vectors of memory cgroups and of allocation profiling lie elsewhere, or
in the padding (:mod:`.extensions`); KMSAN's shadow lies beside the memory map.

No type tells all of this. What a cache says of itself does: its slots are as
large as the parts of a slot add up to, or a part is not known.
"""

from __future__ import annotations

import contextlib
from copy import copy
from typing import Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ...machine import Machine
from ..caches import Caches, read_caches
from .cache import SlubCache, checked_by, slab_flags

_NO_FREE_META = (1 << 31) - 1  # KASAN_NO_FREE_META
_FORMS = (8, 4, 0)  # bytes that the size asked for may take

# Bytes behind an object that KASAN wants at least, by the object's size.
_KASAN_REDZONES = (
    (64 - 16, 16),
    (128 - 32, 32),
    (512 - 64, 64),
    (4096 - 128, 128),
    ((1 << 14) - 256, 256),
    ((1 << 15) - 512, 512),
    ((1 << 16) - 1024, 1024),
)
_KASAN_LARGEST = 2048
_FEWEST = 8  # caches that can tell what debugging there is


class KasanSizes(NamedTuple):
    """Bytes of what KASAN keeps of each object."""

    alloc_meta: int
    free_meta: int


class Parts(NamedTuple):
    """What the slots of all caches may be made of."""

    word: int
    """Bytes of a pointer."""
    track: int
    """Bytes of a ``struct track``; 0 without ``CONFIG_SLUB_DEBUG``."""
    asked: int
    """Bytes of the size asked for; 0 where the kernel does not keep it."""
    kasan: Optional[KasanSizes]
    """``None`` where KASAN is not, or keeps nothing in slots."""


class SlotLayout:
    """Where the parts of a slot lie, in bytes from the object's address."""

    def __init__(self, parts: Parts, cache: SlubCache) -> None:
        self._parts = parts
        self._cache = cache
        outside = cache.offset >= cache.inuse
        self.free_pointer_inside = not outside
        self.tracks: Optional[int] = None
        end = cache.inuse + (parts.word if outside else 0)
        if cache.store_user:
            self.tracks = end
            end += 2 * parts.track
        self.limit = cache.size - cache.red_left_pad
        """Where the next slot's left red zone begins."""
        self.orig_size: Optional[int] = None
        # Since Linux kernel commit 6edf2576a6cc ("mm/slub: enable debugging
        # memory wasting of kmalloc") (in v6.1), a kmalloc object remembers the
        # size asked for. It was widened from unsigned int to unsigned long in
        # 6.19 and in 6.12's stable releases.
        if cache.store_user and cache.kmalloc and 0 < parts.asked <= self.limit - end:
            self.orig_size = end
            end += parts.asked
        self.asked = parts.asked
        """Bytes of the size asked for."""
        self.known_end = end
        """Where the parts that are SLUB's own end."""
        self.kasan = list(self._kasan()) if parts.kasan is not None else []
        """(first byte, first byte after, name) of what KASAN keeps behind the object."""
        self.end = max([end, *(last for _, last, _ in self.kasan)])
        """Where the padding up to the next slot begins."""
        self.sound = 0 < cache.object_size <= cache.inuse <= self.end <= self.limit
        """Whether the parts follow each other in the slot, as in every sound cache."""

    def _kasan(self) -> Iterator[Tuple[int, int, str]]:
        # From the cache's own offsets: 0 is none for the one, and within the
        # object for the other.
        sizes, cache = self._parts.kasan, self._cache
        assert sizes is not None
        if cache.kasan_alloc:
            at = cache.kasan_alloc
            yield at, at + sizes.alloc_meta, "KASAN's record of the allocation"
        if 0 < cache.kasan_free < _NO_FREE_META:
            at = cache.kasan_free
            yield at, at + sizes.free_meta, "KASAN's record of the free"

    def misfit(self) -> Optional[str]:
        """Return what does not add up, in words; ``None`` if all parts are known."""
        cache, end = self._cache, self.known_end
        for first, last, name in self.kasan:
            if first != end:
                return f"{name} begins at byte {first}, and what lies before it ends at {end}"
            end = last
        size = self._expected_size(end)
        if size == cache.size:
            return None
        return f"slots of {cache.size} bytes have parts that add up to {size}"

    def _expected_size(self, end: int) -> int:
        cache, word = self._cache, self._parts.word
        if self.kasan:
            end = max(end, cache.object_size + _kasan_redzone(cache.object_size))
        if cache.red_zone:
            end += word + cache.red_left_pad
        return -(-end // max(cache.align, 1)) * max(cache.align, 1)


def _kasan_redzone(object_size: int) -> int:
    return next((zone for most, zone in _KASAN_REDZONES if object_size <= most), _KASAN_LARGEST)


def known_parts(machine: Machine) -> Parts:
    """
    Return what the slots of a machine may be made of.

    How wide the size asked for is, the sizes of all caches tell together: it is
    what the fewest contradict, and the widest of that.
    """
    parts = _typed_parts(machine)
    caches = machine.settled(read_caches)
    some = [cache for cache in debug_caches(machine, caches) if cache.store_user and cache.kmalloc]

    def contradictions(width: int) -> int:
        layouts = (SlotLayout(parts._replace(asked=width), cache) for cache in some)
        return sum(layout.misfit() is not None for layout in layouts)

    return parts._replace(asked=min(_FORMS, key=contradictions) if some else _FORMS[0])


def _typed_parts(machine: Machine) -> Parts:
    def size(name: str) -> int:
        with contextlib.suppress(LookupError):
            return machine.structure(name).size
        return 0

    kasan = None
    if machine.structure("struct kmem_cache").has("kasan_info.alloc_meta_offset"):
        kasan = KasanSizes(size("struct kasan_alloc_meta"), size("struct kasan_free_meta"))
    return Parts(machine.memory.word_size, size("struct track"), 0, kasan)


def debug_caches(machine: Machine, caches: Caches) -> List[SlubCache]:
    """Return the caches that debugging puts something into, of those that could be read."""
    flags, rows = slab_flags(machine), caches.rows
    found = np.flatnonzero(rows.ok & (rows["flags"] & np.uint64(checked_by(flags)) != 0))
    return [SlubCache(caches, at, flags, 1) for at in found.tolist()]


def slot_layout(machine: Machine, cache: SlubCache) -> SlotLayout:
    """Return where the parts of a cache's slots lie."""
    return SlotLayout(machine.settled(known_parts), cache)


def odd_tracks(machine: Machine, parts: Parts, cache: SlubCache) -> bool:
    """
    Return whether the parts of a cache's slots add up but for SLAB_STORE_USER.

    Then that flag of it is wrong: all other caches add up, and are tracked or not as this one
    is by its size.
    """
    other = copy(cache)
    other.store_user = not cache.store_user
    layout = SlotLayout(parts, other)
    if layout.misfit() is not None or not layout.sound:
        return False
    every = debug_caches(machine, machine.settled(read_caches))
    rest = [one for one in every if one.number != cache.number]
    fit = all(SlotLayout(parts, one).misfit() is None for one in rest)
    alike = sum(one.store_user == other.store_user for one in rest)
    return fit and len(rest) >= _FEWEST and 10 * alike >= 9 * len(rest)
