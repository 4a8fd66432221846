# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB (to Linux 6.7)
-------------------

A slab's free objects are the tail of an array of indexes, ``freelist[active ..
num)``. The array lies at the end of the slab, in memory of its own, or inside
one of the free objects themselves.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from drgn import Program, sizeof

from ..index import KnownBy, SlabIndex
from ..ledger import (
    I64,
    U64,
    Bools,
    Claims,
    Containers,
    Facts,
    Ledger,
    ListKind,
    Memberships,
    Place,
    Slabs,
    State,
    Suspect,
    Walk,
)
from ..memory import memory
from ..pagetype.detect import page_type_layout
from .base import Caches, Ownership, decide_ownership, read_caches
from .kfence import kfence_pool
from .lists import Walked
from .nodes import memberships, read_nodes

# Flag values are the same from 5.10 to the removal of SLAB in 6.8.
_OBJFREELIST = 0x40000000
_OFF_SLAB = 0x80000000
_TYPESAFE_BY_RCU = 0x00080000

FREELIST = Place("freelist", counted=False, bad="freelist-index", repeat="freelist-duplicate")
PLACES = (FREELIST,)

_LISTS = {
    "slabs_partial": ListKind.PARTIAL,
    "slabs_full": ListKind.FULL,
    "slabs_free": ListKind.FREE,
}


