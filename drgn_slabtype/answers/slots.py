# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What lies where around an object
--------------------------------

A slot holds an object and what debugging puts beside it.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

from ..allocators.caches import Caches
from ..allocators.kasanrecords import Records, records
from ..allocators.slab.cache import SlabCache
from ..allocators.slub.cache import SlubCache, slab_flags
from ..allocators.slub.layout import slot_layout
from ..machine import Machine
from .kasan import kasan_tracks
from .tracks import Track, last_used, slub_tracks

_EVENTS = ("allocated", "freed", "last used")
_DRAIN = "qlist_free_all"  # which gives objects in quarantine back to the allocator


class Slot(NamedTuple):
    """The parts of a slot, in bytes from the object's address."""

    before: int
    """Bytes of the slot that lie before the object."""
    parts: Tuple[Tuple[int, int, str], ...]
    """(first byte, first byte after, name) of what follows the object."""
    tracks: Optional[int] = None
    """Where two ``struct track`` lie."""
    last_caller: Optional[int] = None
    """Where SLAB's debugging keeps the last caller."""
    kasan: Optional[Records] = None
    """Where KASAN keeps who allocated and freed the object."""

    def part(self, offset: int) -> Optional[str]:
        """Return what a byte belongs to; ``None`` for the object itself."""
        if offset < 0:
            return "red zone or padding before the object"
        for first, last, name in self.parts:
            if first <= offset < last:
                return name
        return None

    def events(self, machine: Machine, address: int) -> Tuple[Track, ...]:
        """
        Return who allocated and freed an object, where that is kept.

        :param address: The object.
        """
        told: Tuple[Track, ...] = ()
        if self.tracks is not None:
            told = slub_tracks(machine, address + self.tracks)
        elif self.last_caller is not None:
            caller = machine.memory.read_word(address + self.last_caller)
            if caller:
                told = (last_used(machine, caller),)
        return _merged(told, kasan_tracks(machine, self.kasan, address))


def _merged(told: Tuple[Track, ...], by_kasan: Tuple[Track, ...]) -> Tuple[Track, ...]:
    # Both know who allocated the object; who freed it, only KASAN: where it has a
    # quarantine, the allocator knows who took it out of that.
    own = {track.event: track for track in told if not _drains(track)}
    for track in by_kasan:
        known = own.get(track.event)
        if known is None or known.overwritten or track.event == "freed":
            own[track.event] = track
    return tuple(own[event] for event in _EVENTS if event in own)


def _drains(track: Track) -> bool:
    return track.event == "freed" and any(_DRAIN in frame for frame in track.stack)


def slot(machine: Machine, caches: Caches, number: int) -> Slot:
    """
    Return the layout of the slots of a cache.

    :param number: Position of the cache.
    """
    if machine.layout.allocator == "SLUB":
        found = _slub_slot(machine, SlubCache(caches, number, slab_flags(machine), 1))
    else:
        found = _slab_slot(machine, SlabCache(caches, number, machine.memory.page_size, 1))
    return found._replace(kasan=records(machine, caches, number))


def _slub_slot(machine: Machine, cache: SlubCache) -> Slot:
    word = machine.memory.word_size
    layout = slot_layout(machine, cache)
    gap = "right red zone" if cache.red_zone else "padding"
    parts: List[Tuple[int, int, str]] = [(cache.object_size, cache.inuse, gap)]
    if not layout.free_pointer_inside:
        parts.append((cache.offset, cache.offset + word, "free pointer"))
    if layout.tracks is not None:
        size = machine.structure("struct track").size
        parts.append((layout.tracks, layout.tracks + size, "track of the allocation"))
        parts.append((layout.tracks + size, layout.tracks + 2 * size, "track of the free"))
    if layout.orig_size is not None:
        parts.append((layout.orig_size, layout.orig_size + layout.asked, "size asked for"))
    parts += layout.kasan
    parts.append((layout.end, layout.limit, "padding"))
    return Slot(cache.red_left_pad, tuple(parts), layout.tracks)


def _slab_slot(machine: Machine, cache: SlabCache) -> Slot:
    # The red zones are unsigned long long, the last caller is one word, and
    # both stand at the end of the slot in steps of that alignment.
    end = cache.size - cache.obj_offset
    parts: List[Tuple[int, int, str]] = []
    caller = end - 8 if cache.store_user and cache.obj_offset else None
    if caller is not None:
        parts.append((caller, end, "last caller"))
        end = caller
    if cache.red_zone and cache.obj_offset:
        parts.append((end - 8, end, "red zone after the object"))
        end -= 8
    parts.append((cache.object_size, end, "padding"))
    # The caller is a word at the very end of the slot.
    word = machine.memory.word_size
    last = None if caller is None else cache.size - cache.obj_offset - word
    return Slot(cache.obj_offset, tuple(parts), last_caller=last)
