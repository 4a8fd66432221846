# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The order in which new slabs hand out their objects
---------------------------------------------------

With CONFIG_SLAB_FREELIST_RANDOM a cache leads to a list of all positions of a slab
in an order of its own, since Linux kernel commit c7ce4f60ac19 ("mm: SLAB freelist
randomization") (in v4.7). It is made with the cache and never changes.
"""

from __future__ import annotations

from typing import Iterator, Optional

import numpy as np

from ..codes import ADDRESS
from ..index import KnownBy, SlabIndex
from ..ledger import I64, U64, Bools, Suspect
from ..machine import Machine
from ..machine.pieces import Rows
from ..records import plural
from ..regions import Region, region
from .base import Allocator
from .caches import Caches
from .whereabouts import in_no_slab, in_stray_slab

_MEMBER = "random_seq"
_MOST = 1 << 15  # objects of a slab
_USUAL = 1 << 12  # no more, unless something is wrong


class Orders:
    """
    The orders of the caches that a reading is about.

    All are read and looked at together, and closer where one is not as it has to be.

    :param counts: Objects of a slab of each cache.
    :param steps: From one position to the next of each: 1, or the bytes of a slot.
    """

    def __init__(self, allocator: Allocator, counts: I64, steps: I64) -> None:
        self._allocator = allocator
        self._counts, self._steps = counts, steps
        self._sound: Optional[Bools] = None

    def judge(self, number: int, count: int, index: SlabIndex) -> Iterator[Suspect]:
        """
        Yield that the order of a cache is none, or lies where none can.

        :param number: Position of the cache.
        :param count: Objects of a slab, where its number of them cannot be believed.
        :param index: That the allocator was read with.
        """
        if self._sound is None:
            self._sound = _sound_orders(self._allocator, index, self._counts, self._steps)
        if self._sound[number] and count == self._counts[number]:
            return
        machine = index.machine
        start = _start(machine, self._allocator.caches, number)
        step = int(self._steps[number])
        if start is not None and 1 < count <= _MOST:
            yield from _judge_entries(machine, start, _width(machine), count, step)
            if index.whole:
                size = count * _width(machine)
                yield from _judge_home(self._allocator, index, start, size)


def _sound_orders(allocator: Allocator, index: SlabIndex, counts: I64, steps: I64) -> Bools:
    # Which are beyond doubt.
    machine, caches = index.machine, allocator.caches
    memory, sound = machine.memory, np.zeros(len(caches), np.bool_)
    if not caches.rows.structure.has(_MEMBER) or memory.tags.used:
        return sound
    width, starts = _width(machine), caches.rows[_MEMBER]
    rows = np.flatnonzero(caches.chosen & (starts % np.uint64(4) == 0) & (counts <= _USUAL))
    starts, counts, steps = starts[rows], counts[rows], steps[rows]
    begin = np.cumsum(counts) - counts
    order = np.zeros(int(counts.sum()), np.int64)

    def keep(data: bytes, offsets: Rows, some: Rows) -> None:
        for offset, at in zip(offsets.tolist(), some.tolist()):
            end = begin[at] + counts[at]
            order[begin[at] : end] = np.frombuffer(data, dtype, counts[at], offset)

    dtype = np.dtype(f"{memory.byteorder}u{width}")
    good = memory.each(starts, (counts * width).astype(np.uint64), keep)
    # Each position comes once in as many entries, all of which are one.
    place, rest = np.divmod(order, np.repeat(steps, counts))
    wrong = (rest != 0) | (place >= np.repeat(counts, counts))
    times = np.bincount((place + np.repeat(begin, counts))[~wrong], minlength=len(order))
    wrong |= times != 1
    which = np.repeat(np.arange(len(rows)), counts)
    if machine.manifest is not None:
        # Objects are masked in captures that were made before orders were looked at.
        told = np.bincount(which[order != 0], minlength=len(rows))
        wrong &= (told >= counts - 1)[which]
    good[which[wrong]] = False
    if index.whole:
        at, home = index.rows_of_addresses(starts), allocator.homes(index, starts)
        sizes = caches.rows["object_size"][home].astype(np.int64)
        large = counts * width > memory.page_size
        good &= np.where(at < 0, large, (home >= 0) & (sizes >= counts * width))
    sound[rows] = good
    return sound


def _judge_entries(
    machine: Machine, start: int, width: int, count: int, step: int
) -> Iterator[Suspect]:
    gathered = machine.memory.gather(np.array([start], np.uint64), count * width)
    if not gathered.ok[0]:
        return
    order = gathered.bytes.view(f"{machine.memory.byteorder}u{width}")[0].astype(np.uint64)
    if machine.manifest is not None and np.count_nonzero(order) < count - 1:
        return  # objects are masked in captures that were made before it was looked at
    place, rest = np.divmod(order, np.uint64(step))
    good = (rest == 0) & (place < count)
    good[good] = np.isin(np.arange(good.sum()), np.unique(place[good], return_index=True)[1])
    wrong = np.flatnonzero(~good)
    if not len(wrong) or _is_another(order):
        return
    at = int(wrong[0])
    what = f"{_MEMBER} leads to what is no order of {plural(count, 'object')}"
    if 2 * len(wrong) > count:
        yield _suspect(what, start)
        return
    word, found = start + at * width, int(order[at])
    what = f"entry {at} of {_MEMBER} is {found}, and no object has that position for its own"
    yield Suspect("cache-wrong", what, found=found, address=word, word=word)


def _judge_home(allocator: Allocator, index: SlabIndex, start: int, size: int) -> Iterator[Suspect]:
    # In a slab it is an object of kmalloc().
    address = np.array([start], np.uint64)
    row = int(index.rows_of_addresses(address)[0])
    # Larger ones may be pages of their own.
    small = size <= index.machine.memory.page_size
    if row < 0 and not (small and in_no_slab(index.machine, address)[0]):
        return
    if row >= 0 and index.known_by[row] & np.uint8(KnownBy.KFENCE):
        return
    if (row < 0 or allocator.ownership.cache[row] < 0) and in_stray_slab(index, address)[0]:
        return  # of a slab of no cache nothing tells what lies in it
    home = int(allocator.homes(index, address)[0]) if row >= 0 else -1
    if home < 0 or int(allocator.caches.rows["object_size"][home]) < size:
        what = f"{_MEMBER} leads to no object of {plural(size, 'byte')}"
        yield _suspect(what, start)


def _suspect(what: str, found: int) -> Suspect:
    return Suspect("cache-wrong", what, found=found, member=_MEMBER, measure=ADDRESS)


def _start(machine: Machine, caches: Caches, number: int) -> Optional[int]:
    # None without one, and where it is known to be no address.
    if not caches.rows.structure.has(_MEMBER):
        return None
    pointer = caches.rows[_MEMBER][number : number + 1]
    leads = machine.memory.is_kernel_address(pointer)[0] and pointer[0] % np.uint64(4) == 0
    return int(pointer[0]) if leads else None


def _width(machine: Machine) -> int:
    kind = machine.structure("struct kmem_cache").type_of(_MEMBER)
    return int(kind.type.size or 4)


def _is_another(order: U64) -> bool:
    # Whether it is sound for slabs of another kind: then it is not what is wrong.
    values = np.sort(order)
    step = values[1] - values[0]
    return bool(values[0] == 0 and step > 0 and (np.diff(values) == step).all())


def regions(machine: Machine, caches: Caches, counts: U64) -> Iterator[Region]:
    """
    Yield the orders of all caches.

    :param counts: Objects of a slab of each.
    """
    if caches.rows.structure.has(_MEMBER):
        pointers = caches.rows[_MEMBER]
        there = machine.memory.is_kernel_address(pointers) & (counts <= np.uint64(_MOST))
        sizes = counts[there] * np.uint64(_width(machine))
        yield region("slab caches", pointers[there], sizes)
