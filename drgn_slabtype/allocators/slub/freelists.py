# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLUB's free pointers
--------------------

Each free object of a slab holds the address of the next, in the clear or, with
CONFIG_SLAB_FREELIST_HARDENED, XORed with a secret of the cache and the byte
swapped address of the word itself. Chains of many slabs are followed side by
side, one step of all of them at a time.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import Callable, Iterator, List, Optional, Tuple

import numpy as np

from ...distinct import distinct
from ...ledger import I64, U8, U64, Bools, Claims, Containers, Ledger, State, Walk
from ...machine.memory import Memory, Words
from ...machine.tags import Tags
from ...regions import Region, region, steps
from ..kept import Cut
from .cache import SlubCache

_BATCH_BYTES = 2 << 20  # of free pointers that are held at a time
_END, _ASTRAY = -1, -2
_FEW = 16  # chains that are followed without numpy


class Encoding(enum.Enum):
    """How a free pointer is stored."""

    PLAIN = "plain"
    """The address itself."""
    XOR = "xor"
    """XOR with ``random`` and the address of the word."""
    SWAPPED = "swapped"
    """XOR with ``random`` and the byte-swapped address of the word."""


# Since Linux kernel commit 1ad53d9fa3f6 ("slub: improve bit diffusion for
# freelist ptr obfuscation") (in v5.7), the address is byte swapped. Nothing in
# the debug info tells, so the pointers themselves have to.


def decode(
    encoding: Encoding, stored: U64, where: U64, random: int, tags: Optional[Tags] = None
) -> U64:
    """
    Return the addresses that stored free pointers stand for.

    Words and addresses have 64 bits: 32-bit kernels are refused.

    :param where: Addresses of the words.
    :param random: ``kmem_cache.random``; 0 without hardening.
    :param tags: Those that addresses are to be without.
    """
    found = stored
    if encoding is not Encoding.PLAIN:
        found = where.byteswap() if encoding is Encoding.SWAPPED else where.copy()
        found ^= np.uint64(random)
        found ^= stored
    return found if tags is None else tags.removed(found)


@dataclass
class Geometry:
    """How the objects of some slabs lie."""

    base: U64
    """Address of object 0 of each slab."""
    objects: I64
    """Objects of each slab."""
    stride: int
    """Bytes from one object to the next."""
    offset: int
    """Offset of the free pointer in an object, in bytes."""
    encoding: Encoding
    random: int
    tags: Optional[Tags] = None
    """Those that free pointers have."""

    def index_of(self, slabs: I64, addresses: U64) -> I64:
        """Return the index of the object at each address of the slab beside it; else -1."""
        offset = addresses - self.base[slabs]
        count = offset // np.uint64(self.stride)
        whole = count * np.uint64(self.stride) == offset
        index = count.astype(np.int64)
        return np.where(whole & (index >= 0) & (index < self.objects[slabs]), index, -1)

    def follows(self, words: U64) -> I64:
        """
        Return which object each object's free pointer leads to.

        Objects are numbered through, so many to a slab as it has words.

        :param words: Shape (slabs, most objects): the stored free pointer of every object.
        :return: :data:`_END` for NULL, :data:`_ASTRAY` for what is no object of the slab.
        """
        count, width = words.shape
        base = self.base[:, None]
        where = base + (np.arange(width, dtype=np.uint64) * np.uint64(self.stride) + self._at)
        decoded = decode(self.encoding, words, where, self.random, self.tags)
        end = decoded == 0
        # Where one array is done with, the next is put: there are millions of words.
        offset = np.subtract(decoded, base, out=where)
        del decoded
        index = offset // np.uint64(self.stride)
        astray = index >= self._most[:, None]
        offset -= index * np.uint64(self.stride)
        astray |= offset != 0
        found = index.view(np.int64)
        found += np.arange(0, count * width, width)[:, None]
        found[astray] = _ASTRAY
        found[end] = _END
        return found.reshape(-1)

    @property
    def _at(self) -> np.uint64:
        return np.uint64(self.offset)

    @property
    def _most(self) -> U64:
        return np.maximum(self.objects, 0).astype(np.uint64)

    def lead_to(self, about: range, heads: U64, words: U64) -> Bools:
        """
        Return in which slabs the head, or the word of any object, is one of some addresses.

        :param words: Shape (slabs, most objects): the stored free pointer of every object.
        """
        start, length = np.uint64(about.start), np.uint64(len(about))
        strides = np.arange(words.shape[1], dtype=np.uint64) * np.uint64(self.stride)
        where = self.base[:, None] + (strides + np.uint64(self.offset))
        decoded = decode(self.encoding, words, where, self.random, self.tags)
        found: Bools = (heads - start < length) | (decoded - start < length).any(axis=1)
        return found


