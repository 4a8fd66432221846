# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kinds of pages
--------------

What each page is used for, one word for each: its page type if it has one, or
what its flags and its mapping tell. A tail is what its head is, and a page
inside a free block is free. Every page is of one kind exactly.
"""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Tuple

import numpy as np
import numpy.typing as npt
from drgn import Program

from ..memory import U64, Bools, memory
from ..pagetype.detect import page_type_layout
from ..pagetype.sources import enumerators
from .folios import MAX_BUDDY_ORDER, FolioLayout, folio_layout, heads_of_tails
from .scan import PageBlock, page_fields

Kinds = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]

TAIL = np.uint8(0x80)
"""In the byte of a page: the kind is that of its head, or of the block it is in."""

_FIRST_FLAG = np.uint64(4)  # PG_lru is 4 at least, PG_swapbacked below 20

# Kinds that are no page type everywhere, with what they mean.
_PLAIN = {
    "slab": "objects of slab caches",
    "hugetlb": "HugeTLB pages, in use or in reserve",
    "anon": "anonymous memory of processes",
    "shmem": "shared memory and tmpfs",
    "file": "page cache",
    "pcp": "free, on the lists of a CPU",
    "reserved": "never given out: kernel image, memory map, firmware",
    "other": "used by the kernel, not told apart any further",
    "unknown": "a page type that this kernel does not have",
    "unreadable": "not in the dump",
}
_TYPES = {
    "buddy": "free, in the buddy allocator",
    "table": "page tables",
    "guard": "guard pages of debug_pagealloc",
    "offline": "taken by a balloon, or offline",
    "zsmalloc": "compressed memory",
    "unaccepted": "not yet accepted by the guest",
    "large_kmalloc": "kmalloc() beyond the slab caches",
    "balloon": "taken by a balloon",
    "kmemcg": "accounted kernel memory that is no slab",
}
MEANINGS = {**_TYPES, **_PLAIN}
"""What the pages of each kind are, in a few words."""


def kind_names(prog: Program) -> Tuple[str, ...]:
    """Return the names of the kinds, by number: the page types, then what has none."""
    types = page_type_layout(prog).encoding.types
    return (*types, *(name for name in _PLAIN if name not in types))


class Unreferenced(NamedTuple):
    """Pages without type, use and references: free ones, or parts of a larger allocation."""

    pfns: U64
    links: U64
    """Their ``lru.next``."""


class KindFinder:
    """
    Tells the kinds of pages, block by block, in ascending order.

    What most pages are costs least: flags are looked up in a table for all of
    them, other columns are read for those pages only that are not yet told.
    """

    def __init__(self, prog: Program) -> None:
        self.names = kind_names(prog)
        self.numbers = {name: np.uint8(n) for n, name in enumerate(self.names)}
        layout = page_type_layout(prog)
        self._encoding, self._layout = layout.encoding, layout
        self._where: FolioLayout = folio_layout(prog)
        self._fields = page_fields(prog)
        self._long = memory(prog).word
        little = memory(prog).byteorder == "<"
        self._low_byte = self._where.mapping + (0 if little else self._long.itemsize - 1)
        flags = enumerators(prog, "pageflags")
        table = prog.cache.get("slabtype_kinds_by_flags")
        if table is None:
            table = prog.cache["slabtype_kinds_by_flags"] = self._flag_table(flags)
        self._by_flags: Kinds = table
        self._head = np.uint64(1 << layout.head_flag)
        self._free_until = 0
        self._outer: Tuple[int, np.uint8] = (-1, np.uint8(0))
        self._rows = np.zeros(0, np.int32)
        self._unreferenced: List[Unreferenced] = []
        self._words: List[Tuple[U64, npt.NDArray[np.uint32]]] = []

    def _flag_table(self, flags: Dict[str, int]) -> Kinds:
        # The kind of a page by 16 of its flags, beginning with _FIRST_FLAG.
        values = np.arange(1 << 16, dtype=np.uint32) << np.uint32(_FIRST_FLAG)

        def has(name: str) -> Bools:
            return values >> np.uint32(flags[name]) & np.uint32(1) != 0

        table = np.full(1 << 16, self.numbers["other"], np.uint8)
        table[has("PG_lru")] = self.numbers["file"]
        table[has("PG_lru") & has("PG_swapbacked")] = self.numbers["shmem"]
        table[has("PG_reserved")] = self.numbers["reserved"]
        return table

    @property
    def unreferenced(self) -> Unreferenced:
        """The pages called ``pcp`` so far; some of them may not be on any list."""
        empty = Unreferenced(np.zeros(0, np.uint64), np.zeros(0, np.uint64))
        parts = [empty, *self._unreferenced]
        return Unreferenced(*(np.concatenate(column) for column in zip(*parts)))

    @property
    def conflicts(self) -> List[Tuple[int, int]]:
        """(PFN, word) of the words seen so far that no healthy page shows."""
        pfns = np.concatenate([np.zeros(0, np.uint64), *(pfns for pfns, _ in self._words)])
        words = np.concatenate([np.zeros(0, np.uint32), *(words for _, words in self._words)])
        bad = self._encoding.conflict(words)
        return list(zip(pfns[bad].tolist(), words[bad].tolist()))

    def find(self, block: PageBlock, flags: U64) -> Kinds:
        """
        Return the kind of each page of a block, with :data:`TAIL` where it is not its own.

        :param flags: ``page->flags`` of the block.
        """
        kinds: Kinds = self._by_flags[(flags >> _FIRST_FLAG).astype(np.uint16)]
        kinds[block.raw[:, self._low_byte] & np.uint8(1) != 0] = self.numbers["anon"]
        if self._layout.slab_flag is not None:
            # Slabs have other things in place of the mapping.
            slabs = block.flagged(self._layout.slab_flag)
            kinds[slabs[flags[slabs] != self._layout.flags_mask]] = self.numbers["slab"]
        rows = block.typed()
        if len(rows):
            words = block.words[rows].astype(np.uint32)
            self._typed(words, rows, kinds)
            self._words.append((rows.astype(np.uint64) + np.uint64(block.pfn), words))
        tails = block.tails
        some_tails = bool(tails.any())
        if some_tails:
            kinds[tails] = self.numbers["file"]
            if "hugetlb" not in self._encoding.types:
                self._hugetlb(block, flags, kinds)
        self._free(block, kinds, rows)
        self._rest(block, kinds, np.flatnonzero(kinds == self.numbers["other"]))
        if some_tails or self._outer[0] >= block.pfn:
            self._tails(block, kinds)
        return kinds

    def _typed(self, words: npt.NDArray[np.uint32], rows: Rows, kinds: Kinds) -> None:
        # Where several types are set, the first counts here; the census lists all.
        told = self._encoding.has_type(words)
        kinds[rows[told]] = self.numbers["unknown"]
        for name in reversed(list(self._encoding.types)):
            kinds[rows[self._encoding.is_type(words, name)]] = self.numbers[name]

    def _free(self, block: PageBlock, kinds: Kinds, typed: Rows) -> None:
        # Pages inside free blocks, of which only the first has the type.
        rows = typed[kinds[typed] == self.numbers["buddy"]]
        until = self._free_until - block.pfn
        if not len(rows) and until <= 0:
            return
        private = self._word(block, rows, self._where.private)
        orders = np.where(private <= MAX_BUDDY_ORDER, private, 0).astype(np.int32)
        # How far the free blocks reach that begin at or before each page.
        reach = np.zeros(len(kinds), np.int32)
        reach[rows] = rows + (np.int32(1) << orders)
        reach[0] = max(reach[0], until)
        np.maximum.accumulate(reach, out=reach)
        told = kinds[typed]
        kinds[reach > self._row_numbers(len(kinds))] = self.numbers["buddy"] | TAIL
        kinds[typed] = told
        self._free_until = block.pfn + int(reach[-1])

    def _row_numbers(self, count: int) -> npt.NDArray[np.int32]:
        if len(self._rows) < count:
            self._rows = np.arange(count, dtype=np.int32)
        return self._rows[:count]

    def _hugetlb(self, block: PageBlock, flags: U64, kinds: Kinds) -> None:
        # Before it was a page type: a flag or a destructor in the second page.
        where = self._where
        heads = np.flatnonzero(flags & self._head)
        heads = heads[heads + 1 < len(kinds)]
        if where.hugetlb_flag is not None:
            after = self._word(block, heads + 1, self._fields.flags)
            marked = after >> np.uint64(where.hugetlb_flag) & np.uint64(1) != 0
        elif where.hugetlb_dtor is not None and where.hugetlb_dtor_value is not None:
            page, offset = divmod(where.hugetlb_dtor, where.size)
            marked = block.raw[heads + page, offset] == where.hugetlb_dtor_value
        else:
            return
        kinds[heads[marked]] = self.numbers["hugetlb"]

    def _rest(self, block: PageBlock, kinds: Kinds, rows: Rows) -> None:
        # Pages that neither a type nor a flag tells. Those on their way to the
        # LRU lists have a mapping; 2 in its low bits is a driver's page.
        if not len(rows):
            return
        mapping = self._word(block, rows, self._where.mapping)
        cached = (mapping >> np.uint64(32) != 0) & (mapping & np.uint64(3) == 0)
        kinds[rows[cached]] = self.numbers["file"]
        rows = rows[~cached]
        counts = block.raw[rows, self._fields.refcount : self._fields.refcount + 4]
        unused = rows[~counts.any(axis=1)]
        kinds[unused] = self.numbers["pcp"]
        links = self._word(block, unused, self._fields.compound)
        pfns = unused.astype(np.uint64) + np.uint64(block.pfn)
        self._unreferenced.append(Unreferenced(pfns, links))

    def _tails(self, block: PageBlock, kinds: Kinds) -> None:
        found = heads_of_tails(block, self._where.size, self._layout.head_flag)
        if not len(found.rows):
            return
        inside = found.pfns >= np.uint64(block.pfn)
        inside &= found.pfns < np.uint64(block.pfn + len(kinds))
        at = (found.pfns[inside] - np.uint64(block.pfn)).astype(np.intp)
        kinds[found.rows[inside]] = kinds[at] & ~TAIL | TAIL
        # A larger folio than a block: its first block has said what it is.
        for pfn in np.unique(found.pfns[~inside]).tolist():
            kind = self._outer[1] if self._outer[0] == pfn else self.numbers["other"]
            kinds[found.rows[found.pfns == np.uint64(pfn)]] = kind | TAIL
        if len(at):
            last = int(at[-1])
            self._outer = (block.pfn + last, kinds[last])

    def _word(self, block: PageBlock, rows: Rows, offset: int) -> U64:
        # An unsigned long of some pages.
        long = self._long
        flat = block.raw.reshape(-1).view(long)
        step, at = self._where.size // long.itemsize, offset // long.itemsize
        result: U64 = flat[at::step][rows].astype(np.uint64, copy=False)
        return result
