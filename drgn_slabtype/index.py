# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The slab index
--------------

One row per slab of the machine: the union of the slabs known by their page
mark, by a list, by a CPU or by a place that holds one of their objects. A slab
that lost its mark is still here, and what points at it is judged with it.
"""

from __future__ import annotations

import enum
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np
import numpy.typing as npt

from .distinct import distinct
from .machine import Machine
from .machine.columns import numbers_at
from .machine.memory import U8, U64, Bools
from .pages.scan import SlabHeads, compound_orders

I64 = npt.NDArray[np.int64]

_MAX_ORDER = 24  # no kernel allocates more than 2^24 pages at once


class KnownBy(enum.IntFlag):
    """How a slab came to be known."""

    MARK = 1
    """Its page says so."""
    LIST = 2
    """It stands on a list of a node."""
    CPU = 4
    """A CPU allocates from it, or keeps it for later."""
    PLACE = 8
    """A place holds one of its objects."""
    KFENCE = 16
    """It is an object page of KFENCE's pool."""
    POINTER = 32
    """It names a cache that misses a slab like it."""


_FOUND = KnownBy.LIST | KnownBy.CPU | KnownBy.PLACE


class SlabColumns:
    """
    Slabs as columns.

    ``columns["member"]`` is the column of a member of ``struct slab`` (before
    Linux 5.17 ``struct page``), uint64.

    :param heads: What :func:`~drgn_slabtype.pages.scan.scan` found.
    """

    def __init__(self, machine: Machine, heads: SlabHeads) -> None:
        self.machine = machine
        self.layout = machine.layout
        self.structure = machine.structure(f"struct {self.layout.slab_struct}")
        self.pfns: U64 = heads.pfns
        """Page frame number of each head page."""
        self.raw: U8 = heads.raw
        """Shape (n, sizeof(struct page)): head pages."""
        self.orders: U8 = heads.orders
        """Compound orders."""
        self.page_bytes = machine.page.size
        """sizeof(struct page)."""
        self.vmemmap = machine.page.vmemmap
        """``struct page *`` of page frame 0."""
        self._memory = machine.memory
        self._columns: Dict[str, Any] = {}

    def __len__(self) -> int:
        return len(self.pfns)

    def __getitem__(self, member: str) -> U64:
        return self._cached("." + member, lambda: self.structure.column(self.raw, member))

    def _cached(self, name: str, make: Callable[[], Any]) -> Any:
        # Columns are asked for once per cache of the machine; make them once.
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = make()
        return column

    @property
    def pages(self) -> U64:
        """``struct slab *`` of each row."""
        return self._cached(
            "pages", lambda: self.pfns * np.uint64(self.page_bytes) + np.uint64(self.vmemmap)
        )

    @property
    def addresses(self) -> U64:
        """``slab_address()`` of each row, in the direct map."""
        shift = np.uint64(self._memory.page_shift)
        return self._cached("addresses", lambda: self._memory.phys_to_virt(self.pfns << shift))

    @property
    def spans(self) -> U64:
        """Bytes of each slab by its compound order, of which damage must not make too much."""
        page = np.uint64(self._memory.page_size)
        return self._cached(
            "spans", lambda: page << np.minimum(self.orders, _MAX_ORDER).astype(np.uint64)
        )

    @property
    def words(self) -> npt.NDArray[np.uint32]:
        """The page_type word of each head page."""
        return self._cached("words", lambda: self._cut(self.machine.page.word, "u4"))

    @property
    def flags(self) -> U64:
        """``page->flags`` of each head page."""
        word = f"u{self._memory.word_size}"
        return self._cached(
            "flags", lambda: self._cut(self.machine.page.flags, word).astype(np.uint64)
        )

    @property
    def refcounts(self) -> npt.NDArray[np.int32]:
        """``page->_refcount`` of each head page."""
        return self._cut(self.machine.page.refcount, "i4")

    def _cut(self, offset: int, type: str) -> Any:
        # A member of the head page, in host byte order.
        dtype = np.dtype(self._memory.byteorder + type)
        return numbers_at(self.raw, offset, dtype).astype(dtype.newbyteorder("="))

    @property
    def marked(self) -> Bools:
        """Which head pages carry the slab mark."""
        return self._cached("marked", lambda: self.layout.is_slab(self.flags, self.words))

    @property
    def nids(self) -> I64:
        """NUMA node of each head page, from the top bits of its flags."""
        return self._cached("nids", self._nids)

    def _nids(self) -> I64:
        shift = self.machine.nodes_shift
        if not shift:
            return np.zeros(len(self), np.int64)
        return (self.flags >> np.uint64(8 * self._memory.word_size - shift)).astype(np.int64)

    def page_of(self, pfn: int) -> int:
        """Return the ``struct page *`` of a page frame."""
        return self.vmemmap + pfn * self.page_bytes


