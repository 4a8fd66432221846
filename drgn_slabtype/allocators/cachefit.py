# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the members of a cache promise about each other
----------------------------------------------------

``struct kmem_cache`` is laid out once, when the cache is made; later only an
alias of it can make its objects larger. So its members follow from each other,
and one that does not is damaged, whatever the slabs say.
"""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..ledger import Suspect
from ..machine import Machine
from ..machine.memory import Memory
from .caches import Caches, same_cache
from .slab.cache import Mode, SlabCache
from .slub.cache import SlubCache

_CODE = "cache-wrong"


def _wrong(what: str, expected: object, found: int) -> Suspect:
    number = expected if isinstance(expected, int) else None
    return Suspect(_CODE, what, expected=number, found=found)


def judge_pointers(caches: Caches, number: int, source: Memory) -> Iterator[Suspect]:
    """Yield the pointers of a cache that lead where no kernel has anything."""
    rows = caches.rows
    # A cache may be without all of them but its name.
    for member, needed, alignment in (
        ("name", True, 1),
        ("random_seq", False, 4),
        ("ctor", False, 1),
    ):
        if not rows.structure.has(member):
            continue
        pointer = rows[member][number : number + 1]
        at = int(pointer[0])
        sound = bool(source.is_kernel_address(pointer)[0]) and at % alignment == 0
        if not sound and (at or needed):
            yield _wrong(f"{member} leads to 0x{at:x}", None, at)


def judge_slub(machine: Machine, caches: Caches, cache: SlubCache) -> Iterator[Suspect]:
    """Yield what calculate_sizes() cannot have left in a cache of SLUB."""
    rows, number = caches.rows, cache.number
    yield from judge_pointers(caches, number, machine.memory)
    word = machine.memory.word_size
    kept = int(rows["inuse"][number])
    size, align = int(rows["size"][number]), int(rows["align"][number])
    usual = -(-cache.object_size // word) * word
    # A red zone that finds no room behind the object gets a word of its own.
    zoned = cache.red_zone and kept == usual + word and usual == cache.object_size
    if kept != usual and not zoned:
        yield _wrong(f"inuse is {kept} for objects of {cache.object_size} bytes", usual, kept)
    if kept > size:
        yield _wrong(f"inuse is {kept} in slots of {size} bytes", size, kept)
    if not align or size % align:
        yield _wrong(f"align is {align} with slots of {size} bytes", None, align)
    if cache.offset % word or cache.offset + word > size - cache.red_left_pad:
        what = f"free pointers are at offset {cache.offset} in slots of {size} bytes"
        yield _wrong(what, None, cache.offset)
    yield from _judge_red_zone(caches, cache, max(align, 1), word)
    yield from _judge_usercopy(caches, cache)


def _judge_red_zone(caches: Caches, cache: SlubCache, align: int, word: int) -> Iterator[Suspect]:
    if not caches.rows.structure.has("red_left_pad"):
        return
    kept = int(caches.rows["red_left_pad"][cache.number])
    should = -(-word // align) * align if cache.red_zone else 0
    if kept != should:
        yield _wrong(f"red_left_pad is {kept}, not {should}", should, kept)


def _judge_usercopy(caches: Caches, cache: SlubCache) -> Iterator[Suspect]:
    rows = caches.rows
    if not rows.structure.has("usersize"):
        return
    first, count = int(rows["useroffset"][cache.number]), int(rows["usersize"][cache.number])
    if first + count > cache.object_size:
        what = f"bytes {first} to {first + count} may be copied of objects of {cache.object_size}"
        yield _wrong(what, None, first + count)


def judge_slab(machine: Machine, caches: Caches, cache: SlabCache) -> Iterator[Suspect]:
    """Yield what __kmem_cache_create() cannot have left in a cache of SLAB."""
    rows, number = caches.rows, cache.number
    yield from judge_pointers(caches, number, machine.memory)
    index_bytes = machine.structure("freelist_idx_t").size
    each = cache.size + (index_bytes if cache.mode is Mode.ON_SLAB else 0)
    num, left = divmod(cache.span, each)
    for member, should in (
        ("num", num),
        ("freelist_size", num * index_bytes),
        ("colour", left // cache.colour_off),
    ):
        kept = int(rows[member][number])
        if kept != should:
            what = f"{member} is {kept} for slots of {cache.size} bytes in slabs of order "
            yield _wrong(f"{what}{cache.order}, not {should}", should, kept)
    if cache.object_size + cache.obj_offset > cache.size:
        what = f"objects of {cache.object_size} bytes do not fit slots of {cache.size}"
        yield _wrong(what, None, cache.object_size)
    if rows.structure.has("freelist_cache") and cache.mode is Mode.OFF_SLAB:
        told = np.array([cache.freelist_cache], np.uint64)
        if same_cache(told, caches)[0] < 0:
            at = cache.freelist_cache
            yield _wrong(f"freelist_cache leads to 0x{at:x}, which is no cache", None, at)
