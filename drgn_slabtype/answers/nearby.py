# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pointers of which one bit or one byte is wrong
----------------------------------------------

A word that leads nowhere may have led somewhere before a bit flipped or a byte
was written over. The words that differ from it so little, and lead to where
something begins, are few.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Iterator, List, NamedTuple, Optional, Tuple

import numpy as np

from ..allocators.slub.cache import SlubCache
from ..machine import Machine
from ..machine.memory import U64, Bools
from ..pages.scan import page_ranges
from .address import AddressInfo
from .describe import describe
from .lookup import Located, Lookup

_MOST = 8  # more than this many tell nothing


class Near(NamedTuple):
    """A word that differs from another in one place, and leads to something."""

    what: str
    """``bit`` or ``byte``."""
    how: str
    """What would have to be changed."""
    info: AddressInfo
    """What it leads to."""


def wrong_pointers(reading: Lookup, value: int) -> List[Near]:
    """
    Return the words near to one that lead to the first byte of something.

    One bit is asked first; one byte only where no single bit would do.

    :param value: The word; where it leads to the first byte of something itself,
        nothing is wrong with it, nor where it leads to a member of an object.
    """
    machine = reading.machine
    own = describe(reading, value)
    if _begins(own):
        return []
    if own.object is not None:
        # Into an object it may lead anywhere; members lie at whole words.
        return [
            Near("bit", how, info)
            for word, how in _bits(machine, value)
            if word ^ value < machine.memory.word_size and _begins(info := describe(reading, word))
        ]
    for near in (_bits, _bytes):
        found = [
            Near(near.__name__[1:-1], how, info)
            for word, how in near(machine, value)
            if _begins(info := describe(reading, word))
        ]
        if 0 < len(found) <= _MOST:
            return found
    return []


def has_wrong_bit(reading: Lookup, value: int) -> bool:
    """Return whether a word would lead to the first byte of something with one bit turned over."""
    return any(_begins(describe(reading, word)) for word, _ in _bits(reading.machine, value))


class Slots(NamedTuple):
    """Where the objects of a slab of SLUB lie."""

    first: int
    """Address of object 0."""
    span: int
    """Bytes from there on."""
    size: int
    """Bytes from one object to the next."""

    def number(self, address: int) -> Optional[int]:
        """Return the index of the object that begins at an address."""
        index, rest = divmod(address - self.first, self.size)
        return index if 0 <= address - self.first < self.span and not rest else None


def slots_of(slab: Located, cache: SlubCache) -> Slots:
    """Return where the objects of a slab lie."""
    start, span = (int(column[slab.row]) for column in (slab.index.addresses, slab.index.spans))
    return Slots(start + cache.red_left_pad, span - cache.red_left_pad, cache.size)


def wrong_free_pointer(slots: Slots, value: int, hardened: bool) -> Optional[str]:
    """
    Return what a free pointer would be with one bit turned over; ``None`` if nothing.

    A hardened one that is stored with a wrong bit is decoded with the same.

    :param value: As it is decoded.
    :param hardened: Whether it was, and so is by no chance near to NULL.
    """
    if not value or slots.number(value) is not None:
        return None
    for bit in range(64):
        right = value ^ 1 << bit
        index = slots.number(right)
        if index is not None:
            return f"bit {bit} wrong: with it right, object {index} of its slab, 0x{right:x}"
        if not right and hardened:
            return f"bit {bit} wrong: with it right, NULL, the end of a freelist"
    return None


def _begins(info: AddressInfo) -> bool:
    return info.offset == 0


def _bits(machine: Machine, value: int) -> Iterator[Tuple[int, str]]:
    flips = np.uint64(value) ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    for bit in np.flatnonzero(_exist(machine, flips)).tolist():
        was = value >> bit & 1
        yield int(flips[bit]), f"bit {bit} {'clear' if was else 'set'}"


def _bytes(machine: Machine, value: int) -> Iterator[Tuple[int, str]]:
    for byte in range(7, -1, -1):
        shift = np.uint64(8 * byte)
        without = np.uint64(value) & ~(np.uint64(0xFF) << shift)
        words = without | np.arange(256, dtype=np.uint64) << shift
        there = np.flatnonzero(_exist(machine, words) & (words != np.uint64(value)))
        for other in there.tolist():
            was = value >> 8 * byte & 0xFF
            yield int(words[other]), f"byte {byte} 0x{other:02x} instead of 0x{was:02x}"


def _exist(machine: Machine, words: U64) -> Bools:
    # Which words are addresses of memory, struct pages or the kernel's image.
    source, page = machine.memory, machine.page
    there = np.zeros(len(words), np.bool_)
    for base, bytes_each in (
        (source.linear_base, source.page_size),
        (page.vmemmap, page.size),
    ):
        pfn = (words - np.uint64(base)) // np.uint64(bytes_each)
        for start, end in page_ranges(machine):
            there |= (pfn >= start) & (pfn < end)
    with suppress(LookupError):
        start, end = (machine.prog.symbol(name).address for name in ("_text", "_end"))
        there |= (words >= start) & (words < end)
    return there & source.is_kernel_address(words)
