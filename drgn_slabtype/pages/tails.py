# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What tails hold
---------------

The tails of a compound page say nothing but where their head is: for a mapping they all have
``TAIL_MAPPING``, and they are charged to nobody. ``prep_compound_tail()`` writes the first;
``free_tail_page_prepare()`` and ``free_page_is_bad()`` look at both when a page is freed.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Sequence

import numpy as np
import numpy.typing as npt

from ..machine import Machine
from ..machine.memory import U64, Bools
from .folios import Folios, Rows

I64 = npt.NDArray[np.int64]

_MAPPINGS = (0xDEAD000000000400, 0x5DEADBEEF0000400, 0x400)
"""``TAIL_MAPPING``: with ``CONFIG_ILLEGAL_POINTER_VALUE``, with that of ppc64, and, as on s390x,
without."""
# The first pages behind a head have a folio's own members in place of these.
_FIRST_OF_SLABS = 3
_FIRST = 4
_SHARE = 16  # so many tails are as they should be for each that is not
_MOST = 1 << 12  # that are kept; more are not understood


class TailWords(NamedTuple):
    """Tails with a word that is not that of a tail."""

    member: str
    """Of ``struct page``."""
    pfns: I64
    heads: I64
    """Page frame of the head of each."""
    words: U64
    usual: int
    """What all other tails have."""


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

    def take(self, folios: Folios, free: Bools) -> None:
        """
        Look at a block of pages.

        :param free: Which pages lie in free blocks; they are judged with these.
        """
        tails = folios.block.tails.nonzero()[0]
        for member in self._members if len(tails) else ():
            words = folios.block.long(member.offset)[tails]
            odd = member.odd(words)
            if odd is not None and len(odd):
                self._judge(folios, member, tails[odd], free)

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
        words = folios.long(member.offset)[rows]
        # Others are split and freed tail by tail, and drivers have mappings of their own.
        of_head = folios.long(member.offset)[heads]
        garbage = ~self._machine.memory.is_kernel_address(words) & (words != 0) & (words != of_head)
        garbage &= (number >= _FIRST) & ~(folios.hugetlb(heads) & (number >= self._folded))
        wrong = inside & (slab | garbage)
        pfns = [folios.pfns[some[wrong]].astype(np.int64) for some in (rows, heads)]
        member.keep(pfns[0], pfns[1], words[wrong])

    @property
    def found(self) -> List[TailWords]:
        """Tails of slabs, and of other pages with what is no pointer."""
        return [found for member in self._members for found in member.found()]


class _Member:
    # A word that is the same in all tails.

    def __init__(self, name: str, offset: int, usual: Sequence[int]) -> None:
        self.name, self.offset = name, offset
        self._usual = dict.fromkeys(usual, 0)
        self._kept: List[TailWords] = []
        self._odd = 0

    def odd(self, words: U64) -> Optional[Rows]:
        # Which of some tails have another word; None where that is not understood.
        if self._odd > _MOST:
            return None
        right = np.zeros(len(words), np.bool_)
        for word in self._usual:
            same = words == np.uint64(word)
            self._usual[word] += int(np.count_nonzero(same))
            right |= same
        return (~right).nonzero()[0]

    def keep(self, pfns: I64, heads: I64, words: U64) -> None:
        self._odd += len(pfns)
        self._kept.append(TailWords(self.name, pfns, heads, words, 0))

    def found(self) -> List[TailWords]:
        usual = max(self._usual, key=self._usual.__getitem__)
        if not self._odd or _SHARE * self._odd > self._usual[usual] or self._odd > _MOST:
            return []
        columns = [np.concatenate([getattr(one, name) for one in self._kept]) for name in _COLUMNS]
        return [TailWords(self.name, columns[0], columns[1], columns[2], usual)]


_COLUMNS = ("pfns", "heads", "words")
