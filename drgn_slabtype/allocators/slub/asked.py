# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The size asked for of a kmalloc object
--------------------------------------

How wide it is and whether the bytes of the object beyond it are a red zone, no
type and no symbol tells. All caches of the machine do, together: a few slabs of
each are asked, so that no damaged object decides for the cache it lies in.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ...distinct import distinct
from ...index import SlabIndex, slabs_at
from ...ledger import I64, U8, U64, Bools
from ...machine import Machine
from ..caches import read_caches
from ..nodes import read_nodes
from .cache import SlubCache
from .layout import Parts, SlotLayout, debug_caches, known_parts

_LISTS = ("partial", "full")
RED_USED, POISON_PAD = 0xCC, 0x5A
_MOST_BYTES = 2 << 10  # of the largest objects that vote
_MOST_OBJECTS = 4  # of a slab that do: a question about one address asks them all


class DebugTraits(NamedTuple):
    """What debugging does alike in all caches of a kernel."""

    parts: Parts
    asked_red: bool
    """Whether the bytes between the size asked for and the object's are a red zone."""
    misfit: Optional[str] = None
    """What does not add up in most caches, so that nothing is known of any."""


class _Votes(NamedTuple):
    used: int = 0
    """Objects in use."""
    narrow: int = 0
    """Of which padding begins four bytes behind where the size asked for does."""
    larger: int = 0
    """Of which are larger than what was asked for."""
    red: int = 0
    """Of these, those of which most bytes beyond are red."""


def debug_traits(machine: Machine) -> DebugTraits:
    """
    Return what debugging does alike in all caches.

    Since Linux kernel commit 946fa0dbf2d8 ("mm/slub: extend redzone check to
    extra allocated kmalloc space than requested") (in v6.2), the bytes beyond
    the size asked for are a red zone; before, they are what was there.
    """
    parts = machine.settled(known_parts)
    votes = [_vote(machine, parts, *one) for one in _sample(machine, parts)] or [_Votes()]
    used, narrow, larger, red = (sum(column) for column in zip(*votes))
    # Wide or narrow, the slots of most caches are as large.
    if parts.asked == 8 and 2 * narrow > used:
        parts = parts._replace(asked=4)
    return DebugTraits(parts, 2 * red > larger, _misfit(machine, parts))


def _misfit(machine: Machine, parts: Parts) -> Optional[str]:
    caches = debug_caches(machine, machine.settled(read_caches))
    found = [(cache, SlotLayout(parts, cache).misfit()) for cache in caches]
    wrong = [f"{misfit} in {cache.facts.name}" for cache, misfit in found if misfit is not None]
    return f"in most caches, as {wrong[0]}" if 2 * len(wrong) > len(found) else None


def _sample(machine: Machine, parts: Parts) -> Iterator[Tuple[SlubCache, SlabIndex]]:
    # The slabs at the ends of all lists of kmalloc caches with red zones.
    caches = machine.settled(read_caches)
    rows = read_nodes(machine, caches, every=True)
    member = machine.structure(f"struct {machine.layout.slab_struct}").offset("slab_list")
    for cache in debug_caches(machine, caches):
        layout = SlotLayout(parts, cache)
        if not (cache.red_zone and layout.orig_size is not None and layout.sound):
            continue
        if layout.free_pointer_inside or cache.object_size > _MOST_BYTES:
            continue
        mine = np.flatnonzero((rows.cache == cache.number) & rows.rows.ok)
        links: List[U64] = [
            rows.rows[f"{name}.{link}"][mine]
            for name in _LISTS
            if rows.rows.structure.has(name)
            for link in ("next", "prev")
        ]
        pages = distinct(np.concatenate(links) - np.uint64(member))
        index = slabs_at(machine, pages)
        known = index.marked & (index["slab_cache"] == np.uint64(cache.facts.address))
        if known.any():
            yield cache, slabs_at(machine, index.pages[known])


def _vote(machine: Machine, parts: Parts, cache: SlubCache, index: SlabIndex) -> _Votes:
    layout, source = SlotLayout(parts, cache), machine.memory
    assert layout.orig_size is not None
    lead, order = cache.red_left_pad, cache.min_order
    count = min((source.page_size << order) // cache.size, _MOST_OBJECTS)
    gathered = source.gather(index.addresses, count * cache.size)
    slots: U8 = gathered.bytes[gathered.ok].reshape(-1, cache.size)
    # Whether it is in use it says itself, and so no reading of the freelist is needed.
    slots = slots[(slots[:, :lead] == RED_USED).all(axis=1)]
    at = lead + layout.orig_size
    narrow = (slots[:, at + 4 : at + 8] == POISON_PAD).all(axis=1)
    wide = asked_sizes(slots, at, parts.asked, source.byteorder)
    asked = np.where(narrow, asked_sizes(slots, at, 4, source.byteorder), wide)
    larger = asked < cache.object_size
    content = slots[larger, lead : lead + cache.object_size]
    red = mostly_red(content, asked[larger])
    return _Votes(len(slots), int(narrow.sum()), len(content), int(red.sum()))


def asked_sizes(slots: U8, at: int, width: int, byteorder: str) -> I64:
    """
    Return the sizes asked for, in bytes.

    Of a wide one the lower half is enough: no object of a slab is larger.

    :param slots: Shape (n, stride).
    :param at: Offset of the size in a slot, and
    :param width: bytes that it takes.
    """
    at += width - 4 if byteorder == ">" else 0
    word = np.ascontiguousarray(slots[:, at : at + 4]).view(f"{byteorder}u4")
    return word[:, 0].astype(np.int64)


def mostly_red(content: U8, asked: I64) -> Bools:
    """
    Return which objects have a red zone beyond the size asked for, be it damaged.

    There may be but one object in the machine to tell it by: most of its bytes do.

    :param content: Shape (n, object size).
    """
    beyond = np.arange(content.shape[1])[None, :] >= asked[:, None]
    red = ((content == RED_USED) & beyond).sum(axis=1)
    most: Bools = 2 * red > beyond.sum(axis=1)
    return most