class SlabIndex(SlabColumns):
    """
    Every slab of the machine, or those that a reading is about.

    Rows keep their number when others are added.

    :param heads: What :func:`~drgn_slabtype.pages.scan.scan` found.
    :param whole: Whether these are all slabs that it is asked about.
    :param mapped: Whether they are from a pass over the memory map.
    """

    def __init__(
        self, machine: Machine, heads: SlabHeads, whole: bool = True, mapped: bool = False
    ) -> None:
        super().__init__(machine, heads)
        self.whole = whole
        """Whether it has all slabs it is asked about; else it has one, or a few."""
        self.mapped = mapped
        """Whether all slabs with a mark are in it."""
        self.doubts: List[str] = []
        """Why a reading that is not of the whole machine cannot settle what it is about."""
        self.known_by: U8 = np.full(len(heads.pfns), KnownBy.MARK, np.uint8)
        """:class:`KnownBy` bits."""
        self.stale: Bools = np.zeros(len(heads.pfns), np.bool_)
        """Which rows are as an earlier reading had them; whoever leads to one has it read again."""
        self._settled: Optional[I64] = None

    def rows_of_pages(self, pages: U64) -> I64:
        """Return the row of each ``struct slab *``; -1 where there is none."""
        offset = np.asarray(pages, np.uint64) - np.uint64(self.vmemmap)
        pfns = offset // np.uint64(self.page_bytes)
        rows = self._rows_of_pfns(pfns, exact=True)
        rows[pfns * np.uint64(self.page_bytes) != offset] = -1
        return rows

    def rows_of_addresses(self, addresses: U64) -> I64:
        """
        Return the row of the slab that each direct-map address lies in; else -1.

        Slabs reach as far as their compound order says, or :meth:`settle` has said.
        """
        physical = np.asarray(addresses, np.uint64) - np.uint64(self._memory.linear_base)
        return self._rows_of_pfns(physical >> np.uint64(self._memory.page_shift), exact=False)

    def settle(self, orders: I64) -> None:
        """
        Say how far slabs reach, where a damaged page must not.

        :param orders: Order of each row; -1 for one that is no slab of any cache.
        """
        self._settled = orders
        self._columns.pop("reaches", None)

    @property
    def settled(self) -> I64:
        """What :meth:`settle` was told."""
        assert self._settled is not None
        return self._settled

    def _rows_of_pfns(self, pfns: U64, exact: bool) -> I64:
        # Asked many times for each cache of the machine, and told by all slabs.
        key = "heads" if exact else "reaches"
        heads, last, sorter = self._cached(key, self._heads if exact else self._reaches)
        if not len(sorter):
            return np.full(len(pfns), -1, np.int64)
        at = np.maximum(heads.searchsorted(pfns, "right") - 1, 0)
        rows: I64 = np.where((pfns >= heads[at]) & (pfns <= last[at]), sorter[at], -1)
        return rows

    def _heads(self) -> Tuple[U64, U64, I64]:
        # First and last page frame of each row, and the row, by page frame; here
        # for who asks for a head. As the memory map is read they are in order.
        heads, sorter = self.pfns, np.arange(len(self.pfns))
        if (heads[1:] < heads[:-1]).any():
            sorter = np.argsort(heads, kind="stable")
            heads = heads[sorter]
        return heads, heads, sorter

    def _reaches(self) -> Tuple[U64, U64, I64]:
        # The same of the rows that addresses can lie in, as far as each reaches.
        heads, _, sorter = self._cached("heads", self._heads)
        if self._settled is None:
            pages = self.spans[sorter] >> np.uint64(self._memory.page_shift)
        else:
            owned = self._settled[sorter] >= 0
            if not owned.all():
                heads, sorter = heads[owned], sorter[owned]
            order = np.minimum(self._settled[sorter], _MAX_ORDER)
            pages = np.uint64(1) << order.astype(np.uint64)
        return heads, heads + pages - np.uint64(1), sorter

    def struct_page(self, page: int) -> bytes:
        """Return the head ``struct page`` of a slab as it was read; empty if it is in no row."""
        row = self.rows_of_pages(np.array([page], np.uint64))[0]
        return b"" if row < 0 else self.raw[row, : self.page_bytes].tobytes()

    def is_memory_map(self, pages: U64) -> Bools:
        """Return which addresses can be a ``struct page *`` of a valid range."""
        return _can_be_pages(self.machine, np.asarray(pages, np.uint64))

    def is_page(self, page: int) -> bool:
        """Return the same of one address."""
        pfn, beside = divmod(page - self.vmemmap, self.page_bytes)
        return not beside and 0 <= pfn < 1 << 52 >> self._memory.page_shift

    def peek(self, pages: U64) -> U8:
        """Return copies of struct pages that need not be in the index, if they can be read."""
        gathered = self._memory.gather(pages, 2 * self.page_bytes)
        return gathered.bytes[gathered.ok]

    def add(self, pages: U64, known_by: KnownBy) -> None:
        """
        Make sure that slabs have a row, and remember how they are known.

        :param pages: ``struct slab *``; what is no readable ``struct page`` is ignored.
        """
        pages = distinct(np.asarray(pages, np.uint64))
        pages = pages[self.is_memory_map(pages)]
        rows = self.rows_of_pages(pages)
        known = rows[rows >= 0]
        if len(known):
            self.known_by[known] |= np.uint8(known_by)
            if self.stale[known].any():
                self._refresh(known[self.stale[known]])
        if len(known) == len(pages):
            return
        new = _read_heads(self.machine, pages[rows < 0])
        if not len(new.pfns):
            return
        self.pfns = np.concatenate([self.pfns, new.pfns])
        self.raw = np.concatenate([self.raw, new.raw])
        self.orders = np.concatenate([self.orders, new.orders])
        self.known_by = np.concatenate([self.known_by, np.full(len(new.pfns), known_by, np.uint8)])
        self.stale = np.concatenate([self.stale, np.zeros(len(new.pfns), np.bool_)])
        self._forget()

    def _refresh(self, rows: I64) -> Bools:
        # Which could be read. The arrays may be those of another index.
        gathered = self._memory.gather(self.pages[rows], 2 * self.page_bytes)
        self.raw, self.orders, self.stale = self.raw.copy(), self.orders.copy(), self.stale.copy()
        self.raw[rows] = gathered.bytes[:, : self.page_bytes]
        self.orders[rows] = compound_orders(self.machine, self.layout, gathered.bytes)
        self.stale[rows] = False
        self._forget()
        return gathered.ok

    def again(self, rows: I64) -> SlabIndex:
        """
        Return the same slabs, some of them as they are now.

        Those that have lost their mark meanwhile were given back, and are left out;
        how the others are known is to be found out again. The rest is :attr:`stale`.

        :param rows: Of the slabs that are read again.
        """
        heads = SlabHeads(self.pfns, self.raw, self.orders)
        now = SlabIndex(self.machine, heads, whole=self.whole)
        now.stale[:] = True
        read = now._refresh(rows)
        now.known_by = self.known_by.copy()
        now.known_by[rows] &= np.uint8(~_FOUND & 0xFF)
        gone = np.zeros(len(self), np.bool_)
        gone[rows] = self.marked[rows] & ~now.marked[rows]
        gone[rows[~read]] = True
        return now._without(gone) if gone.any() else now

    def _without(self, gone: Bools) -> SlabIndex:
        heads = SlabHeads(self.pfns[~gone], self.raw[~gone], self.orders[~gone])
        left = SlabIndex(self.machine, heads, whole=self.whole)
        left.known_by, left.stale = self.known_by[~gone], self.stale[~gone]
        return left

    def _forget(self) -> None:
        self._columns.clear()
        self._settled = None


