# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLUB (Linux 5.10 on)
--------------------

A slab's free objects form a chain from ``slab->freelist``; ``inuse`` counts
the objects that are not on it.
"""

from __future__ import annotations

from typing import Iterator, List, Tuple

import numpy as np
from drgn import Program

from ..index import KnownBy, SlabIndex
from ..ledger import (
    I64,
    U64,
    Claims,
    Containers,
    Facts,
    Ledger,
    ListKind,
    Place,
    Slabs,
    State,
    Suspect,
    Walk,
)
from ..memory import memory
from ..pagetype.detect import page_type_layout
from .base import Caches, Ownership, decide_ownership, read_caches
from .freeptr import Chains, Encoding, Geometry, decode, follow
from .kfence import kfence_pool
from .lists import Walked
from .nodes import memberships, read_nodes

_MAX_OBJECTS = 32767  # the widest that slab->objects, a field of 15 bits, can hold
_BATCH_BYTES = 32 << 20  # slab memory read at a time

FREELIST = Place("freelist", counted=False, bad="freelist-pointer", repeat="freelist-cycle")
PLACES = (FREELIST,)
_ANYWHERE = ListKind.NOWHERE | ListKind.PARTIAL | ListKind.FULL


class SlubAllocator:
    """The SLUB allocator of one program."""

    name = "SLUB"

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self.memory = memory(prog)
        self.layout = page_type_layout(prog)
        self.caches: Caches = read_caches(prog)
        self.pool = kfence_pool(prog)
        self.nodes = read_nodes(prog, self.caches)
        self.encoding = Encoding.PLAIN
        self._walks: List[Walked] = []
        self.ownership = Ownership(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def discover(self, index: SlabIndex) -> None:
        """Walk every node's lists; see :meth:`.base.Allocator.discover`."""
        index.known_by[self.pool.contains(index.addresses)] |= np.uint8(KnownBy.KFENCE)
        kinds = {"partial": ListKind.PARTIAL}
        # Without CONFIG_SLUB_DEBUG there is no list of full slabs.
        if self.nodes.rows.structure.has("full"):
            kinds["full"] = ListKind.FULL
        self._walks = self.nodes.walk(index, kinds)
        self.ownership = decide_ownership(index, self.caches, self._walks, ())
        self.encoding = self._detect_encoding(index)

    def _detect_encoding(self, index: SlabIndex) -> Encoding:
        # The first stored pointer of many slabs: one bad pointer cannot decide.
        if not self.caches.rows.structure.has("random"):
            return Encoding.PLAIN
        votes = dict.fromkeys((Encoding.SWAPPED, Encoding.XOR), 0)
        rows = np.flatnonzero((self.ownership.cache >= 0) & (index["freelist"] != 0))[:2000]
        cache = self.ownership.cache[rows]
        where = index["freelist"][rows] + self.caches.rows["offset"][cache]
        gathered = self.memory.gather(where, self.memory.word_size)
        stored = gathered.bytes.view(self.memory.word)[:, 0].astype(np.uint64)
        start = index.addresses[rows]
        span = np.uint64(self.memory.page_size) << index.orders[rows].astype(np.uint64)
        for encoding in votes:
            found = decode(encoding, stored, where, 0) ^ self.caches.rows["random"][cache]
            near = (found == 0) | (found - start < span)
            votes[encoding] = int((near & gathered.ok).sum())
        return max(votes, key=lambda encoding: votes[encoding])

    # One cache ---------------------------------------------------------------

    def collect(self, number: int, index: SlabIndex) -> Ledger:
        """Read everything about one cache; see :meth:`.base.Allocator.collect`."""
        cache = _Cache(self.caches, number, self.prog)
        rows = self.ownership.rows_of(number)
        slabs = self._slabs(cache, rows, index)
        ledger = Ledger(cache.facts, PLACES, slabs)
        self._geometry(cache, rows, index, ledger)
        self._freelists(cache, rows, index, ledger)
        memberships(self._walks, number, rows, index, ledger)
        self._counters(cache, ledger)
        return ledger

    def _slabs(self, cache: _Cache, rows: I64, index: SlabIndex) -> Slabs:
        span = self.memory.page_size << index.orders[rows].astype(np.int64)
        objects = np.minimum(span // cache.facts.stride, _MAX_OBJECTS)
        inuse = index["inuse"][rows].astype(np.int64)
        return Slabs.build(
            len(rows),
            page=index.pages[rows],
            base=index.addresses[rows] + np.uint64(cache.red_left_pad),
            objects=objects,
            counted=inuse,
            nid=index.nids[rows],
            order=index.orders[rows].astype(np.int64),
            word=index.words[rows].astype(np.int64),
            marked=index.marked[rows],
            cache_pointer=index["slab_cache"][rows],
            told=self.ownership.told[rows] == cache.number,
            allowed=np.full(
                len(rows), ListKind.NOWHERE | ListKind.PARTIAL | ListKind.FULL, np.int64
            ),
        )

    def _geometry(self, cache: _Cache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        orders = index.orders[rows]
        for slab in np.flatnonzero((orders != cache.order) & (orders != cache.min_order)).tolist():
            ledger.suspects.append(
                Suspect(
                    "slab-order-wrong",
                    "compound order is none of the cache's",
                    slab=slab,
                    expected=cache.order,
                    found=int(orders[slab]),
                )
            )
        kept = index["objects"][rows].astype(np.int64)
        for slab in np.flatnonzero(kept != ledger.slabs.objects).tolist():
            ledger.suspects.append(
                Suspect(
                    "slab-objects-wrong",
                    "object count does not follow from the slab's order",
                    slab=slab,
                    expected=int(ledger.slabs.objects[slab]),
                    found=int(kept[slab]),
                )
            )

    def _freelists(self, cache: _Cache, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        slabs = ledger.slabs
        count = len(rows)
        ledger.containers = boxes = Containers.build(
            count,
            place=0,
            address=slabs.page,
            slab=np.arange(count, dtype=np.int64),
            counted=slabs.objects - slabs.counted,
            limit=slabs.objects,
            walked=0,
            state=Walk.WHOLE,
        )
        parts: List[Claims] = []
        for batch, chains in self._chains(cache, slabs, index["freelist"][rows]):
            boxes.walked[batch] = chains.length
            boxes.state[batch] = chains.state
            boxes.culprit[batch] = chains.culprit
            boxes.value[batch] = chains.value
            owner = batch[chains.slab]
            parts.append(
                Claims.build(
                    len(owner),
                    place=0,
                    container=owner,
                    position=chains.position,
                    address=chains.address,
                    slab=owner,
                    index=chains.index,
                    state=State.FREE,
                )
            )
        ledger.claims = Claims.join(parts)

    def _chains(self, cache: _Cache, slabs: Slabs, heads: U64) -> Iterator[Tuple[I64, Chains]]:
        # (rows of the batch, chains) in batches of slabs of the same order.
        for order in np.unique(slabs.order).tolist():
            some = np.flatnonzero((slabs.order == order) & (heads != 0))
            span = self.memory.page_size << order
            step = max(1, _BATCH_BYTES // span)
            for start in range(0, len(some), step):
                batch = some[start : start + step]
                yield batch, self._follow(cache, slabs, heads, batch, span)

    def _follow(self, cache: _Cache, slabs: Slabs, heads: U64, batch: I64, span: int) -> Chains:
        first = slabs.base[batch] - np.uint64(cache.red_left_pad)
        gathered = self.memory.gather(first, span)
        geometry = Geometry(
            slabs.base[batch],
            slabs.objects[batch],
            cache.facts.stride,
            cache.offset,
            self.encoding if cache.random is not None else Encoding.PLAIN,
            cache.random or 0,
        )
        words = gathered.bytes.view(self.memory.word)
        most = int(geometry.objects.max(initial=0))
        at = (
            np.arange(most) * cache.facts.stride + cache.red_left_pad + cache.offset
        ) // self.memory.word_size
        # The last slots of a damaged cache can reach past the slab.
        stored = words[:, np.minimum(at, words.shape[1] - 1)].astype(np.uint64)
        return follow(geometry, heads[batch], stored, gathered.ok)

    def _counters(self, cache: _Cache, ledger: Ledger) -> None:
        members, slabs = ledger.memberships, ledger.slabs

        def partial(nid: int) -> int:
            on_list = (members.owner == nid) & (members.slab >= 0)
            return int((on_list & (members.kind == ListKind.PARTIAL)).sum())

        ledger.counters += self.nodes.counters(
            cache.number,
            {
                "nr_partial": ("node-list-length", partial),
                "nr_slabs": ("node-slabs", lambda nid: int((slabs.nid == nid).sum())),
                "total_objects": (
                    "node-objects",
                    lambda nid: int(slabs.objects[slabs.nid == nid].sum()),
                ),
            },
        )


class _Cache:
    # The members of one struct kmem_cache that reading its slabs needs.

    def __init__(self, caches: Caches, number: int, prog: Program) -> None:
        rows = caches.rows

        def value(member: str) -> int:
            return int(rows[member][number])

        self.number = number
        self.offset = value("offset")
        self.red_left_pad = 0
        if rows.structure.has("red_left_pad") and value("flags") & red_zone_flag(prog):
            self.red_left_pad = value("red_left_pad")
        self.random = value("random") if rows.structure.has("random") else None
        usual, least = value("oo.x"), value("min.x")
        self.order = usual >> 16
        self.min_order = least >> 16
        self.facts = Facts(
            caches.names[number],
            int(rows.addresses[number]),
            value("object_size"),
            max(value("size"), 1),
            usual & 0xFFFF,
        )


def red_zone_flag(prog: Program) -> int:
    """
    Return SLAB_RED_ZONE.

    Since Linux kernel commit cc61eb85b1a7 (in v6.9), flags are bit numbers in
    an enum; before, they were macros whose values had not changed for years.
    """
    try:
        return 1 << int(prog["_SLAB_RED_ZONE"])
    except LookupError:
        return 0x400
