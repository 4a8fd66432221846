# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compound pages
--------------

The head of a compound page says how many pages it has, and each of the others,
its tails, leads to the head. :class:`CompoundPages` finds the pages where these
two do not agree. Blocks where all agree, as they do on a sound kernel, cost a
comparison of one word for each tail.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import numpy.typing as npt

from ..distinct import among, distinct
from ..machine import Machine
from ..machine.memory import U8, U64, Bools
from .folios import Folios, Rows, compound_word_is_mask, folio_layout, head_pages
from .scan import PageBlock, compound_orders

I64 = npt.NDArray[np.int64]

NO_HEAD = -1
"""Of a page that is no tail, or that no compound page reaches over."""
NO_PAGE = -2
"""What a tail leads to, if that is no struct page."""
MAX_COMPOUND_ORDER = 20
"""No larger compound page is believed: HugeTLB pages of 1 GiB have order 18."""


class Loose(NamedTuple):
    """Pages that lie behind a head and do not lead to it, or lead to one and do not."""

    pfns: I64
    behind: I64
    """Page frame of the head whose pages reach over this one, or :data:`NO_HEAD`."""
    leads: I64
    """Page frame of the head that it leads to; :data:`NO_HEAD` or :data:`NO_PAGE`."""
    words: U64
    """``compound_head`` or ``compound_info``."""


class Head(NamedTuple):
    """What a page says that is a head, or that others take for one."""

    order: int
    """Not yet believed."""
    pages: int
    """How many it has, itself included; 1 if the order cannot be."""
    marked: bool
    """Whether it has the flag of a head."""
    slab: bool
    typed: bool
    """Whether it is a slab, a HugeTLB page, or has a page type that only complete ones have."""
    used: bool
    """Whether it is on the LRU lists or has a mapping."""
    refcount: int


class Compounds(NamedTuple):
    """Where heads and tails do not agree."""

    loose: Loose
    wrong: List[int]
    """Page frames that have the flag of a head, with an order that cannot be there."""
    heads: Dict[int, Head]
    """Every page that :attr:`loose` or :attr:`wrong` name as a head, by page frame."""


