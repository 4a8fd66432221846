# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLUB's own regions
------------------

Pages of slabs are there but masked; free pointers, red zones, tracks, padding
and poison are kept, and so is every structure that records free objects.
"""

from __future__ import annotations

from typing import Iterator, List, Set, Tuple

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.percpu import per_cpu

from ..allocators.slub.allocator import SlubAllocator
from ..allocators.slub.cache import SlubCache, slab_flags
from ..allocators.slub.debug import SlotLayout
from ..allocators.slub.freelists import Encoding, Geometry, decode
from ..index import SlabIndex
from ..ledger import I64, U64, Bools
from ..regions import Region, region
from .ground import per_cpu_addresses
from .slabs import MAX_OBJECTS, CacheObjects, Slots, batches, debugging, each
from .stacks import stack_traces

_MAX_LIST = 1 << 16  # more sheaves or deferred objects than any list holds

_RED_USED = 0xCC


class SlubRegions:
    """
    Declares what SLUB keeps.

    :param index: Every slab, after :meth:`SlubAllocator.discover`.
    """

    def __init__(self, allocator: SlubAllocator, index: SlabIndex) -> None:
        self.machine = allocator.machine
        self._allocator = allocator
        self._caches = allocator.caches.rows
        self._index = index
        self._memory = self.machine.memory
        self._handles: List[U64] = []

    def cpus(self) -> Iterator[Region]:
        """Yield per-CPU slabs (to Linux 6.19) and per-CPU sheaves (from 6.18)."""
        for member, type in (
            ("cpu_slab", "struct kmem_cache_cpu"),
            ("cpu_sheaves", "struct slub_percpu_sheaves"),
        ):
            if not self._caches.structure.has(member):
                continue
            pointers = self._caches[member]
            owner = np.flatnonzero(pointers)
            layout = self.machine.structure(type)
            addresses = per_cpu_addresses(self.machine, pointers[owner])
            yield region("per-CPU slabs and sheaves", addresses, layout.size)
            if member == "cpu_sheaves":
                rows = self.machine.rows(type, addresses)
                cpus = len(addresses) // max(len(owner), 1)
                cache = np.repeat(owner, cpus)
                for sheaf in ("main", "spare", "rcu_free"):
                    if rows.structure.has(sheaf):
                        yield self._sheaves(rows[sheaf], cache)

    def _sheaves(self, pointers: U64, cache: I64) -> Region:
        some = self._memory.is_kernel_address(pointers)
        capacity = self._caches["sheaf_capacity"][cache[some]]
        head = self.machine.structure("struct slab_sheaf").size
        sizes = np.uint64(head) + capacity * np.uint64(self._memory.word_size)
        return region("per-CPU slabs and sheaves", pointers[some], sizes)

    def nodes(self) -> Iterator[Region]:
        """Yield nodes, barns and the sheaves in them."""
        nodes = self._allocator.nodes.rows
        yield region("cache nodes", nodes.addresses, nodes.structure.size)
        try:
            barn = self.machine.structure("struct node_barn")
        except LookupError:
            return
        cache, pointers = self._barns()
        yield region("cache nodes", pointers, barn.size)
        link = self.machine.structure("struct slab_sheaf").offset("barn_list")
        for number, address in zip(cache.tolist(), pointers.tolist()):
            for member in ("sheaves_full", "sheaves_empty"):
                links = self._list(address + barn.offset(member))
                sheaves = np.array(links, np.uint64) - np.uint64(link)
                yield self._sheaves(sheaves, np.full(len(links), number))

    def _barns(self) -> Tuple[I64, U64]:
        # Since Linux kernel commit 5ba6bc27b1f9 (in v7.1), barns are found
        # beside the nodes; before, in them.
        nodes = self._allocator.nodes
        if nodes.rows.structure.has("barn"):
            cache, pointers = nodes.cache, nodes.rows["barn"]
        else:
            pair = self.machine.structure("struct kmem_cache_per_node_ptrs")
            first = self._caches.structure.offset("per_node") + pair.offset("barn")
            starts = first + pair.size * np.arange(self.machine.node_ids)
            at = (self._caches.addresses[:, None] + starts.astype(np.uint64)).reshape(-1)
            cache = np.repeat(np.arange(len(self._caches)), len(starts))
            gathered = self._memory.gather(at, self._memory.word_size)
            pointers = gathered.bytes.view(self._memory.word)[:, 0].astype(np.uint64)
        some = self._memory.is_kernel_address(pointers)
        return cache[some], pointers[some]

    def _list(self, head: int) -> List[int]:
        # The entries of a list_head or llist, as far as they can be followed.
        found: List[int] = []
        seen: Set[int] = {head}
        at = head
        while len(found) < _MAX_LIST:
            try:
                at = self.machine.prog.read_word(at)
            except FaultError:
                break
            if at in seen or not self._memory.is_kernel_address(np.array([at], np.uint64))[0]:
                break
            seen.add(at)
            found.append(at)
        return found

    def deferred(self) -> Iterator[Region]:
        """Yield the links of objects whose free was put off (Linux 6.18 on)."""
        word = self._memory.word_size
        for name in ("defer_free_objects", "deferred_percpu_work"):
            try:
                variable = self.machine.prog[name]
            except LookupError:
                continue
            for cpu in for_each_possible_cpu(self.machine.prog):
                work = per_cpu(variable, cpu)
                for member, size in (
                    ("objects", word),
                    ("objects_by_rcu", 2 * word),
                    ("rcu_sheaves", word),
                ):
                    links = self._list(_first(work, member)) if hasattr(work, member) else []
                    if links:
                        yield region("deferred frees", links, size)

    def objects(self) -> Iterator[Region]:
        """Yield what SLUB keeps in the pages of slabs."""
        flags = slab_flags(self.machine)
        for number in range(len(self._caches)):
            cache = SlubCache(self._allocator.caches, number, flags, 1)
            rows = self._allocator.ownership.rows_of(number)
            objects = CacheObjects(self._allocator, number, self._index) if cache.debug else None
            for batch in batches(self._index, rows, self._memory.page_size):
                slots = self._slots(cache, batch)
                yield self._free_pointers(cache, batch, slots)
                if objects is not None:
                    free = objects.free(batch, slots.number)
                    yield from debugging(slots, free)
                    yield from self._beyond_asked(cache, slots, ~free)
                    self._note_handles(cache, slots)

    def traces(self) -> Iterator[Region]:
        """Yield the call traces of all tracks that :meth:`objects` has met."""
        if self._handles:
            yield from stack_traces(self.machine, np.concatenate(self._handles))

    def _note_handles(self, cache: SlubCache, slots: Slots) -> None:
        # Handles of the stack depot in both tracks of every object.
        where = SlotLayout(self.machine, cache).tracks
        if where is None:
            return
        track = self.machine.structure("struct track")
        # Since "mm/slub: use stackdepot to save stack trace in objects" (in
        # v5.19); before, the addresses themselves are in the track.
        if not track.has("handle"):
            return
        first = slots.addresses.reshape(-1) + np.uint64(slots.lead + where)
        for start in (first, first + np.uint64(track.size)):
            handles = self.machine.rows("struct track", start)["handle"]
            self._handles.append(np.unique(handles))

    def _slots(self, cache: SlubCache, rows: I64) -> Slots:
        span = self._memory.page_size << int(self._index.orders[rows[0]])
        return Slots(
            start=self._index.addresses[rows],
            span=span,
            stride=cache.size,
            number=min(span // cache.size, MAX_OBJECTS),
            lead=cache.red_left_pad,
            size=cache.object_size,
        )

    def _beyond_asked(self, cache: SlubCache, slots: Slots, used: Bools) -> Iterator[Region]:
        # Bytes of a kmalloc object beyond the size asked for are a red zone
        # since Linux 6.2; before, they are what the memory held earlier. Only
        # a cache where most are red is taken to have red zones there.
        where = SlotLayout(self.machine, cache).orig_size
        if where is None or not cache.red_zone:
            return
        gathered = self._memory.gather(slots.start, slots.number * slots.stride)
        raw = gathered.bytes.reshape(-1, slots.stride)
        at = slots.lead + where
        word = np.ascontiguousarray(raw[:, at : at + 4]).view(f"{self._memory.byteorder}u4")
        asked = word[:, 0].astype(np.int64)
        rows = np.flatnonzero(used.reshape(-1) & (asked < slots.size))
        asked = asked[rows]
        content = raw[rows, slots.lead : slots.lead + slots.size]
        is_red = (content == _RED_USED) | (np.arange(slots.size) < asked[:, None])
        if 2 * np.count_nonzero(is_red.all(axis=1)) >= len(rows):
            start = slots.addresses.reshape(-1)[rows] + np.uint64(slots.lead)
            beyond = (slots.size - asked).astype(np.uint64)
            yield region("debugging", start + asked.astype(np.uint64), beyond)

    def _free_pointers(self, cache: SlubCache, rows: I64, slots: Slots) -> Region:
        # A word is a free pointer if it decodes to an object of its own slab or
        # to NULL, or if such a word or a head leads to it: damaged ones are
        # kept as well, and chains that have lost their head.
        hardened = cache.random != -1
        geometry = Geometry(
            base=slots.start + np.uint64(slots.lead),
            objects=np.full(len(rows), slots.number),
            stride=slots.stride,
            offset=cache.offset,
            encoding=self._allocator.traits.encoding if hardened else Encoding.PLAIN,
            random=cache.random if hardened else 0,
        )
        word = self._memory.word_size
        gathered = self._memory.gather(slots.start, slots.span)
        at = each(slots.lead + cache.offset, slots.stride, slots.number) // np.uint64(word)
        at = at[at < slots.span // word].astype(np.int64)
        stored = gathered.bytes.view(self._memory.word)[:, at].astype(np.uint64)
        where = slots.addresses[:, : len(at)] + np.uint64(slots.lead + cache.offset)
        decoded = decode(geometry.encoding, stored, where, geometry.random)
        slab = np.broadcast_to(np.arange(len(rows))[:, None], decoded.shape)
        target = geometry.index_of(slab.reshape(-1), decoded.reshape(-1)).reshape(decoded.shape)
        valid = gathered.ok[:, None] & (target >= 0)
        last = gathered.ok[:, None] & (decoded == 0) & (stored != 0)
        led_to = np.zeros((len(rows), slots.number), np.bool_)
        led_to[slab[valid], target[valid]] = True
        led_to[self._heads(cache.number, rows, geometry)] = True
        return region("free pointers", where[led_to[:, : len(at)] | valid | last], word)

    def _heads(self, number: int, rows: I64, geometry: Geometry) -> Tuple[I64, I64]:
        # (slab, object) that each freelist of these slabs or of a CPU begins with.
        heads = self._index["freelist"][rows]
        if self._caches.structure.has("cpu_slab"):
            pointer = self._caches["cpu_slab"][number : number + 1]
            addresses = per_cpu_addresses(self.machine, pointer)
            cpus = self.machine.rows("struct kmem_cache_cpu", addresses)
            heads = np.concatenate([heads, cpus["freelist"]])
        known = self._index.rows_of_addresses(heads)
        slab = np.minimum(np.searchsorted(rows, known), len(rows) - 1)
        here = rows[slab] == known
        slab, heads = slab[here], heads[here]
        target = geometry.index_of(slab, heads)
        return slab[target >= 0], target[target >= 0]


def _first(work: Object, member: str) -> int:
    address = work.member_(member).address_
    assert address is not None
    return address
