# SPDX-License-Identifier: LGPL-2.1-or-later
"""
References and flags of pages
-----------------------------

Pages outside of free memory whose count of references is below zero, tails of
compound pages that have a count of their own, and tails of slabs with flags.
"""

from __future__ import annotations

from typing import List, NamedTuple

import numpy as np
import numpy.typing as npt

from ..machine import Machine
from ..machine.memory import U64, Bools
from .folios import Folios
from .scan import folio_order_offset
from .zones import zone_bits

I64 = npt.NDArray[np.int64]

# Flags that a page gets from users of pages, on LRU lists, in the page cache,
# from a driver: nobody has a slab's page to give them to. Not among them are what
# the allocators set themselves (locked, active, workingset), what is set whoever
# a page belongs to (hwpoison, arch_1 and the like), and what waiting for the lock
# of a page leaves behind (waiters).
_OF_USERS = (
    "PG_referenced", "PG_uptodate", "PG_dirty", "PG_lru", "PG_error", "PG_owner_priv_1",
    "PG_reserved", "PG_private", "PG_private_2", "PG_writeback", "PG_mappedtodisk",
    "PG_owner_2", "PG_reclaim", "PG_swapbacked", "PG_unevictable", "PG_mlocked",
)  # fmt: skip


# Nor has a page of a slab that is not its first what the allocators set on that.
_OF_HEADS = ("PG_locked", "PG_waiters", "PG_active", "PG_workingset")
_UNTYPED = 0xFFFFFFFF
_MOST_WORDS = 64  # tails of slabs with another word; more are not understood


class Counted(NamedTuple):
    """Pages and how many references each has."""

    pfns: I64
    counts: I64
    slab: Bools
    """Which are pages of slabs."""


class Flagged(NamedTuple):
    """Pages and flags that they should not have."""

    pfns: I64
    flags: U64
    heads: I64
    """Page frame of the head of each."""


class Worded(NamedTuple):
    """Pages and a page_type word that they should not have."""

    pfns: I64
    words: I64
    heads: I64
    """Page frame of the head of each."""


def flags_of_users(machine: Machine) -> int:
    """Return the flags that no page of a slab can have, found once."""
    return machine.fact(_flags_of_users)


def _flags_of_users(machine: Machine) -> int:
    # In some kernels a name is that of a mask or an alias, and no bit.
    flags = machine.enumerators("pageflags")
    names = [*_OF_USERS]
    # SLAB itself sets none on its slabs, but for memory of the reserves.
    if machine.layout.allocator == "SLAB":
        names += ["PG_locked", "PG_workingset"]
    bits = [flags[name] for name in names if name in flags]
    return sum(1 << bit for bit in {*bits} - {machine.layout.slab_flag, machine.layout.head_flag})


def bits_of_no_flag(machine: Machine) -> int:
    """
    Return the bits of ``page->flags`` below its zone that no flag has.

    What lies there is a page's last CPU, a generation, a tag of KASAN's: the same in
    all pages that have just been allocated. 0 where it is not known how many flags there are.
    """
    count = machine.enumerators("pageflags").get("__NR_PAGEFLAGS", 64)
    return max((1 << zone_bits(machine).shift) - (1 << count), 0)


def _has_order_in_flags(machine: Machine) -> bool:
    # Since Linux kernel commit ebc1baf5c9b4 (in v6.6).
    flags = machine.page.size + machine.page.flags
    return 0 <= machine.fact(folio_order_offset) - flags < machine.memory.word_size


class References:
    """Collects pages with too few or too many references; takes blocks of pages."""

    def __init__(self, machine: Machine) -> None:
        of_users, flags = flags_of_users(machine), machine.enumerators("pageflags")
        for name in _OF_HEADS:
            of_users |= 1 << flags[name] if name in flags else 0
        self._mask = np.uint64(of_users)
        self._unmade = np.uint64(machine.layout.flags_mask)
        self._negative: List[Counted] = []
        self._held: List[Counted] = []
        self._flagged: List[Flagged] = []
        self._second = self._mask
        if _has_order_in_flags(machine):
            # In the second page, the lowest flags are a folio's own.
            self._second = np.uint64(flags_of_users(machine)) & ~np.uint64(0xFF)
        self._worded: List[Worded] = []

    def take(self, folios: Folios, free: Bools) -> None:
        """
        Look at a block of pages.

        :param free: Which pages lie in free blocks; they are judged with these.
        """
        block = folios.block
        counts = block.refcounts.astype(np.uint32).view(np.int32)
        odd = ((counts < 0) & ~free).nonzero()[0]
        # A struct page that was never made has all flags.
        odd = odd[folios.flags[odd] != self._unmade]
        tails = block.tail_rows
        held = tails[counts[tails] != 0]
        held = held[~free[held] & (folios.flags[held] != self._unmade)]
        for rows, into in ((odd[~folios.tails[odd]], self._negative), (held, self._held)):
            if len(rows):
                slab = folios.slab()[folios.head[rows]]
                into.append(Counted(rows + block.pfn, counts[rows].astype(np.int64), slab))
        odd = tails[folios.words[tails] != _UNTYPED]
        odd = odd[folios.slab()[folios.head[odd]]] if len(odd) else odd
        if len(odd):
            heads = folios.pfns[folios.head[odd]].astype(np.int64)
            words = folios.words[odd].astype(np.int64)
            self._worded.append(Worded(odd + block.pfn, words, heads))
        # A page after the head, alone, is no reason to look which ones are slabs.
        rows = tails[folios.flags[tails] & self._mask != 0]
        rows = rows[folios.slab()[folios.head[rows]]] if len(rows) else rows
        if len(rows):
            second = folios.pfns[folios.head[rows]] + np.uint64(1) == folios.pfns[rows]
            flags = folios.flags[rows] & np.where(second, self._second, self._mask)
            rows, flags = rows[flags != 0], flags[flags != 0]
            heads = folios.pfns[folios.head[rows]].astype(np.int64)
            self._flagged.append(Flagged(rows + block.pfn, flags, heads))

    # After the last block.

    @property
    def negative(self) -> Counted:
        """Pages that are no tails, with less than no references."""
        return _counted(self._negative)

    @property
    def held(self) -> Counted:
        """Tails of compound pages with references of their own."""
        return _counted(self._held)

    @property
    def flagged(self) -> Flagged:
        """Tails of slabs with flags of pages of users."""
        none = np.zeros(0, np.int64)
        parts = [Flagged(none, np.zeros(0, np.uint64), none), *self._flagged]
        return Flagged(*(np.concatenate(column) for column in zip(*parts)))

    @property
    def worded(self) -> Worded:
        """Tails of slabs with a word that is not that of an untyped page, if they are few."""
        none = np.zeros(0, np.int64)
        parts = [Worded(none, none, none), *self._worded]
        found = Worded(*(np.concatenate(column) for column in zip(*parts)))
        return found if len(found.pfns) <= _MOST_WORDS else parts[0]


def _counted(parts: List[Counted]) -> Counted:
    none = np.zeros(0, np.int64)
    every = [Counted(none, none, np.zeros(0, np.bool_)), *parts]
    return Counted(*(np.concatenate(column) for column in zip(*every)))
