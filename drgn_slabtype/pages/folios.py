# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages and their heads
---------------------

Much of what a page is, its head page tells. :class:`Folios` finds the head of
each page of a block, whatever way the kernel stores it, and gives the members
of ``struct page`` and ``struct folio`` as columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import numpy as np
import numpy.typing as npt

from ..distinct import distinct
from ..machine import Machine
from ..machine.columns import Structure
from ..machine.memory import U8, U64, Bools
from ..machine.page import PageFields
from ..pagetype.detect import PageTypeLayout
from .scan import PageBlock, folio_order_offset

I64 = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]
U32 = npt.NDArray[np.uint32]

_COPIED = 3  # struct pages of a folio whose members are used


@dataclass(frozen=True)
class FolioLayout:
    """Where a kernel keeps what the pages of a folio have in common."""

    size: int
    """sizeof(struct page)."""
    mapping: int
    refcount: int
    private: int
    entire_mapcount: Optional[int]
    """How often the folio is mapped as a whole, minus 1."""
    large_mapcount: Optional[int]
    """How often its pages are mapped, all together, minus 1; since Linux 6.10."""
    pages_mapped: Optional[int]
    """How many of its pages are mapped; since Linux 6.2."""
    hugetlb_flag: Optional[int]
    """Bit of the second page's flags that marks a HugeTLB folio."""
    hugetlb_dtor: Optional[int]
    """Byte that holds the destructor, from the head page on."""
    hugetlb_dtor_value: Optional[int]
    rmappable_flag: Optional[int]
    """Bit of the second page's flags that marks a folio that can be mapped in part."""
    double_map_flag: Optional[int]
    """Bit of the second page's flags: mapped as a whole and in part; before Linux 6.2."""


def folio_layout(machine: Machine) -> FolioLayout:
    """Return the :class:`FolioLayout` of a program, found once."""
    return machine.fact(_find_layout)


def _find_layout(machine: Machine) -> FolioLayout:
    page = machine.structure("struct page")
    try:
        folio: Optional[Structure] = machine.structure("struct folio")
    except LookupError:
        folio = None  # before Linux 5.16

    def shared(folio_name: str, page_name: str = "") -> Optional[int]:
        if folio is not None and folio.has(folio_name):
            return folio.offset(folio_name)
        # Before "mm: remove 'First tail page' members from struct page" (in
        # v6.3), they are members of the second page.
        if page_name and page.has(page_name):
            return page.size + page.offset(page_name)
        return None

    flags = machine.enumerators("pageflags")
    return FolioLayout(
        size=page.size,
        mapping=page.offset("mapping"),
        refcount=page.offset("_refcount"),
        private=page.offset("private"),
        entire_mapcount=shared("_entire_mapcount", "compound_mapcount"),
        large_mapcount=shared("_large_mapcount"),
        pages_mapped=shared("_nr_pages_mapped", "subpages_mapcount"),
        # A page type since Linux kernel commit d99e3140a4d3 ("mm: turn
        # folio_test_hugetlb into a PageType") (in v6.9), a flag of the second
        # page in 6.6 to 6.8, a destructor before.
        hugetlb_flag=flags.get("PG_hugetlb"),
        hugetlb_dtor=shared("_folio_dtor", "compound_dtor"),
        hugetlb_dtor_value=machine.enumerators("compound_dtor_id").get("HUGETLB_PAGE_DTOR"),
        rmappable_flag=flags.get("PG_large_rmappable"),
        double_map_flag=flags.get("PG_double_map"),
    )