class CompoundPages:
    """Compares heads with their tails; takes blocks in ascending order."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._layout = machine.layout
        self._fields = machine.page
        self._masks = machine.fact(compound_word_is_mask)
        # The compound page that reaches into the next block.
        self._until, self._head = 0, 0
        self._loose: List[Tuple[Rows, U64, U64]] = []
        self._wrong: List[int] = []

    def take(self, folios: Folios, free: Bools) -> None:
        """
        Look at a block of pages.

        :param free: Which pages lie in free blocks. That one of them is a tail
            is the business of free memory.
        """
        block = folios.block
        flagged, tails = block.flagged(self._layout.head_flag), block.tail_rows
        if not len(flagged) and not len(tails) and self._until <= block.pfn:
            return
        heads = flagged[~folios.tails[flagged]]
        heads = heads[folios.flags[heads] != np.uint64(self._layout.flags_mask)]
        rows, owners, spans = self._reach(folios, heads)
        words, pages = block.compound[rows], self._pages(block, rows)
        good = self._lead(pages, words, owners, spans)
        if good.all() and len(rows) == len(tails) and len(flagged) == len(heads):
            return
        bad = ~good
        bad[bad] = ~self._aliases(folios, rows[bad], owners[bad])
        self._keep(block, rows[bad], owners[bad])
        # A tail that also has the flag of a head.
        inside = np.zeros(len(block), np.bool_)
        inside[rows] = True
        both = good & block.tails_of(rows)
        both[both] = (
            folios.flags[rows[both]] >> np.uint64(self._layout.head_flag) & np.uint64(1) != 0
        )
        self._keep(block, rows[both], owners[both])
        # Tails that no head reaches. A struct page that was never made has all flags.
        alone = tails[~inside[tails] & ~free[tails]]
        alone = alone[folios.flags[alone] != np.uint64(self._layout.flags_mask)]
        self._keep(block, alone, np.zeros(len(alone), np.uint64))

    def _pages(self, block: PageBlock, rows: Rows) -> U64:
        size = np.uint64(self._fields.size)
        return np.uint64(block.address) + rows.astype(np.uint64) * size

    def _keep(self, block: PageBlock, rows: Rows, owners: U64) -> None:
        if len(rows):
            words = block.compound[rows].astype(np.uint64)
            self._loose.append((rows + block.pfn, owners, words))

    def _reach(self, folios: Folios, heads: Rows) -> Tuple[Rows, U64, U64]:
        # The rows of all pages behind a head, struct page * of that head, and the bytes
        # that the struct pages of all of them take.
        block, count = folios.block, len(folios)
        orders, pfns = folios.orders(heads), heads + block.pfn
        ends, possible = _ends(pfns, orders)
        before = np.maximum.accumulate(np.concatenate([[self._until], ends]))[:-1]
        # What lies inside another compound page is judged as one of its tails.
        first = before <= pfns
        self._wrong += pfns[first & ~possible].tolist()
        heads, ends = heads[first & possible], ends[first & possible]
        starts, owners = heads + 1, self._pages(block, heads)
        if self._until > block.pfn:
            starts = np.concatenate([[0], starts])
            ends = np.concatenate([[self._until], ends])
            owners = np.concatenate([np.array([self._head], np.uint64), owners])
        if len(ends) and ends[-1] > block.pfn + count:
            self._until, self._head = int(ends[-1]), int(owners[-1])
        counts = np.minimum(ends - block.pfn, count) - starts
        steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        size = np.uint64(self._fields.size)
        spans = np.uint64(self._fields.vmemmap) + ends.astype(np.uint64) * size - owners
        rows = np.repeat(starts, counts) + steps
        return rows, np.repeat(owners, counts), np.repeat(spans, counts)

    def _lead(self, pages: U64, words: U64, heads: U64, spans: U64) -> Bools:
        # Whether tails lead to their heads.
        good: Bools = words == heads + np.uint64(1)
        if self._masks:
            # The mask may be that of a larger compound page that this one was
            # the first part of, and of no smaller one.
            mask = words - np.uint64(1)
            rest = ~mask
            whole = (rest & (rest + np.uint64(1)) == 0) & (rest >= spans - np.uint64(1))
            good |= whole & (pages & mask == heads)
        return good

    def _aliases(self, folios: Folios, rows: Rows, owners: U64) -> Bools:
        # With the memory map of a HugeTLB folio folded onto its first page (Linux
        # 5.18 to 7.0), the head shows again where some of its tails should be.
        head = folios.head[rows]
        vmemmap, size = np.uint64(self._fields.vmemmap), np.uint64(self._fields.size)
        same: Bools = folios.pfns[head] * size + vmemmap == owners
        same &= folios.tails[rows] & ~folios.block.tails_of(rows)
        some = np.flatnonzero(same)
        same[some] = (folios.raw[rows[some]] == folios.raw[head[some]]).all(axis=1)
        return same

    # After the last block.

    def result(self) -> Compounds:
        """Return where heads and tails did not agree."""
        vmemmap, size = self._fields.vmemmap, self._fields.size
        none = np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        pfns, owners, words = (np.concatenate(column) for column in zip(none, *self._loose))
        behind = np.where(owners != 0, (owners - np.uint64(vmemmap)) // np.uint64(size), 0)
        behind = np.where(owners != 0, behind.astype(np.int64), NO_HEAD)
        pages = pfns.astype(np.uint64) * np.uint64(size) + np.uint64(vmemmap)
        offset = head_pages(pages, words) - np.uint64(vmemmap)
        leads = (offset // np.uint64(size)).astype(np.int64)
        # No machine has more memory than 52 bits of physical address.
        most = 1 << 52 >> self._machine.memory.page_shift
        leads[(offset % np.uint64(size) != 0) | (leads >= most) | (leads < 0)] = NO_PAGE
        leads[words & np.uint64(1) == 0] = NO_HEAD
        heads = self._heads(np.concatenate([behind, leads, np.array(self._wrong, np.int64)]))
        known = np.array(sorted(heads), np.int64)
        leads[(leads >= 0) & ~among(leads, known)] = NO_PAGE
        return Compounds(Loose(pfns, behind, leads, words), self._wrong, heads)

    def _heads(self, pfns: I64) -> Dict[int, Head]:
        machine, fields = self._machine, self._fields
        wanted = distinct(pfns[pfns >= 0])
        addresses = wanted.astype(np.uint64) * np.uint64(fields.size) + np.uint64(fields.vmemmap)
        read = machine.memory.gather(addresses, fields.size)
        wanted, addresses, own = wanted[read.ok], addresses[read.ok], read.bytes[read.ok]
        if not len(wanted):
            return {}
        # The last page of all has none after it, and reads as one of order 0.
        after = machine.memory.gather(addresses + np.uint64(fields.size), fields.size).bytes
        page = PageBlock(0, 0, own, fields, machine.memory.byteorder)
        raw = np.concatenate([own, after], axis=1)
        orders = compound_orders(machine, self._layout, raw).astype(np.int64)
        ends, possible = _ends(wanted, orders)
        encoding, flags = self._layout.encoding, page.flags
        slab = self._layout.is_slab(flags, page.words)
        typed = slab | encoding.has_type(page.words) | self._hugetlb(raw)
        if "kmemcg" in encoding.types:
            # Pages are uncharged when their tails are free already.
            typed &= slab | ~encoding.is_type(page.words, "kmemcg")
        lru = machine.enumerators("pageflags").get("PG_lru", 0)
        mapping = page.long(machine.structure("struct page").offset("mapping"))
        columns = (
            wanted,
            orders,
            np.where(possible, ends - wanted, 1),
            flags >> np.uint64(self._layout.head_flag) & np.uint64(1) != 0,
            slab,
            typed,
            (flags >> np.uint64(lru) & np.uint64(1) != 0) | (mapping != 0),
            page.refcounts.astype(np.int32),
        )
        return {pfn: Head(*says) for pfn, *says in zip(*(column.tolist() for column in columns))}

    def _hugetlb(self, raw: U8) -> Bools:
        # Before it was a page type: a flag or a destructor in the second page.
        where, order = folio_layout(self._machine), self._machine.memory.byteorder
        if "hugetlb" in self._layout.encoding.types:
            return np.zeros(len(raw), np.bool_)
        if where.hugetlb_flag is not None:
            second = np.ascontiguousarray(raw[:, self._fields.size :])
            page = PageBlock(0, 0, second, self._fields, order)
            return page.flags >> np.uint64(where.hugetlb_flag) & np.uint64(1) != 0
        if where.hugetlb_dtor is None or where.hugetlb_dtor >= raw.shape[1]:
            return np.zeros(len(raw), np.bool_)
        return raw[:, where.hugetlb_dtor] == where.hugetlb_dtor_value


def _ends(pfns: I64, orders: I64) -> Tuple[I64, Bools]:
    # Page frames after the last page of compound pages, and whether these can be.
    possible = (orders >= 1) & (orders <= MAX_COMPOUND_ORDER)
    pages = np.int64(1) << np.where(possible, orders, 0)
    possible &= pfns & (pages - 1) == 0
    return np.where(possible, pfns + pages, pfns), possible