def slabs_at(machine: Machine, pages: U64) -> SlabIndex:
    """
    Return an index of some slabs alone.

    :param pages: ``struct slab *``; what is no readable ``struct page`` is left out.
    """
    pages = distinct(np.asarray(pages, np.uint64))
    heads = _read_heads(machine, pages[_can_be_pages(machine, pages)])
    index = SlabIndex(machine, heads, whole=False)
    index.known_by[:] = KnownBy.POINTER
    return index


def _can_be_pages(machine: Machine, pages: U64) -> Bools:
    start, size = np.uint64(machine.page.vmemmap), np.uint64(machine.page.size)
    limit = np.uint64(1 << 52 >> machine.memory.page_shift)
    offset = pages - start
    pfns = offset // size
    found: Bools = (pages >= start) & (pfns < limit) & (pfns * size == offset)
    return found


def _read_heads(machine: Machine, pages: U64) -> SlabHeads:
    # Those that can be read.
    size = machine.page.size
    gathered = machine.memory.gather(pages, 2 * size)
    there, raw = pages[gathered.ok], gathered.bytes[gathered.ok]
    pfns = (there - np.uint64(machine.page.vmemmap)) // np.uint64(size)
    return SlabHeads(pfns, raw[:, :size], compound_orders(machine, machine.layout, raw))