@dataclass
class Chains:
    """What following many chains found."""

    slab: I64
    """Chain of each entry."""
    index: I64
    """Object of each entry."""
    position: I64
    """Position in its chain."""
    address: U64
    length: I64
    """Entries of each chain."""
    state: U8
    """:class:`~drgn_slabtype.ledger.Walk` of each chain."""
    culprit: I64
    """Object that holds the pointer at which a chain ended wrongly; -1 for the head."""
    value: U64
    """That pointer, decoded."""


def follow(geometry: Geometry, heads: U64, words: U64, readable: Bools) -> Chains:
    """
    Follow the chain of each slab to its end, a repeat or a bad pointer.

    :param heads: First free object of each slab; 0 for none.
    :param words: Shape (slabs, most objects): the stored free pointer of every object.
    :param readable: Which slabs could be read.
    """
    whole = _follow_whole(geometry, heads, words, readable)
    return _follow_each(geometry, heads, words, readable) if whole is None else whole


def _follow_whole(geometry: Geometry, heads: U64, words: U64, readable: Bools) -> Optional[Chains]:
    # Chains that all come to their end, as nearly all do; None if one does not.
    count, width = words.shape
    slabs = (heads != 0).nonzero()[0]
    index = geometry.index_of(slabs, heads[slabs])
    if not width or (index < 0).any() or not readable[slabs].all():
        return None
    follows = geometry.follows(words)
    at = slabs * width + index
    walked = (_walk_few if len(at) <= _FEW else _walk)(follows, at, width)
    if walked is None or (follows.take(walked[0]) == _ASTRAY).any():
        return None
    entries, lengths = walked
    slab, index = np.divmod(entries, width)
    return Chains(
        slab,
        index,
        np.repeat(np.arange(len(lengths)), lengths),
        geometry.base[slab] + (index * geometry.stride).astype(np.uint64),
        np.bincount(slab, minlength=count),
        np.full(count, Walk.WHOLE, np.uint8),
        np.full(count, -1, np.int64),
        np.zeros(count, np.uint64),
    )


def _walk(follows: I64, at: I64, width: int) -> Optional[Tuple[I64, List[int]]]:
    # What chains lead to, one step of all of them after the other, and how many each step
    # has. None if one never ends: it is longer than a slab has objects.
    steps: List[I64] = []
    while len(at):
        if len(steps) == width:
            return None
        steps.append(at)
        at = follows.take(at)
        at = at[at >= 0]
    return np.concatenate([*steps, np.zeros(0, np.int64)]), [len(step) for step in steps]


def _walk_few(follows: I64, at: I64, width: int) -> Optional[Tuple[I64, List[int]]]:
    # The same: a step of a few chains is over before numpy has begun with it.
    leads, few = follows.tolist(), at.tolist()
    steps: List[List[int]] = []
    while few:
        if len(steps) == width:
            return None
        steps.append(few)
        few = [to for to in [leads[one] for one in few] if to >= 0]
    entries = np.array([one for step in steps for one in step], np.int64)
    return entries, [len(step) for step in steps]


