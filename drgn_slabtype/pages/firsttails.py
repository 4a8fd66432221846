# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the first tails of slabs have for a mapping
------------------------------------------------

A folio keeps numbers and links of its own there: how many pages it has, how often it is
mapped, an empty list. Nobody touches those of a slab, so that all slabs of an order have
the same, and tell what it is.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

import numpy as np
import numpy.typing as npt

from ..machine import Machine
from ..machine.memory import Bools
from .folios import Folios
from .tails import TailWords

I64 = npt.NDArray[np.int64]
_Kind = Tuple[int, int]  # which tail it is, and of the first the order of its slab

_LAST = 2  # behind it all tails are alike
_FEWEST = 16  # tails of a kind that can tell what all have
_MOST = 64  # tails with another word; more are not understood
_LINKS = 256  # bytes: a list that is empty leads to itself, nearby
_ITSELF = 1 << 62  # beyond all addresses: how far such a link is from its struct page


class FirstTails:
    """Compares ``mapping`` of the first tails of slabs; takes blocks of pages."""

    def __init__(self, machine: Machine) -> None:
        self._offset = machine.structure("struct page").offset("mapping")
        self._vmemmap, self._size = machine.page.vmemmap, machine.page.size
        self._times: Dict[_Kind, Dict[int, int]] = {}
        self._odd: Dict[_Kind, List[Tuple[int, int, int]]] = {}

    def take(self, folios: Folios, free: Bools) -> None:
        """
        Look at a block of pages.

        :param free: Which pages lie in free blocks; they are judged with these.
        """
        tails = folios.block.tail_rows
        heads = folios.head[tails]
        # Most are no slab's, or are further behind their head.
        known = folios.slab()[heads]
        known &= folios.pfns[tails] - folios.pfns[heads] - np.uint64(1) < np.uint64(_LAST)
        tails, heads = tails[known], heads[known]
        tails, heads = tails[~free[tails]], heads[~free[tails]]
        if not len(tails):
            return
        own = folios.pfns[heads].astype(np.int64)
        number = folios.pfns[tails].astype(np.int64) - own
        orders = np.clip(folios.orders(heads), 0, 20)
        inside = number < np.int64(1) << orders
        number, orders, own = number[inside], orders[inside], own[inside]
        pages = np.uint64(self._vmemmap) + (number + own).astype(np.uint64) * np.uint64(self._size)
        words = folios.long_of(tails[inside], self._offset)
        # A link that leads to itself is told from the page that it is in.
        near = words - pages
        words = np.where(near < np.uint64(_LINKS), near + np.uint64(_ITSELF), words)
        kinds = number + np.where(number == 1, orders << 8, 0)
        for kind in np.bincount(kinds).nonzero()[0].tolist():
            here = kinds == kind
            self._count((kind & 0xFF, kind >> 8), words[here], number[here] + own[here], own[here])

    def _count(self, kind: _Kind, words: npt.NDArray[np.uint64], pfns: I64, heads: I64) -> None:
        value, times = int(words[0]), int(np.count_nonzero(words == words[0]))
        if times < len(words):
            values, counts = np.unique(words, return_counts=True)
            most = int(counts.argmax())
            value, times = int(values[most]), int(counts[most])
        counted = self._times.setdefault(kind, {})
        counted[value] = counted.get(value, 0) + times
        usual = max(counted, key=lambda word: counted[word])
        odd = np.flatnonzero(words != np.uint64(usual))[: _MOST + 1]
        columns = (pfns[odd].tolist(), heads[odd].tolist(), words[odd].tolist())
        self._odd.setdefault(kind, []).extend(zip(*columns))

    @property
    def found(self) -> List[TailWords]:
        """The tails with another word than all others of their kind, if they are few."""
        found: List[TailWords] = []
        for kind, times in self._times.items():
            usual = max(times, key=lambda word: times[word])
            odd = [one for one in self._odd[kind] if one[2] != usual]
            if times[usual] >= max(_FEWEST, 10 * len(odd)):
                found += [self._told(*one, usual) for one in odd]
        return found if len(found) <= _MOST else []

    def _told(self, pfn: int, head: int, word: int, usual: int) -> TailWords:
        pfns, heads = np.array([pfn], np.int64), np.array([head], np.int64)
        words = np.array([self._plain(word, pfn)], np.uint64)
        should = np.array([self._plain(usual, pfn)], np.uint64)
        return TailWords("mapping", self._offset, pfns, heads, words, should)

    def _plain(self, word: int, pfn: int) -> int:
        itself = _ITSELF <= word < _ITSELF + _LINKS
        return word - _ITSELF + self._vmemmap + pfn * self._size if itself else word