class Folios:
    """
    The pages of a block, each with its head.

    Rows are those of :attr:`raw`: the pages of the block, then copies of heads
    that lie outside it, with the pages after each.

    :param block: Consecutive struct pages.
    """

    def __init__(self, machine: Machine, block: PageBlock) -> None:
        self.machine = machine
        self.block = block
        self.layout: PageTypeLayout = machine.layout
        self.where: FolioLayout = folio_layout(machine)
        self.raw: U8 = block.raw
        """Shape (rows, sizeof(struct page))."""
        self.pfns: U64 = np.arange(block.pfn, block.pfn + len(block), dtype=np.uint64)
        """Page frame number of each row."""
        self.head: Rows = np.arange(len(block))
        """Row of the head of each page of the block; a page that is no tail is its own."""
        self._order = machine.memory.byteorder
        self._long = machine.memory.word_size
        self.tails: Bools = block.tails
        """Which pages of the block are tails."""
        self._slab: Optional[Bools] = None
        self._find_heads()
        self.flags: U64 = self.long(machine.page.flags)
        """``page->flags`` of each row."""
        self.words: U32 = self.column(machine.page.word, 4).astype(np.uint32, copy=False)
        """The page_type word of each row."""

    def __len__(self) -> int:
        return len(self.block)

    def column(self, offset: int, width: int) -> Any:
        """Return an unsigned member of every row, from its offset and width in bytes."""
        return np.ascontiguousarray(self._member(offset, width))

    def _member(self, offset: int, width: int) -> Any:
        flat = self.raw.reshape(-1).view(f"{self._order}u{width}")
        return flat[offset // width :: self.where.size // width]

    def long(self, offset: int) -> U64:
        """Return an ``unsigned long`` of every row."""
        result: U64 = self.column(offset, self._long).astype(np.uint64, copy=False)
        return result

    def long_of(self, rows: Any, offset: int) -> U64:
        """Return an ``unsigned long`` of some rows."""
        result: U64 = self._member(offset, self._long)[rows].astype(np.uint64, copy=False)
        return result

    def of_heads(self, rows: Rows, offset: int, width: int) -> Any:
        """
        Return an unsigned member of ``struct folio`` for some heads.

        :param rows: Rows of heads.
        :param offset: From the beginning of the head page; may lie in the pages after it.
        """
        page, offset = divmod(offset, self.where.size)
        at = np.minimum(rows + page, len(self.raw) - 1)
        cut = np.ascontiguousarray(self.raw[at, offset : offset + width])
        return cut.view(f"{self._order}u{width}")[:, 0]

    def _find_heads(self) -> None:
        tails = self.block.tail_rows
        if not len(tails):
            return
        fields, links = self.machine.page, self.block.compound[tails]
        runs = tail_runs(links, tails)
        pfns = self.pfns[tails[runs.starts]]
        heads = heads_of_tails(fields, pfns, links[runs.starts])
        fakes = fake_heads(fields, pfns, heads)
        before = tails[runs.starts[fakes]] - 1
        flags = self.block.flags[np.maximum(before, 0)]
        is_head = flags >> np.uint64(self.layout.head_flag) & np.uint64(1) != 0
        is_fake = (before >= 0) & ~self.tails[before] & is_head
        rows = np.concatenate([tails, before[is_fake]])
        all_heads = np.concatenate([np.repeat(heads, runs.counts), heads[fakes[is_fake]]])
        self.tails[before[is_fake]] = True
        first, end = np.uint64(self.block.pfn), np.uint64(self.block.pfn + len(self.block))
        inside = (all_heads >= first) & (all_heads < end)
        self.head[rows[inside]] = (all_heads[inside] - first).astype(np.intp)
        if not inside.all():
            self._fetch(rows[~inside], all_heads[~inside])

    def _fetch(self, rows: Rows, heads: U64) -> None:
        # Copies of heads outside the block; a tail whose head cannot be read
        # stays its own.
        distinct, which = np.unique(heads, return_inverse=True)
        size = np.uint64(self.where.size)
        vmemmap = np.uint64(self.block.address) - np.uint64(self.block.pfn) * size
        gathered = self.machine.memory.gather(vmemmap + distinct * size, _COPIED * self.where.size)
        where = np.full(len(distinct), -1, np.intp)
        where[gathered.ok] = len(self.raw) + _COPIED * np.arange(gathered.ok.sum())
        copies = gathered.bytes[gathered.ok].reshape(-1, self.where.size)
        self.raw = np.concatenate([self.raw, copies])
        steps = np.arange(_COPIED, dtype=np.uint64)
        pfns = distinct[gathered.ok][:, None] + steps[None, :]
        self.pfns = np.concatenate([self.pfns, pfns.reshape(-1)])
        found = where[which] >= 0
        self.head[rows[found]] = where[which][found]

    # What the heads say, spread over the pages of the block.

    @property
    def heads(self) -> Rows:
        """Rows of the heads of large folios that have a page in the block."""
        is_head = (self.flags[self.head] >> np.uint64(self.layout.head_flag)) & np.uint64(1)
        return distinct(self.head[is_head.astype(np.bool_) | self.tails])

    def heads_of(self, rows: Rows) -> Rows:
        """Return which of some rows are heads of large folios, as :attr:`heads` has them."""
        if not len(rows):
            return rows
        led = np.zeros(len(self.raw), np.bool_)
        led[self.head[self.tails]] = True
        is_head = self.flags[rows] >> np.uint64(self.layout.head_flag) & np.uint64(1) != 0
        return rows[(is_head & (self.head[rows] == rows)) | led[rows]]

    def spread(self, heads: Rows, values: npt.NDArray[Any]) -> Any:
        """Return, for each page of the block, the value of its head; zero for other pages."""
        rows = np.zeros(len(self.raw), values.dtype)
        rows[heads] = values
        return rows[self.head]

    def hugetlb(self, heads: Rows) -> Bools:
        """Return which heads are those of HugeTLB folios."""
        where, encoding = self.where, self.layout.encoding
        if "hugetlb" in encoding.types:
            return encoding.is_type(self.words[heads], "hugetlb")
        if where.hugetlb_flag is not None:
            return self.second_flag(heads, where.hugetlb_flag)
        if where.hugetlb_dtor is not None and where.hugetlb_dtor_value is not None:
            dtors = self.of_heads(heads, where.hugetlb_dtor, 1)
            result: Bools = dtors == where.hugetlb_dtor_value
            return result
        return np.zeros(len(heads), np.bool_)

    def second_flag(self, heads: Rows, flag: int) -> Bools:
        """Return which heads have a flag in their second page."""
        flags = self.of_heads(heads, self.where.size + self.machine.page.flags, self._long)
        result: Bools = (flags.astype(np.uint64) >> np.uint64(flag)) & np.uint64(1) != 0
        return result

    def orders(self, heads: Rows) -> I64:
        """Return the orders of large folios."""
        is_head = self.flags[heads] >> np.uint64(self.layout.head_flag) & np.uint64(1) != 0
        told = self.of_heads(heads, self.machine.fact(folio_order_offset), 1)
        return np.where(is_head, told, 0).astype(np.int64)

    def slab(self) -> Bools:
        """Return which rows carry the slab mark themselves."""
        if self._slab is None:
            self._slab = self.layout.is_slab(self.flags, self.words)
        return self._slab


class TailRuns(NamedTuple):
    """Tails that follow each other and have the same head."""

    starts: Rows
    """Which of the tails is the first of each."""
    counts: Rows


def tail_runs(links: U64, pages: Rows) -> TailRuns:
    """
    Return the runs of some tails.

    :param links: The compound word of each.
    :param pages: Numbers of them, ascending, which grow by one from neighbour to neighbour.
    """
    breaks = links[1:] != links[:-1]
    breaks |= pages[1:] - pages[:-1] != 1
    edges = np.concatenate([[0], breaks.nonzero()[0] + 1, [len(pages)]])
    return TailRuns(edges[:-1], edges[1:] - edges[:-1])


def compound_word_is_mask(machine: Machine) -> bool:
    """
    Return whether the compound word of a tail can be a mask.

    Since Linux kernel commit 8c846c879e22 (in v7.1) it is one where HugeTLB
    folios share their tails; the word got its name in d50569612c29 (in v7.1).
    """
    page = machine.structure("struct page")
    return page.has("compound_info") and page.size & (page.size - 1) == 0


def head_pages(tails: U64, links: U64) -> U64:
    """
    Return the ``struct page *`` of the head that each tail leads to.

    :param tails: ``struct page *`` of the tails.
    :param links: Their ``compound_head``, since Linux 7.1 ``compound_info``; bit 0 is set.
    """
    one = np.uint64(1)
    # Since Linux kernel commit 8c846c879e22 (in v7.1), a tail may hold a mask
    # that leads from its own address to that of its head. As an address it
    # would lie in the last 4 GiB, where no struct page is.
    is_mask = links >> np.uint64(32) == np.uint64(0xFFFFFFFF)
    heads: U64 = np.where(is_mask, tails & (links - one), links - one)
    return heads


def heads_of_tails(fields: PageFields, pfns: U64, links: U64) -> U64:
    """
    Return the page frame numbers of the heads of tail pages.

    :param pfns: Page frame numbers of the tails.
    :param links: The compound word of each.
    """
    size, vmemmap = np.uint64(fields.size), np.uint64(fields.vmemmap)
    heads = head_pages(pfns * size + vmemmap, links.astype(np.uint64))
    return (heads - vmemmap) // size


def fake_heads(fields: PageFields, pfns: U64, heads: U64) -> Rows:
    """
    Return which tails may follow one that looks like a head.

    With the memory map of a HugeTLB folio folded onto its first pages (Linux 5.18
    to 7.0), a page-aligned struct page that looks like a head is a tail if the
    one after it leads elsewhere.
    """
    before = (pfns - np.uint64(1)) * np.uint64(fields.size) + np.uint64(fields.vmemmap)
    aligned = before & np.uint64(0xFFF) == 0
    return (aligned & (heads < pfns - np.uint64(1))).nonzero()[0]


UNTYPED = np.uint32(0xFFFFFFFF)
"""The word of a page that has no type and is not mapped."""


class FreeBlocks:
    """
    Which pages lie in free blocks of the buddy allocator.

    Blocks of pages must be asked for in ascending order: a free block may
    reach into the next one.
    """

    def __init__(self) -> None:
        self._until = 0

    def inside(self, folios: Folios) -> Bools:
        """Return which pages of the block are in a free block, head included."""
        n, pfn = len(folios), folios.block.pfn
        rows = (folios.words[:n] != UNTYPED).nonzero()[0]
        rows = rows[folios.layout.encoding.is_type(folios.words[rows], "buddy")]
        if not len(rows) and self._until <= pfn:
            return np.zeros(n, np.bool_)
        private = folios.long_of(rows, folios.where.private)
        # Of a block that is larger than any, or cannot begin there, nobody knows the end.
        sizes = np.where(private <= folios.machine.fact(largest_block), buddy_sizes(private), 1)
        sizes[(folios.pfns[rows] & (sizes.astype(np.uint64) - np.uint64(1))) != 0] = 1
        edges = np.zeros(n + 1, np.int64)
        if self._until > pfn:
            edges[0] += 1
            edges[min(self._until - pfn, n)] -= 1
        if len(rows):
            ends = rows + sizes
            np.add.at(edges, rows, 1)
            np.add.at(edges, np.minimum(ends, n), -1)
            self._until = max(self._until, pfn + int(ends.max()))
        return np.cumsum(edges[:n]) > 0


MAX_BUDDY_ORDER = 20
"""No kernel frees larger blocks; what a damaged page says beyond is not believed."""


def largest_block(machine: Machine) -> int:
    """Return the order of the largest blocks that a kernel's zones have lists for."""
    lists = machine.prog.type("struct zone").member("free_area").type.length or 1
    return min(lists - 1, MAX_BUDDY_ORDER)


# By order; the last is that of all orders that are not believed.
_SIZES = 1 << np.append(np.arange(MAX_BUDDY_ORDER + 1), 0)


def buddy_orders(private: U64) -> I64:
    """Return the orders of free blocks from the ``private`` of their first pages."""
    return np.where(private <= MAX_BUDDY_ORDER, private, 0).astype(np.int64)


def buddy_sizes(private: U64) -> I64:
    """Return the pages of free blocks from the ``private`` of their first pages."""
    return _SIZES.take(private.astype(np.int64), mode="clip")
