# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pointers behind objects in use
------------------------------

Where the free pointer lies behind the object, nobody writes to it while the
object is in use: it is what it was when the object was taken, NULL or an object
of the same slab. check_object() holds a cache with debugging to that. Behind it
is the address of who allocated the object, which is in the kernel.
"""

from __future__ import annotations

from typing import Iterator, Tuple

import numpy as np

from ...ledger import I64, U64, Bools, Ledger, State, Zone
from ...machine import Machine
from ...machine.memory import Memory
from .asked import POISON_PAD
from .cache import SlubCache
from .freelists import Encoding, decode

_BATCH = 1 << 14  # slabs whose objects are looked at together
_MADE = int.from_bytes(bytes([POISON_PAD]) * 8, "little")  # in a slab that was just made


def used_pointers(
    machine: Machine, cache: SlubCache, ledger: Ledger, encoding: Encoding, nodes: U64
) -> Iterator[Zone]:
    """
    Yield pointers of objects in use that lead to no object of their slab, or to no code.

    :param ledger: With all claims of the cache.
    :param nodes: Structures of nodes, some of which were carved out of a slab by hand.
    """
    outside = cache.offset >= cache.inuse
    if not cache.debug or not (outside or cache.store_user):
        return
    memory, slabs = machine.memory, ledger.slabs
    unsure = (slabs.readable != slabs.order) | slabs.excused | slabs.failed
    unsure |= slabs.transit | slabs.busy
    judged = np.flatnonzero(~unsure)
    for first in range(0, len(judged), _BATCH):
        slab, index = _used(ledger, judged[first : first + _BATCH])
        if outside:
            yield from _pointers(memory, cache, ledger, encoding, nodes, slab, index)
        if cache.store_user:
            at = cache.inuse + (memory.word_size if outside else 0)
            at += machine.structure("struct track").offset("addr")
            yield from _callers(memory, ledger, slab, index, at)


def _pointers(
    memory: Memory,
    cache: SlubCache,
    ledger: Ledger,
    encoding: Encoding,
    nodes: U64,
    slab: I64,
    index: I64,
) -> Iterator[Zone]:
    slabs, stride = ledger.slabs, np.uint64(ledger.facts.stride)
    where = slabs.base[slab] + index.astype(np.uint64) * stride + np.uint64(cache.offset)
    words = memory.gather(where, 8)
    stored = np.ascontiguousarray(words.bytes).view(f"{memory.byteorder}u8")[:, 0].astype(np.uint64)
    secret = max(cache.random, 0)
    leads = decode(encoding, stored, where, secret, memory.tags)
    offset = leads - slabs.base[slab]
    # Zeroes may have been written over it when the object was cleared.
    sound = (leads == 0) | (stored == 0) | ~words.ok
    sound |= (offset % stride == 0) & (offset // stride < slabs.objects[slab].astype(np.uint64))
    # What was carved out while SLUB came up need never have been on a freelist.
    made = (stored == np.uint64(_MADE)) | (not cache.padded)
    sound |= made & np.isin(where - np.uint64(cache.offset), nodes)
    wrong = ~sound
    # What most of them break is another layout.
    if not wrong.any() or 2 * np.count_nonzero(wrong) > np.count_nonzero(words.ok):
        return
    yield Zone(
        "padding",
        "free pointer of an object in use",
        slab[wrong],
        index[wrong],
        where[wrong],
        words.bytes[wrong],
        None,
        wanted="NULL or an object of its slab",
    )


def _callers(memory: Memory, ledger: Ledger, slab: I64, index: I64, at: int) -> Iterator[Zone]:
    # One that is not set is judged elsewhere.
    stride = np.uint64(ledger.facts.stride)
    where = ledger.slabs.base[slab] + index.astype(np.uint64) * stride + np.uint64(at)
    words = memory.gather(where, 8)
    addresses = np.ascontiguousarray(words.bytes).view(f"{memory.byteorder}u8")[:, 0]
    wrong = words.ok & (addresses != 0) & ~memory.is_kernel_address(addresses.astype(np.uint64))
    if not wrong.any() or 2 * np.count_nonzero(wrong) > np.count_nonzero(words.ok):
        return
    yield Zone(
        "track",
        "caller of the allocation",
        slab[wrong],
        index[wrong],
        where[wrong],
        words.bytes[wrong],
        None,
        wanted="an address in the kernel",
    )


def _used(ledger: Ledger, some: I64) -> Tuple[I64, I64]:
    # Slab and index of every object that no place records, but for what the allocator lives in.
    slabs, claims = ledger.slabs, ledger.claims
    slab = np.repeat(some, slabs.objects[some])
    starts = np.cumsum(slabs.objects[some]) - slabs.objects[some]
    index = np.arange(len(slab)) - np.repeat(starts, slabs.objects[some])
    most = int(slabs.objects.max(initial=1)) + 1
    known = (claims.slab >= 0) & (claims.index >= 0) & (claims.state != State.LIVE)
    taken = claims.slab[known] * most + claims.index[known]
    used: Bools = ~np.isin(slab * most + index, taken)
    return slab[used], index[used]
