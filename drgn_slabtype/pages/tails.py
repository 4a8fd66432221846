# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What tails hold
---------------

The tails of a compound page say nothing but where their head is: for a mapping they all have
``TAIL_MAPPING``, and they are charged to nobody. ``prep_compound_tail()`` writes the first;
``free_tail_page_prepare()`` and ``free_page_is_bad()`` look at both when a page is freed. The
first of them has how many pages there are, twice: as a power of two, and counted.
"""

from __future__ import annotations

from typing import Any, List, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt

from ..machine import Machine
from ..machine.memory import U64, Bools
from .folios import Folios, Rows
from .scan import folio_order_offset

I64 = npt.NDArray[np.int64]

_MAPPINGS = (0xDEAD000000000400, 0x5DEADBEEF0000400, 0x400)
"""``TAIL_MAPPING``: with ``CONFIG_ILLEGAL_POINTER_VALUE``, with that of ppc64, and, as on s390x,
without."""
# The first pages behind a head have a folio's own members in place of these.
_FIRST_OF_SLABS = 3
_FIRST = 4
_HIGHEST_ORDER = 10  # of a slab
_SHARE = 16  # so many tails are as they should be for each that is not
_MOST = 1 << 12  # that are kept; more are not understood


class TailWords(NamedTuple):
    """Tails with a word that is not that of a tail."""

    member: str
    """Of ``struct page``, or of ``struct folio``."""
    offset: int
    """Where it is in each, in bytes."""
    pfns: I64
    heads: I64
    """Page frame of the head of each."""
    words: U64
    should: U64
    """What a tail has there."""


class Tails:
    """Collects tails with words of other pages; takes blocks of pages."""

    def __init__(self, machine: Machine) -> None:
        page = machine.structure("struct page")
        self._machine = machine
        self._unmade = np.uint64(machine.layout.flags_mask)
        # From that tail on the memory map of a HugeTLB folio may be that of its first pages.
        self._folded = machine.memory.page_size // page.size
        charged = next((name for name in ("memcg_data", "mem_cgroup") if page.has(name)), None)
        self._members = [_Member("mapping", page.offset("mapping"), _MAPPINGS)]
        if charged is not None:
            self._members.append(_Member(charged, page.offset(charged), (0,)))
        self._count = _count(machine)
        self._order = folio_order_offset(machine) - page.size

    def take(self, folios: Folios, free: Bools) -> None:
        """
        Look at a block of pages.

        :param free: Which pages lie in free blocks; they are judged with these.
        """
        tails = folios.block.tail_rows
        for member in self._members if len(tails) else ():
            words = folios.block.long(member.offset)[tails]
            odd = member.odd(words)
            if odd is not None and len(odd):
                self._judge(folios, member, tails[odd], free)
        if len(tails) and self._count is not None:
            self._count_pages(folios, self._count)

    def _judge(self, folios: Folios, member: _Member, rows: Rows, free: Bools) -> None:
        heads = folios.head[rows]
        number = folios.pfns[rows].astype(np.int64) - folios.pfns[heads].astype(np.int64)
        known = (number >= _FIRST_OF_SLABS) & ~free[rows]
        known &= folios.flags[rows] != self._unmade
        rows, heads, number = rows[known], heads[known], number[known]
        if not len(rows):
            return
        slab = folios.slab()[heads]
        inside = number < np.int64(1) << np.clip(folios.orders(heads), 0, 32)
        words = folios.long_of(rows, member.offset)
        # Others are split and freed tail by tail, and drivers have mappings of their own.
        of_head = folios.long_of(heads, member.offset)
        garbage = ~self._machine.memory.is_kernel_address(words) & (words != 0) & (words != of_head)
        garbage &= (number >= _FIRST) & ~(folios.hugetlb(heads) & (number >= self._folded))
        wrong = inside & (slab | garbage)
        member.keep(folios, rows[wrong], heads[wrong], words[wrong])

    def _count_pages(self, folios: Folios, count: _Member) -> None:
        # Of slabs: other compound pages are made and unmade word by word.
        block, layout = folios.block, folios.layout
        heads = block.flagged(layout.head_flag)
        heads = heads[heads + 1 < len(block)]
        heads = heads[layout.is_slab(folios.flags[heads], folios.words[heads])]
        orders = block.raw[heads + 1, self._order]
        words = folios.column(count.offset, 4)[heads + 1]
        should = np.uint32(1) << np.minimum(orders, 31).astype(np.uint32)
        wrong = (words != should) & (orders > 0) & (orders <= _HIGHEST_ORDER)
        # What is right follows from each order; all that are so are counted as one word.
        count.right[0] += len(heads) - int(np.count_nonzero(wrong))
        if wrong.any():
            rows = heads[wrong] + 1
            count.keep(folios, rows, heads[wrong], words[wrong], should[wrong])

    @property
    def found(self) -> List[TailWords]:
        """Tails of slabs, and of other pages with what is no pointer."""
        return [found for member in self._all for found in member.found()]

    @property
    def is_odd(self) -> bool:
        """Whether there is any with another word, be it one that is not understood."""
        return any(member.count for member in self._all)

    @property
    def _all(self) -> List[_Member]:
        return [*self._members, *([] if self._count is None else [self._count])]


def _count(machine: Machine) -> Optional[_Member]:
    # Of the second page: since "mm: store compound_nr as well as compound_order" (in v5.9).
    page = machine.structure("struct page")
    if page.has("compound_nr"):
        return _Member("compound_nr", page.offset("compound_nr"), (0,))
    try:
        folio = machine.structure("struct folio")
    except LookupError:  # before Linux 5.16
        return None
    name = next((name for name in ("_nr_pages", "_folio_nr_pages") if folio.has(name)), None)
    return None if name is None else _Member(name, folio.offset(name) - page.size, (0,))


class _Member:
    # A word that follows from what others are.

    def __init__(self, name: str, offset: int, usual: Sequence[int]) -> None:
        self.name, self.offset = name, offset
        self.right = dict.fromkeys(usual, 0)
        """How many tails have each of what it can be."""
        self._kept: List[TailWords] = []
        self.count = 0
        """How many tails have another."""

    def odd(self, words: U64) -> Optional[Rows]:
        # Which of some tails have another word; None where that is not understood.
        if self.count > _MOST:
            return None
        right = np.zeros(len(words), np.bool_)
        for word in self.right:
            same = words == np.uint64(word)
            self.right[word] += int(np.count_nonzero(same))
            right |= same
        return (~right).nonzero()[0]

    def keep(
        self,
        folios: Folios,
        rows: Rows,
        heads: Rows,
        words: npt.NDArray[Any],
        should: Optional[npt.NDArray[Any]] = None,
    ) -> None:
        tails, owners = (folios.pfns[some].astype(np.int64) for some in (rows, heads))
        right = np.zeros(len(rows), np.uint64) if should is None else should.astype(np.uint64)
        self.count += len(rows)
        words = words.astype(np.uint64)
        self._kept.append(TailWords(self.name, self.offset, tails, owners, words, right))

    def found(self) -> List[TailWords]:
        usual = max(self.right, key=self.right.__getitem__)
        if not self.count or _SHARE * self.count > self.right[usual] or self.count > _MOST:
            return []
        pfns, heads, words, should = map(np.concatenate, list(zip(*self._kept))[2:])
        should |= np.uint64(usual)
        return [TailWords(self.name, self.offset, pfns, heads, words, should)]