def _follow_each(geometry: Geometry, heads: U64, words: U64, readable: Bools) -> Chains:
    # Chains of which some end wrongly.
    count = len(heads)
    state = np.full(count, Walk.WHOLE, np.uint8)
    culprit = np.full(count, -1, np.int64)
    value = np.zeros(count, np.uint64)
    length = np.zeros(count, np.int64)
    # A damaged cache can have slabs without room for one object.
    width = max(words.shape[1], 1)
    seen = np.zeros(count * width, np.bool_)
    stored = words.reshape(-1)
    parts = []
    slabs = (heads != 0).nonzero()[0]
    pointers = heads[slabs]
    before = np.full(len(slabs), -1, np.int64)
    step = 0
    while len(slabs):
        index = geometry.index_of(slabs, pointers)
        bad = index < 0
        at = slabs * width + index
        again = ~bad & seen.take(at)
        blind = ~bad & ~again & ~readable[slabs]
        for which, kind in ((bad, Walk.POINTER), (again, Walk.CYCLE)):
            state[slabs[which]] = kind
            culprit[slabs[which]] = before[which]
            value[slabs[which]] = pointers[which]
        state[slabs[blind]] = Walk.UNREADABLE
        good = ~bad & ~again
        if not good.all():
            slabs, index, pointers, at = slabs[good], index[good], pointers[good], at[good]
        seen[at] = True
        length[slabs] += 1
        parts.append((slabs, index, np.full(len(slabs), step, np.int64), pointers))
        on = readable[slabs]
        if not on.all():
            slabs, index, pointers, at = slabs[on], index[on], pointers[on], at[on]
        where = pointers + np.uint64(geometry.offset)
        pointers = decode(geometry.encoding, stored.take(at), where, geometry.random, geometry.tags)
        before = index
        more = pointers != 0
        slabs, pointers, before = slabs[more], pointers[more], before[more]
        step += 1
    columns = [np.concatenate(c) for c in zip(*parts)] if parts else [np.zeros(0, np.int64)] * 4
    return Chains(
        columns[0].astype(np.int64),
        columns[1].astype(np.int64),
        columns[2].astype(np.int64),
        columns[3].astype(np.uint64),
        length,
        state,
        culprit,
        value,
    )


