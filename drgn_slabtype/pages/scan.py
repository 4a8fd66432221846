# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One pass over the memory map
----------------------------

:func:`page_blocks` reads every ``struct page`` once, in blocks that fit the
processor's cache. Consumers take what they need from each block;
:func:`scan` is the pass that the slab index and the census share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, TypeVar

import numpy as np
import numpy.typing as npt
from drgn import PlatformFlags
from drgn.helpers.linux.mm import for_each_valid_page_range

from ..arguments import platform_of
from ..errors import MissingDebugInfoError, UnsupportedError
from ..machine import Machine
from ..machine.memory import U8, U64, Bools
from ..machine.page import PageFields
from ..pagetype.detect import PageTypeLayout
from ..regions import Region, region

U32 = npt.NDArray[np.uint32]
_Scalar = TypeVar("_Scalar", bound=np.generic)
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

# 32768 pages are 2 MiB of struct pages. Larger blocks leave the processor's
# cache before the columns are read, smaller ones cost numpy more calls.
BLOCK_PAGES = 32768


# To name a dtype takes longer than to make the column.
_SHOWN = 4  # ranges of pages
_DTYPES = {(order, width): np.dtype(f"{order}u{width}") for order in "<>" for width in (4, 8)}


class PageBlock:
    """
    Consecutive struct pages, all readable.

    :ivar pfn: Page frame number of the first.
    :ivar raw: Shape (n, sizeof(struct page)).
    """

    def __init__(self, pfn: int, address: int, raw: U8, fields: PageFields, order: str) -> None:
        self.pfn = pfn
        self.address = address
        """``struct page *`` of the first."""
        self.raw = raw
        self._fields = fields
        self._order = order

    def __len__(self) -> int:
        return len(self.raw)

    def _column(self, offset: int, width: int) -> Any:
        dtype = _DTYPES[self._order, width]
        return np.ndarray(len(self.raw), dtype, self.raw, offset, self._fields.size)

    @cached_property
    def words(self) -> U32:
        """The page_type words: shape (n,), uint32 in host byte order, a copy."""
        words: U32 = self._column(self._fields.word, 4).astype(np.uint32)
        return words

    @property
    def refcounts(self) -> U32:
        """``page->_refcount``: shape (n,), uint32, a view."""
        return self._column(self._fields.refcount, 4)

    def long(self, offset: int) -> U64:
        """Return the unsigned long at an offset of each page: shape (n,), a view."""
        return self._column(offset, self._fields.long)

    @cached_property
    def flags(self) -> U64:
        """``page->flags``: shape (n,), unsigned long in host byte order, a copy."""
        flags: U64 = self.long(self._fields.flags).astype(f"u{self._fields.long}")
        return flags

    def flags_of(self, rows: npt.NDArray[np.intp]) -> U64:
        """Return ``page->flags`` of some rows."""
        return self.long(self._fields.flags)[rows]

    @property
    def compound(self) -> U64:
        """``page->compound_head`` or ``compound_info``: shape (n,), unsigned long, a view."""
        return self.long(self._fields.compound)

    @property
    def tails(self) -> Bools:
        """Which pages are tails of a compound page: bit 0 of the compound word."""
        return self.tails_of(slice(None))

    @cached_property
    def tail_rows(self) -> npt.NDArray[np.intp]:
        """The rows of these."""
        return self.tails.nonzero()[0]

    def tails_of(self, rows: Any) -> Bools:
        """Return which of some rows are tails of a compound page."""
        return (self._byte(self._fields.compound, 0)[rows] & np.uint8(1)).view(np.bool_)

    def typed(self) -> npt.NDArray[np.intp]:
        """Return the rows whose word is neither a map count nor idle: a type, or damage."""
        rows: npt.NDArray[np.intp] = (self.words.view(np.int32) < -1).nonzero()[0]
        return rows

    def flagged(self, bit: int) -> npt.NDArray[np.intp]:
        """Return the rows whose ``page->flags`` have a bit set."""
        byte = self._byte(self._fields.flags, bit // 8)
        return ((byte & np.uint8(1 << bit % 8)) != 0).nonzero()[0]

    def _byte(self, offset: int, number: int) -> U8:
        # A byte of an unsigned long, counted from the least significant.
        return self.raw[
            :, offset + (number if self._order == "<" else self._fields.long - 1 - number)
        ]


def require_64_bit(machine: Machine) -> None:
    """
    Refuse 32-bit kernels, of which only the page type word is understood.

    None of them has a virtual memory map (``SPARSEMEM_VMEMMAP``).

    :raises ArgumentError: if the program reads no machine at all.
    :raises UnsupportedError: if the kernel is a 32-bit one.
    """
    if not platform_of(machine.prog).flags & PlatformFlags.IS_64_BIT:
        raise UnsupportedError("32-bit kernels are not supported: they have no virtual memory map")


def page_ranges(machine: Machine) -> List[Tuple[int, int]]:
    """
    Return the ranges [start, end) of valid page frame numbers.

    :raises MissingDebugInfoError: if the memory map is not one virtual array.
    :raises UnsupportedError: if the kernel is a 32-bit one.
    """
    require_64_bit(machine)
    return machine.settled(_page_ranges)


def no_pages(machine: Machine, said: str) -> str:
    """Return that there are no pages where somebody said, and where there are some."""
    ranges = page_ranges(machine)
    there = ", ".join(f"{start:#x} to {end - 1:#x}" for start, end in ranges[:_SHOWN])
    more = f" and {len(ranges) - _SHOWN} more" if len(ranges) > _SHOWN else ""
    return f"{said} is a hole: there are pages {there}{more}"


def _page_ranges(machine: Machine) -> List[Tuple[int, int]]:
    try:
        known = machine.memory_map.ranges
        if known is not None:
            return known
        return [(start, end) for start, end, _ in for_each_valid_page_range(machine.prog)]
    except LookupError as error:
        raise MissingDebugInfoError(f"cannot find the memory map: {error}") from error


def page_blocks(
    machine: Machine,
    progress: Optional[Progress] = None,
    ranges: Optional[List[Tuple[int, int]]] = None,
) -> Iterator[PageBlock]:
    """
    Read the memory map block by block.

    Struct pages that cannot be read are left out.

    :param ranges: What :func:`page_ranges` returns, where that is known.
    :return: Iterator of :class:`PageBlock`, in ascending order of PFN.
    """
    source = machine.memory
    fields = machine.page
    size, vmemmap = fields.size, fields.vmemmap
    if ranges is None:
        ranges = page_ranges(machine)
    total = sum(end - start for start, end in ranges)
    done = 0
    for start, end in ranges:
        # Blocks begin at multiples of their size, so that no slab straddles two.
        first = min(-(-start // BLOCK_PAGES) * BLOCK_PAGES, end)
        for low, high in ((start, first), (first, end)):
            address = vmemmap + low * size
            reach = vmemmap + high * size
            for found, data in source.blocks(address, reach, BLOCK_PAGES * size):
                # What follows unreadable memory can begin inside a struct page.
                pfn = -(-(found - vmemmap) // size)
                skip = vmemmap + pfn * size - found
                whole = (len(data) - skip) // size
                if whole > 0:
                    data = data[skip : skip + whole * size].reshape(-1, size)
                    yield PageBlock(pfn, found + skip, data, fields, source.byteorder)
                del data
                if progress:
                    progress("pages", done + pfn + max(whole, 0) - low, total)
            done += high - low


def runs_of(values: npt.NDArray[Any]) -> Tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return where runs of equal values begin, and how long each is."""
    edges = np.empty(len(values) + 1, np.bool_)
    edges[0] = edges[-1] = True
    np.not_equal(values[1:], values[:-1], out=edges[1:-1])
    bounds = edges.nonzero()[0]
    return bounds[:-1], bounds[1:] - bounds[:-1]


@dataclass
class SlabHeads:
    """Copies of the struct pages that head a slab."""

    pfns: U64
    raw: U8
    """Shape (n, sizeof(struct page))."""
    orders: U8
    """Compound order as the struct pages tell it."""


@dataclass
class PageScan:
    """What one pass over the memory map found."""

    heads: SlabHeads
    pages: int = 0
    """Valid pages."""
    unreadable: int = 0
    """Valid pages whose struct page could not be read."""
    typed: Dict[str, int] = field(default_factory=dict)
    """Pages by type as their word (or slab flag) tells, tails of slabs not included."""
    conflicts: List[Tuple[int, int]] = field(default_factory=list)
    """(PFN, word) of words no healthy page shows."""


# Of words, and of heads, that wait to be judged.
_MOST_WORDS = 1 << 18
_MOST_HEADS = 1 << 15


class _Collector:
    # What is wanted of each block is copied out of it; judging many words at
    # once costs a fraction of judging each block's. What waits is bounded, so that
    # only what a slab needs grows with the machine.

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._layout = machine.layout
        self._pages = 0
        self._typed = dict.fromkeys(self._layout.encoding.types, 0)
        self._conflicts: List[Tuple[int, int]] = []
        self._words: List[Tuple[U64, U32]] = []
        self._waiting_words = 0
        self._pairs: List[U8] = []
        self._waiting_pairs = 0
        self._pfns: List[U64] = []
        self._heads: List[U8] = []
        self._orders: List[U8] = []

    def take(self, block: PageBlock) -> None:
        # Few pages have a type, and a type never shows on a tail.
        rows = block.typed()
        some = block.words[rows]
        if self._layout.slab_flag is None:
            marked = rows[self._layout.encoding.is_type(some, "slab")]
        else:
            marked = block.flagged(self._layout.slab_flag)
            flags = block.long(self._layout.flags_offset)[marked]
            marked = marked[self._layout.is_slab(flags, block.words[marked])]
            marked = marked[(block.compound[marked] & np.uint64(1)) == 0]
        first = np.uint64(block.pfn)
        self._pages += len(block)
        if len(rows):
            self._words.append((rows.astype(np.uint64) + first, some))
            self._waiting_words += len(rows)
        if len(marked):
            pairs = np.minimum(marked[:, None] + np.arange(2), len(block) - 1)
            raw = block.raw.take(pairs.reshape(-1), axis=0).reshape(len(marked), -1)
            self._pfns.append(marked.astype(np.uint64) + first)
            self._pairs.append(raw)
            self._waiting_pairs += len(raw)
        if self._waiting_words >= _MOST_WORDS:
            self._judge_words()
        if self._waiting_pairs >= _MOST_HEADS:
            self._judge_pairs()

    def result(self, pages: int) -> PageScan:
        self._judge_words()
        self._judge_pairs()
        pfns = _joined(self._pfns, np.zeros(0, np.uint64))
        raw = _joined(self._heads, np.zeros((0, self._machine.page.size), np.uint8))
        heads = SlabHeads(pfns, raw, _joined(self._orders, np.zeros(0, np.uint8)))
        if self._layout.slab_flag is not None:
            self._typed["slab"] = len(pfns)
        return PageScan(heads, pages, pages - self._pages, self._typed, self._conflicts)

    def _judge_words(self) -> None:
        encoding = self._layout.encoding
        pfns = _joined([pfns for pfns, _ in self._words], np.zeros(0, np.uint64))
        words = _joined([words for _, words in self._words], np.zeros(0, np.uint32))
        self._words, self._waiting_words = [], 0
        # Most words are like the one before.
        starts, counts = runs_of(words)
        words = words[starts]
        for name in encoding.types:
            self._typed[name] += int(counts[encoding.is_type(words, name)].sum())
        for run in encoding.conflict(words).nonzero()[0].tolist():
            same = pfns[starts[run] : starts[run] + counts[run]].tolist()
            self._conflicts += [(pfn, int(words[run])) for pfn in same]

    def _judge_pairs(self) -> None:
        # The page after a head tells its order, and nothing else that is wanted.
        size = self._machine.page.size
        pairs = _joined(self._pairs, np.zeros((0, 2 * size), np.uint8))
        self._pairs, self._waiting_pairs = [], 0
        self._orders.append(compound_orders(self._machine, self._layout, pairs))
        self._heads.append(np.ascontiguousarray(pairs[:, :size]))


def _joined(parts: List[npt.NDArray[_Scalar]], none: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    # The parts in one, and gone themselves.
    if not parts:
        return none
    joined = np.concatenate(parts)
    parts.clear()
    return joined


def compound_orders(machine: Machine, layout: PageTypeLayout, raw: U8) -> U8:
    """
    Return the order of each compound page; 0 for a page that is not compound.

    :param raw: Shape (n, 2 × sizeof(struct page)): heads and first tails.
    """
    size = machine.page.size
    flags = machine.structure("struct page").column(raw[:, :size], _flags_member(machine))
    offset = machine.fact(folio_order_offset)
    is_head = (flags >> np.uint64(layout.head_flag)) & np.uint64(1)
    return np.where(is_head.astype(np.bool_), raw[:, offset], 0).astype(np.uint8)


def _flags_member(machine: Machine) -> str:
    # Since Linux 6.18, flags is a memdesc_flags_t with the value in f.
    return "flags.f" if machine.structure("struct page").has("flags.f") else "flags"


def folio_order_offset(machine: Machine) -> int:
    """Return where the order of a compound page is, in bytes from its head on."""
    # Since Linux kernel commit ebc1baf5c9b4 ("mm: free up a word in the first
    # tail page") (in v6.6), the order is in the low byte of the first tail's
    # flags. Since 379708ffde1b (in v6.1) it is folio._folio_order, which is
    # the same byte as page[1].compound_order before.
    try:
        folio = machine.structure("struct folio")
    except LookupError:
        folio = None
    if folio is not None and folio.has("_folio_order"):
        return folio.offset("_folio_order")
    if folio is not None and folio.has("_flags_1"):
        low = 0 if machine.memory.byteorder == "<" else machine.memory.word_size - 1
        return folio.offset("_flags_1") + low
    page = machine.structure("struct page")
    return page.size + page.offset("compound_order")


def scan(machine: Machine, progress: Optional[Progress] = None) -> PageScan:
    """
    Read the memory map once: slab heads, page types, damaged words.

    :raises LayoutError: if the kernel's page types are not understood.
    """
    collector = _Collector(machine)
    ranges = page_ranges(machine)
    for block in page_blocks(machine, progress, ranges):
        collector.take(block)
        del block  # the next one is read into the same memory
    return collector.result(sum(end - start for start, end in ranges))


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the memory map: every ``struct page``."""
    size = machine.page.size
    for start, end in page_ranges(machine):
        yield region("memory map", machine.page.vmemmap + start * size, (end - start) * size)