class SlabAllocator:
    """The SLAB allocator of one program."""

    name = "SLAB"

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.memory = memory(prog)
        self.layout = page_type_layout(prog)
        self.caches: Caches = read_caches(prog)
        self.pool = kfence_pool(prog)
        self.nodes = read_nodes(prog, self.caches)
        index_type = prog.type("freelist_idx_t")
        self._index_dtype = np.dtype(f"{self.memory.byteorder}u{sizeof(index_type)}")
        self._walks: List[Walked] = []
        self.ownership = Ownership(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def discover(self, index: SlabIndex) -> None:
        """Walk every node's lists; see :meth:`.base.Allocator.discover`."""
        index.known_by[self.pool.contains(index.addresses)] |= np.uint8(KnownBy.KFENCE)
        self._walks = self.nodes.walk(index, _LISTS)
        self.ownership = decide_ownership(index, self.caches, self._walks, ())

    # One cache ---------------------------------------------------------------

    def collect(self, number: int, index: SlabIndex) -> Ledger:
        """Read everything about one cache; see :meth:`.base.Allocator.collect`."""
        cache = _Cache(self.caches, number)
        rows = self.ownership.rows_of(number)
        slabs = self._slabs(cache, rows, index)
        ledger = Ledger(cache.facts, PLACES, slabs)
        self._freelists(cache, rows, index, ledger)
        memberships(self._walks, number, rows, index, ledger)
        self._counters(cache, ledger)
        self._geometry(cache, rows, index, ledger)
        return ledger

    def _active(self, rows: I64, index: SlabIndex) -> I64:
        encoding = self.layout.encoding
        if encoding.carries_active:
            return np.asarray(encoding.active(index.words[rows])).astype(np.int64)
        return index["active"][rows].astype(np.int64)

    def _first_object(self, rows: I64, index: SlabIndex) -> U64:
        return index["s_mem"][rows]

    def _slabs(self, cache: _Cache, rows: I64, index: SlabIndex) -> Slabs:
        active = self._active(rows, index)
        allowed = np.full(len(rows), ListKind.PARTIAL, np.int64)
        allowed[active == cache.num] = ListKind.FULL
        allowed[active == 0] = ListKind.FREE
        in_range = (active >= 0) & (active <= cache.num)
        allowed[~in_range] = sum(_LISTS.values())
        return Slabs.build(
            len(rows),
            page=index.pages[rows],
            base=self._first_object(rows, index) + np.uint64(cache.obj_offset),
            objects=np.full(len(rows), cache.num, np.int64),
            counted=active,
            nid=index.nids[rows],
            order=cache.order,
            word=index.words[rows].astype(np.int64),
            marked=index.marked[rows],
            cache_pointer=index["slab_cache"][rows],
            told=self.ownership.told[rows] == cache.number,
            allowed=allowed,
        )

    def _freelists(self, cache: _Cache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        slabs = ledger.slabs
        pointer = index["freelist"][rows]
        # Nothing of the array of a full slab means anything, and a full slab
        # of an objfreelist cache has none.
        has_free = (slabs.counted >= 0) & (slabs.counted < cache.num)
        placed = self._array_is_in_place(cache, rows, index, pointer, slabs)
        arrays, ok = self._read_arrays(cache, pointer, has_free & placed)
        position = np.arange(cache.num)
        live = ok[:, None] & (position >= slabs.counted[:, None])
        valid = live & (arrays < cache.num)
        repeats = _repeats(arrays, valid, cache.num)
        claimed = valid & ~repeats
        slab, at = np.nonzero(claimed)
        which = arrays[slab, at].astype(np.int64)
        ledger.claims = Claims.build(
            len(slab),
            place=0,
            container=slab.astype(np.int64),
            position=at - slabs.counted[slab],
            address=slabs.base[slab] + which.astype(np.uint64) * np.uint64(cache.facts.stride),
            slab=slab.astype(np.int64),
            index=which,
            state=State.FREE,
        )
        state = np.full(len(rows), Walk.WHOLE, np.uint8)
        culprit = np.full(len(rows), -1, np.int64)
        value = np.zeros(len(rows), np.uint64)
        for bad, kind in ((repeats, Walk.CYCLE), (live & ~valid, Walk.POINTER)):
            hit = bad.any(axis=1)
            first = bad.argmax(axis=1)
            state[hit] = kind
            culprit[hit] = first[hit]
            value[hit] = arrays[hit, first[hit]]
        state[has_free & ~ok] = Walk.UNREADABLE
        state[has_free & ~placed] = Walk.MISPLACED
        value[has_free & ~placed] = pointer[has_free & ~placed]
        ledger.containers = Containers.build(
            len(rows),
            place=0,
            address=pointer,
            slab=np.arange(len(rows), dtype=np.int64),
            limit=cache.num,
            walked=claimed.sum(axis=1).astype(np.int64),
            state=state,
            culprit=culprit,
            value=value,
        )

    def _array_is_in_place(
        self, cache: _Cache, rows: I64, index: SlabIndex, pointer: U64, slabs: Slabs
    ) -> Bools:
        start = index.addresses[rows]
        if cache.mode == "on-slab":
            span = self.memory.page_size << cache.order
            return pointer == start + np.uint64(span - cache.freelist_size)
        if cache.mode == "objfreelist":
            offset = pointer - slabs.base
            stride = np.uint64(cache.facts.stride)
            return (offset % stride == 0) & (offset < stride * np.uint64(cache.num))
        return self.memory.is_kernel_address(pointer)

    def _read_arrays(self, cache: _Cache, pointer: U64, wanted: Bools) -> Tuple[I64, Bools]:
        out = np.zeros((len(pointer), cache.num), np.int64)
        ok = np.zeros(len(pointer), np.bool_)
        picked = np.flatnonzero(wanted)
        gathered = self.memory.gather(pointer[picked], cache.num * self._index_dtype.itemsize)
        out[picked] = gathered.bytes.view(self._index_dtype)
        ok[picked] = gathered.ok
        return out, ok

    def _counters(self, cache: _Cache, ledger: Ledger) -> None:
        members, slabs = ledger.memberships, ledger.slabs
        free = slabs.objects - slabs.counted

        def on_lists(nid: int) -> Memberships:
            return members.take((members.owner == nid) & (members.slab >= 0))

        ledger.counters += self.nodes.counters(
            cache.number,
            {
                "total_slabs": ("node-list-length", lambda nid: len(on_lists(nid))),
                "free_slabs": (
                    "node-list-length",
                    lambda nid: int((on_lists(nid).kind == ListKind.FREE).sum()),
                ),
                "free_objects": (
                    "node-free-objects",
                    lambda nid: int(free[on_lists(nid).slab].sum()),
                ),
            },
        )

    def _geometry(self, cache: _Cache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        start, first = index.addresses[rows], self._first_object(rows, index)
        span = np.uint64(self.memory.page_size << cache.order)
        tail = cache.freelist_size if cache.mode == "on-slab" else 0
        room = span - np.uint64(cache.num * cache.facts.stride + tail)
        offset = first - start
        wrong = (offset > room) | (offset % np.uint64(max(cache.colour_off, 1)) != 0)
        for slab in np.flatnonzero(wrong).tolist():
            ledger.suspects.append(
                Suspect(
                    "slab-base-wrong",
                    "first object is on no colour of this cache",
                    slab=slab,
                    expected=int(start[slab]),
                    found=int(first[slab]),
                )
            )
        wrong = index.orders[rows] != cache.order
        for slab in np.flatnonzero(wrong).tolist():
            ledger.suspects.append(
                Suspect(
                    "slab-order-wrong",
                    "compound order is not the cache's",
                    slab=slab,
                    expected=cache.order,
                    found=int(index.orders[rows[slab]]),
                )
            )


class _Cache:
    # The members of one struct kmem_cache that reading its slabs needs.

    def __init__(self, caches: Caches, number: int) -> None:
        rows = caches.rows

        def value(member: str) -> int:
            return int(rows[member][number])

        self.number = number
        self.num = value("num")
        self.order = value("gfporder")
        self.flags = value("flags")
        self.colour_off = value("colour_off")
        self.freelist_size = value("freelist_size")
        self.obj_offset = value("obj_offset") if rows.structure.has("obj_offset") else 0
        self.facts = Facts(
            caches.names[number],
            int(rows.addresses[number]),
            value("object_size"),
            value("size"),
            self.num,
        )

    @property
    def mode(self) -> str:
        if self.flags & _OBJFREELIST:
            return "objfreelist"
        return "off-slab" if self.flags & _OFF_SLAB else "on-slab"


def _repeats(arrays: I64, valid: Bools, num: int) -> Bools:
    # Which valid entries name an index that an earlier one of the row names.
    slab, at = np.nonzero(valid)
    keys = slab * num + arrays[slab, at]
    again = np.ones(len(keys), np.bool_)
    again[np.unique(keys, return_index=True)[1]] = False
    out = np.zeros_like(valid)
    out[slab[again], at[again]] = True
    return out