class FreelistReader:
    """
    Enters chains of free objects into the ledger of one cache.

    :param encoding: How this kernel stores free pointers.
    :param about: Addresses; chains that lead to none of them are left out.
    :param ahead: Returns the stored free pointers of slabs of so many objects, if they were
        read before.
    """

    def __init__(
        self,
        memory: Memory,
        cache: SlubCache,
        encoding: Encoding,
        about: Optional[range] = None,
        ahead: Optional[Callable[[I64, int], Optional[Words]]] = None,
    ) -> None:
        self._memory = memory
        self._cache = cache
        self._encoding = encoding if cache.random >= 0 else Encoding.PLAIN
        self._about = about
        self._ahead = ahead

    def enter(self, ledger: Ledger, boxes: Containers, heads: U64, at: int) -> None:
        """
        Follow one chain per container and append what it holds.

        :param boxes: Containers of one slab each; ``walked``, ``state``,
            ``culprit``, ``value`` and ``word`` are filled in.
        :param heads: First free object of each; 0 for none.
        :param at: Offset of the head in what each container's address leads to.
        """
        first_box = len(ledger.containers)
        parts: List[Claims] = [ledger.claims]
        for batch, chains in self._batches(ledger, boxes.slab, heads):
            boxes.walked[batch] = chains.length
            boxes.state[batch] = chains.state
            boxes.culprit[batch] = chains.culprit
            boxes.value[batch] = chains.value
            boxes.word[batch] = self._words(ledger, boxes, batch, at)
            box = batch[chains.slab]
            parts.append(
                Claims.build(
                    len(box),
                    place=boxes.place[box],
                    container=first_box + box,
                    position=chains.position,
                    address=chains.address,
                    slab=boxes.slab[box],
                    index=chains.index,
                    state=State.FREE,
                    passing=boxes.busy[box] | ledger.slabs.busy[boxes.slab[box]],
                )
            )
        ledger.claims = Claims.melt(parts)
        ledger.containers = Containers.join([ledger.containers, boxes])

    def _words(self, ledger: Ledger, boxes: Containers, batch: I64, at: int) -> U64:
        # Where the pointer stands at which each walk ended: in an object, or its head.
        culprit, base = boxes.culprit[batch], ledger.slabs.base[boxes.slab[batch]]
        held = (culprit * self._cache.size + self._cache.offset).astype(np.uint64)
        return np.where(culprit < 0, boxes.address[batch] + np.uint64(at), base + held)

    def _batches(self, ledger: Ledger, slabs: I64, heads: U64) -> Iterator[Tuple[I64, Chains]]:
        # Slabs of the same order together, no more than fit the batch.
        there = (heads != 0).nonzero()[0]
        orders = ledger.slabs.readable[slabs[there]]
        for order in distinct(orders).tolist():
            some = there[orders == order]
            span = self._memory.page_size << order
            words = int(ledger.slabs.objects[slabs[some]].max(initial=0))
            step = max(1, _BATCH_BYTES // (self._memory.word_size * max(words, 1)))
            for start in range(0, len(some), step):
                yield self._follow(ledger, slabs, heads, some[start : start + step], span)

    def _follow(
        self, ledger: Ledger, slabs: I64, heads: U64, batch: I64, span: int
    ) -> Tuple[I64, Chains]:
        cache = self._cache
        slabs, heads = slabs[batch], heads[batch]
        base, objects = ledger.slabs.base[slabs], ledger.slabs.objects[slabs]
        most = int(objects.max(initial=0))
        stored, readable = self._stored(slabs, base, most, span)
        geometry = Geometry(
            base,
            objects,
            cache.size,
            cache.offset,
            self._encoding,
            max(cache.random, 0),
            self._memory.tags,
        )
        if self._about is not None:
            near = geometry.lead_to(self._about, heads, stored)
            batch, heads, stored, readable = batch[near], heads[near], stored[near], readable[near]
            geometry = replace(geometry, base=base[near], objects=objects[near])
        return batch, follow(geometry, heads, stored, readable)

    def _stored(self, slabs: I64, base: U64, most: int, span: int) -> Words:
        # The word of every object, as it is stored.
        known = None if self._ahead is None else self._ahead(slabs, most)
        if known is not None:
            return known
        cache, word = self._cache, self._memory.word_size
        at = (np.arange(most) * cache.size + cache.red_left_pad + cache.offset) // word
        # The last slots of a damaged cache can reach past the slab's memory.
        at = np.minimum(at, span // word - 1)
        return self._memory.gather_words(base - np.uint64(cache.red_left_pad), span, at)


def regions(
    memory: Memory, cache: SlubCache, encoding: Encoding, cut: Cut, slab: I64, heads: U64
) -> Region:
    """
    Return the region of the free pointers in some slabs.

    A word is one if it decodes to an object of its own slab or to NULL, or if
    such a word or a head leads to it: damaged ones are kept as well, and chains
    that have lost their head.

    :param slab: Which of the slabs each head lies in.
    :param heads: What freelists begin with.
    """
    hardened, count = cache.random >= 0, len(cut.start)
    geometry = Geometry(
        base=cut.start + np.uint64(cut.lead),
        objects=np.full(count, cut.number),
        stride=cut.stride,
        offset=cache.offset,
        encoding=encoding if hardened else Encoding.PLAIN,
        random=cache.random if hardened else 0,
        tags=memory.tags,
    )
    gathered = memory.gather(cut.start, cut.span)
    first = cut.lead + cache.offset
    at = steps(first, cut.stride, cut.number) // np.uint64(memory.word_size)
    at = at[at < cut.span // memory.word_size].astype(np.int64)
    stored = gathered.bytes.view(memory.word)[:, at].astype(np.uint64)
    where = cut.addresses[:, : len(at)] + np.uint64(first)
    decoded = decode(geometry.encoding, stored, where, geometry.random, geometry.tags)
    mine = np.broadcast_to(np.arange(count)[:, None], decoded.shape)
    target = geometry.index_of(mine.reshape(-1), decoded.reshape(-1)).reshape(decoded.shape)
    valid = gathered.ok[:, None] & (target >= 0)
    last = gathered.ok[:, None] & (decoded == 0) & (stored != 0)
    led_to = np.zeros((count, cut.number), np.bool_)
    led_to[mine[valid], target[valid]] = True
    head = geometry.index_of(slab, heads)
    led_to[slab[head >= 0], head[head >= 0]] = True
    return region("free pointers", where[led_to[:, : len(at)] | valid | last], memory.word_size)
