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
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt
from drgn import Program
from drgn.helpers.linux.mm import for_each_valid_page_range

from ..columns import structure
from ..errors import MissingDebugInfoError, UnsupportedError
from ..memory import U8, U64, Bools, memory
from ..pagetype.detect import PageTypeLayout, page_type_layout

U32 = npt.NDArray[np.uint32]
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""

# 4096 pages are 256 KiB of struct pages: small enough to stay in the second
# level cache between the read and the columns, and to be reused by malloc.
BLOCK_PAGES = 4096


class PageFields(NamedTuple):
    """Where the members of ``struct page`` lie that tell what a page is, in bytes."""

    size: int
    flags: int
    word: int
    """``_mapcount`` / ``page_type``."""
    compound: int
    """``compound_head``, since Linux 7.1 ``compound_info``."""
    refcount: int


def page_fields(prog: Program) -> PageFields:
    """Return the :class:`PageFields` of a program."""
    page = structure(prog, "struct page")
    # Since Linux kernel commit d50569612c29 (in v7.1), compound_head is
    # named compound_info.
    compound = "compound_info" if page.has("compound_info") else "compound_head"
    return PageFields(
        page.size,
        page.offset("flags"),
        page.offset("_mapcount"),
        page.offset(compound),
        page.offset("_refcount"),
    )


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
        self._columns: Dict[str, npt.NDArray[np.uint64]] = {}

    def __len__(self) -> int:
        return len(self.raw)

    def _column(self, offset: int, width: int) -> npt.NDArray[np.unsignedinteger[npt.NBitBase]]:
        flat = self.raw.reshape(-1).view(f"{self._order}u{width}")
        return np.ascontiguousarray(flat[offset // width :: self._fields.size // width])

    @property
    def words(self) -> U32:
        """The page_type words: shape (n,), uint32."""
        return self._column(self._fields.word, 4)  # type: ignore[return-value]

    @property
    def flags(self) -> U64:
        """``page->flags``: shape (n,), uint64."""
        return self._column(self._fields.flags, 8)  # type: ignore[return-value]

    @property
    def compound(self) -> U64:
        """``page->compound_head`` or ``compound_info``: shape (n,), uint64."""
        return self._column(self._fields.compound, 8)  # type: ignore[return-value]

    @property
    def tails(self) -> Bools:
        """Which pages are tails of a compound page: bit 0 of the compound word."""
        return (self.compound & np.uint64(1)).astype(np.bool_)


def page_ranges(prog: Program) -> List[Tuple[int, int]]:
    """
    Return the ranges [start, end) of valid page frame numbers.

    :raises UnsupportedError: if the memory map is not one virtual array.
    """
    if structure(prog, "struct page").size % 8:
        raise UnsupportedError("32-bit struct pages of odd size are not supported")
    try:
        return [(start, end) for start, end, _ in for_each_valid_page_range(prog)]
    except LookupError as error:
        raise MissingDebugInfoError(f"cannot find the memory map: {error}") from error


def page_blocks(prog: Program, progress: Optional[Progress] = None) -> Iterator[PageBlock]:
    """
    Read the memory map block by block.

    Struct pages that cannot be read are left out.

    :return: Iterator of :class:`PageBlock`, in ascending order of PFN.
    """
    source = memory(prog)
    fields = page_fields(prog)
    vmemmap = prog["vmemmap"].value_()
    ranges = page_ranges(prog)
    total = sum(end - start for start, end in ranges)
    done = 0
    for start, end in ranges:
        # Blocks begin at multiples of their size, so that no slab straddles two.
        first = start - start % BLOCK_PAGES
        for block in range(first, end, BLOCK_PAGES):
            low, high = max(block, start), min(block + BLOCK_PAGES, end)
            address = vmemmap + low * fields.size
            size = (high - low) * fields.size
            for found, data in source.blocks(address, address + size, size):
                pfn = low + (found - address) // fields.size
                raw = data[: len(data) // fields.size * fields.size].reshape(-1, fields.size)
                yield PageBlock(pfn, found, raw, fields, source.byteorder)
            done += high - low
            if progress:
                progress("pages", done, total)


@dataclass
class SlabHeads:
    """Copies of the struct pages that head a slab."""

    pfns: U64
    raw: U8
    """Shape (n, 2 × sizeof(struct page)): the head and the page after it."""
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
    tails: int = 0
    """Tail pages of compound pages of any kind."""
    conflicts: List[Tuple[int, int]] = field(default_factory=list)
    """(PFN, word) of words no healthy page shows."""


class _SlabCollector:
    # Takes the slab heads out of each block.
    def __init__(self) -> None:
        self.pfns: List[U64] = []
        self.raw: List[U8] = []

    def take(self, block: PageBlock, rows: npt.NDArray[np.intp]) -> None:
        if len(rows):
            after = np.minimum(rows + 1, len(block) - 1)
            self.pfns.append((rows + block.pfn).astype(np.uint64))
            self.raw.append(np.concatenate([block.raw[rows], block.raw[after]], axis=1))

    def heads(self, prog: Program, layout: PageTypeLayout) -> SlabHeads:
        width = 2 * page_fields(prog).size
        pfns = np.concatenate(self.pfns) if self.pfns else np.zeros(0, np.uint64)
        raw = np.concatenate(self.raw) if self.raw else np.zeros((0, width), np.uint8)
        return SlabHeads(pfns, raw, compound_orders(prog, layout, raw))


def compound_orders(prog: Program, layout: PageTypeLayout, raw: U8) -> U8:
    """
    Return the order of each compound page; 0 for a page that is not compound.

    :param raw: Shape (n, 2 × sizeof(struct page)): heads and first tails.
    """
    size = page_fields(prog).size
    flags = structure(prog, "struct page").column(raw[:, :size], _flags_member(prog))
    offset = _order_offset(prog)
    is_head = (flags >> np.uint64(layout.head_flag)) & np.uint64(1)
    return np.where(is_head.astype(np.bool_), raw[:, offset], 0).astype(np.uint8)


def _flags_member(prog: Program) -> str:
    # Since Linux 6.18, flags is a memdesc_flags_t with the value in f.
    return "flags.f" if structure(prog, "struct page").has("flags.f") else "flags"


def _order_offset(prog: Program) -> int:
    # Since Linux kernel commit ebc1baf5c9b4 ("mm: free up a word in the first
    # tail page") (in v6.6), the order is in the low byte of the first tail's
    # flags. Since 379708ffde1b (in v6.1) it is folio._folio_order, which is
    # the same byte as page[1].compound_order before.
    try:
        folio = structure(prog, "struct folio")
    except LookupError:
        folio = None
    if folio is not None and folio.has("_folio_order"):
        return folio.offset("_folio_order")
    if folio is not None and folio.has("_flags_1"):
        low = 0 if memory(prog).byteorder == "<" else memory(prog).word_size - 1
        return folio.offset("_flags_1") + low
    page = structure(prog, "struct page")
    return page.size + page.offset("compound_order")


def scan(prog: Program, progress: Optional[Progress] = None) -> PageScan:
    """
    Read the memory map once: slab heads, page types, tails and damaged words.

    :raises LayoutError: if the kernel's page types are not understood.
    """
    layout = page_type_layout(prog)
    encoding = layout.encoding
    collector = _SlabCollector()
    tails = seen = 0
    typed: Dict[str, int] = dict.fromkeys(encoding.types, 0)
    conflicts: List[Tuple[int, int]] = []
    for block in page_blocks(prog, progress):
        seen += len(block)
        words = block.words
        # Few pages have a type, and a type never shows on a tail. What is no
        # map count and not idle is a type or damage.
        rows = np.flatnonzero(words + np.uint32(1) > np.uint32(0x80000000))
        if len(rows):
            some = words[rows]
            for name in encoding.types:
                typed[name] += int(np.count_nonzero(encoding.is_type(some, name)))
            bad = rows[encoding.conflict(some)]
            conflicts += [(block.pfn + int(row), int(words[row])) for row in bad]
        is_tail = block.tails
        tails += int(np.count_nonzero(is_tail))
        if layout.slab_flag is None:
            marked = rows[encoding.is_type(words[rows], "slab")]
        else:
            marked = np.flatnonzero(layout.is_slab(block.flags, words) & ~is_tail)
            typed["slab"] = typed.get("slab", 0) + len(marked)
        collector.take(block, marked)
    pages = sum(end - start for start, end in page_ranges(prog))
    return PageScan(collector.heads(prog, layout), pages, pages - seen, typed, tails, conflicts)
