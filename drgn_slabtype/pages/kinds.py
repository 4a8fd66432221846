# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kinds of pages
--------------

What each page is used for, one word for each: its page type if it has one, or
what its flags and its mapping tell. A tail is what its head is, and a page
inside a free block is free. Every page is of one kind exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import numpy.typing as npt

from ..machine import Machine
from ..machine.memory import U64, Bools
from ..pagetype.detect import PageTypeLayout
from .folios import (
    FolioLayout,
    buddy_sizes,
    fake_heads,
    folio_layout,
    heads_of_tails,
    tail_runs,
)
from .scan import BLOCK_PAGES, PageBlock, runs_of
from .sections import PageNumbers

Kinds = npt.NDArray[np.uint8]
Rows = npt.NDArray[np.intp]
U32 = npt.NDArray[np.uint32]

TAIL = np.uint8(0x80)
"""In the byte of a page: the kind is that of its head, or of the block it is in."""

_FIRST_FLAG = np.uint64(4)  # PG_lru is 4 at least, PG_swapbacked below 20
_FEW = 4  # fewer pages of a block than one in so many are picked out of it
_UNTOLD = np.uint8(0xFF)
_TYPED = np.uint8(0xFE)

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


@dataclass(frozen=True)
class _Rules:
    # What decides about pages, found once per program.
    names: Tuple[str, ...]
    numbers: Dict[str, np.uint8]
    layout: PageTypeLayout
    where: FolioLayout
    by_flags: Kinds
    """The kind of a page by 16 of its flags, beginning with _FIRST_FLAG."""
    turns: Kinds
    """What is not told yet, and what pages inside a free block are, by turns."""
    low_byte: int
    """Offset of the least significant byte of the mapping."""


def _rules(machine: Machine) -> _Rules:
    return machine.fact(_find_rules)


def _find_rules(machine: Machine) -> _Rules:
    layout, where = machine.layout, folio_layout(machine)
    types = layout.encoding.types
    names = (*types, *(name for name in _PLAIN if name not in types))
    numbers = {name: np.uint8(number) for number, name in enumerate(names)}
    flags = machine.enumerators("pageflags")
    # The kind of a page by 16 of its flags, beginning with _FIRST_FLAG.
    values = np.arange(1 << 16, dtype=np.uint32) << np.uint32(_FIRST_FLAG)

    def has(flag: int) -> Bools:
        return values >> np.uint32(flag) & np.uint32(1) != 0

    table = np.full(1 << 16, numbers["other"], np.uint8)
    table[has(flags["PG_lru"])] = numbers["file"]
    table[has(flags["PG_lru"]) & has(flags["PG_swapbacked"])] = numbers["shmem"]
    table[has(flags["PG_reserved"])] = numbers["reserved"]
    if layout.slab_flag is not None:
        table[has(layout.slab_flag)] = numbers["slab"]
    last = 0 if machine.memory.byteorder == "<" else machine.memory.word_size - 1
    turns = np.full(2 * BLOCK_PAGES, _UNTOLD)
    turns[1::2] = numbers["buddy"] | TAIL
    return _Rules(names, numbers, layout, where, table, turns, where.mapping + last)


def kind_names(machine: Machine) -> Tuple[str, ...]:
    """Return the names of the kinds, by number: the page types, then what has none."""
    return _rules(machine).names


class _Told(NamedTuple):
    # A block of pages that types and free blocks told altogether.
    what: Tuple[object, ...]
    """What that was found out from."""
    kinds: Kinds
    free_until: int
    """How far its last free block reaches, from its first page on."""


class KindFinder:
    """
    Tells the kinds of pages; takes blocks in ascending order.

    What most pages are costs least: types and free blocks are found first. What
    only other pages can tell is found out after the last block.

    :param ranges: Ranges [start, end) of the page frame numbers there are.
    """

    def __init__(self, machine: Machine, ranges: Sequence[Tuple[int, int]]) -> None:
        self._machine = machine
        self._rules = _rules(machine)
        self._fields = machine.page
        self.names = self._rules.names
        self.numbers = self._rules.numbers
        self.pages = PageNumbers(ranges)
        self.kinds: Kinds = np.full(self.pages.total, self.numbers["unreadable"], np.uint8)
        """Of each page of the ranges, with :data:`TAIL` where it is not its own."""
        self._tail = self.numbers["file"] | TAIL  # no page is one before finish()
        self._free_until = 0
        self._told = _Told((), self.kinds, 0)
        # Columns of what is left for the end.
        self._typed: List[Tuple[Rows, U32, Bools]] = []
        self._tails: List[Tuple[Rows]] = []
        self._runs: List[Tuple[Rows, Rows, U64]] = []
        self._unused: List[Tuple[Rows, U64, U64]] = []

    def take(self, block: PageBlock) -> Optional[Rows]:
        """
        Look at a block of pages.

        :return: Rows of the pages that have a type, if all others are inside free
            blocks, each in the zone of the page that its block begins with.
        """
        at = self.pages.number(block.pfn)
        kinds = self.kinds[at : at + len(block)]
        rows = block.typed()
        words, tails = block.words[rows], block.tails_of(rows)
        private = block.long(self._rules.where.private)[rows]
        self._typed.append((rows + at, words, tails))
        # Where much is free, one block of the memory map is as the one before.
        columns = [column.tobytes() for column in (rows, words, tails, private)]
        what = (self._free_until - block.pfn, len(block), *columns)
        if what == self._told.what:
            kinds[:] = self._told.kinds
            self._free_until = block.pfn + self._told.free_until
            return rows
        # Of two flags, "greater" is "and not".
        buddy = self._rules.layout.encoding.is_type(words, "buddy") > tails
        self._free(block, kinds, rows[buddy], private[buddy])
        kinds[rows] = _TYPED
        if kinds.max() != _UNTOLD:
            self._told = _Told(what, kinds, self._free_until - block.pfn)
            return rows
        untold = kinds == _UNTOLD
        if np.count_nonzero(untold) < len(block) // _FEW:
            few = untold.nonzero()[0]
            kinds[few] = _own(self._rules, block, few)
        else:
            # It costs less to look at all than to pick so many. What is told
            # already stays, since _UNTOLD has all bits set.
            kinds &= _own(self._rules, block, slice(None)) | ~_bits(untold)
        self._look_closer(np.arange(at, at + len(block)), block, kinds)
        return None

    def _free(self, block: PageBlock, kinds: Kinds, rows: Rows, private: U64) -> None:
        # Free blocks, from the pages that have the type on.
        until, end = self._free_until - block.pfn, 0
        if len(rows):
            reach = rows + buddy_sizes(private)
            np.maximum.accumulate(reach, out=reach)
            last = int(reach[-1])
            self._free_until = max(self._free_until, block.pfn + last)
            # Where blocks begin and end, by turns.
            end = min(last, len(block))
            edges = np.empty(2 * len(rows) + 1, np.intp)
            edges[0], edges[-1] = 0, end
            edges[1::2] = rows
            np.minimum(reach[:-1], rows[1:], out=edges[2:-2:2])
            turns = self._rules.turns[: 2 * len(rows)]
            kinds[:end] = turns.repeat(edges[1:] - edges[:-1])
        kinds[end:] = _UNTOLD
        if until > 0:
            # A block that began before these pages.
            kinds[:until] = self._rules.turns[1]

    def _look_closer(self, pages: Rows, block: PageBlock, kinds: Kinds) -> None:
        # At tails, and at pages that tell too little of themselves.
        rules = self._rules
        tails = (kinds == _UNTOLD).nonzero()[0]
        if len(tails):
            kinds[tails] = self._tail
            links, numbers = block.compound[tails], pages[tails]
            runs = tail_runs(links, numbers)
            self._tails.append((numbers,))
            self._runs.append((numbers[runs.starts], runs.counts, links[runs.starts]))
            if "hugetlb" not in rules.layout.encoding.types:
                _hugetlb(self._rules, block, kinds, tails[runs.starts])
        rows = (kinds == self.numbers["other"]).nonzero()[0]
        # Pages on their way to the LRU lists have a mapping; 2 in its low bits
        # is a driver's page.
        mapping = block.long(rules.where.mapping)[rows]
        cached = (mapping >> np.uint64(32) != 0) & (mapping & np.uint64(3) == 0)
        kinds[rows[cached]] = self.numbers["file"]
        # What was given back once too often counts less than no references.
        unused = rows[~cached & (block.refcounts[rows].astype(np.int32) <= 0)]
        kinds[unused] = self.numbers["pcp"]
        after, before = self._fields.compound, self._fields.compound + self._fields.long
        self._unused.append((pages[unused], block.long(after)[unused], block.long(before)[unused]))

    # After the last block.

    @property
    def unused(self) -> Tuple[Rows, U64, U64]:
        """
        Numbers of the pages called ``pcp``, with ``lru.next`` and ``lru.prev`` of each; ascending.

        They have no type, no use and no references: free ones, or parts of a
        larger allocation.
        """
        empty = np.zeros(0, np.intp), np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        pages, after, before = _joined(self._unused or [empty])
        # Pages that were looked at again come last.
        if (pages[1:] < pages[:-1]).any():
            order = pages.argsort(kind="stable")
            pages, after, before = pages[order], after[order], before[order]
        return pages, after, before

    def finish(self) -> List[Tuple[int, int]]:
        """
        Find out what only other pages can tell.

        :return: (PFN, word) of words that no healthy page shows.
        """
        if not self._typed:
            return []
        encoding = self._rules.layout.encoding
        pages, words, tails = _joined(self._typed)
        # Most words are like the one before.
        starts, counts = runs_of(words)
        words = words[starts]
        self.kinds[pages] = np.repeat(_by_word(self._rules, words), counts)
        odd = tails | np.repeat(~encoding.has_type(words), counts)
        if odd.any():
            self._look_again(pages[odd])
        if self._runs:
            self._finish_tails(*_joined(self._runs))
        conflicts = []
        for run in encoding.conflict(words).nonzero()[0].tolist():
            same = self.pages.pfns(pages[starts[run] : starts[run] + counts[run]]).tolist()
            conflicts += [(pfn, int(words[run])) for pfn in same]
        return conflicts

    def _look_again(self, pages: Rows) -> None:
        # Pages that seemed to have a type and are tails, or have a map count
        # that underflowed: rare enough to be read once more.
        size = self._fields.size
        addresses = self.pages.pfns(pages) * np.uint64(size) + np.uint64(self._fields.vmemmap)
        raw = self._machine.memory.gather(addresses, size)
        order = self._machine.memory.byteorder
        block, pages = PageBlock(0, 0, raw.bytes[raw.ok], self._fields, order), pages[raw.ok]
        kinds = _own(self._rules, block, slice(None))
        self._look_closer(pages, block, kinds)
        self.kinds[pages] = kinds

    def _finish_tails(self, starts: Rows, counts: Rows, links: U64) -> None:
        pfns = self.pages.pfns(starts)
        heads = heads_of_tails(self._fields, pfns, links)
        kinds = self._of_heads(heads)
        fakes = fake_heads(self._fields, pfns, heads)
        before = np.maximum(self.pages.numbers(pfns[fakes] - np.uint64(1)), 0)
        fakes = fakes[self.kinds[before] != self._tail]
        (tails,) = _joined(self._tails)
        self.kinds[tails] = np.repeat(kinds, counts)
        if len(fakes):
            self._finish_fakes(pfns[fakes] - np.uint64(1), heads[fakes])

    def _finish_fakes(self, pfns: U64, heads: U64) -> None:
        fields = self._fields
        addresses = pfns * np.uint64(fields.size) + np.uint64(fields.vmemmap + fields.flags)
        read = self._machine.memory.gather(addresses, fields.long)
        flags = read.bytes.view(self._machine.memory.word)[:, 0]
        is_head = flags >> np.uint64(self._rules.layout.head_flag) & np.uint64(1) != 0
        numbers = self.pages.numbers(pfns)
        fake = is_head & (numbers >= 0)
        self.kinds[numbers[fake]] = self._of_heads(heads[fake])

    def _of_heads(self, heads: U64) -> Kinds:
        # The kinds of tails by their heads; there may be no such page.
        pages = self.pages.numbers(heads)
        kinds = self.kinds[np.maximum(pages, 0)] & ~TAIL
        kinds[(pages < 0) | (kinds == self.numbers["unreadable"])] = self.numbers["other"]
        return kinds | TAIL


def _own(rules: _Rules, block: PageBlock, rows: Any) -> Kinds:
    # What pages without a type, outside of free blocks, tell of themselves;
    # _UNTOLD for tails.
    numbers = rules.numbers
    flags = block.flags[rows]
    kinds: Kinds = rules.by_flags.take((flags >> _FIRST_FLAG).astype(np.uint16))
    anonymous = block.raw[rows, rules.low_byte] & np.uint8(1)
    if rules.layout.slab_flag is not None:
        # Slabs have other things in place of the mapping; a struct page
        # that was never initialised has all flags.
        kinds[flags == np.uint64(rules.layout.flags_mask)] = numbers["reserved"]
        anonymous &= kinds != numbers["slab"]
    # With masks: np.putmask() takes three times as long.
    kinds ^= (kinds ^ numbers["anon"]) & _bits(anonymous)
    kinds |= _bits(block.tails_of(rows))
    return kinds


def _hugetlb(rules: _Rules, block: PageBlock, kinds: Kinds, seconds: Rows) -> None:
    # Before it was a page type: a flag or a destructor in the second page.
    where = rules.where
    if where.hugetlb_flag is not None:
        bit = np.uint64(1) << np.uint64(where.hugetlb_flag)
        seconds = seconds[block.flags[seconds] & bit != 0]
    elif where.hugetlb_dtor is not None and where.hugetlb_dtor_value is not None:
        page, offset = divmod(where.hugetlb_dtor, where.size)
        dtors = block.raw[np.minimum(seconds + page - 1, len(block) - 1), offset]
        seconds = seconds[dtors == where.hugetlb_dtor_value]
    else:
        return
    heads = seconds[seconds > 0] - 1
    is_head = block.flags[heads] >> np.uint64(rules.layout.head_flag) & np.uint64(1)
    kinds[heads[is_head != 0]] = rules.numbers["hugetlb"]


def _by_word(rules: _Rules, words: U32) -> Kinds:
    # Where several types are set, the first counts here, and that a page is
    # accounted to a cgroup least of all.
    encoding = rules.layout.encoding
    kinds = np.full(len(words), rules.numbers["unknown"])
    names = list(encoding.types)
    names.reverse()
    names.sort(key="kmemcg".__ne__)
    for name in names:
        np.putmask(kinds, encoding.is_type(words, name), rules.numbers[name])
    return kinds


def _bits(flags: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    # All bits of a byte where a flag is set, none elsewhere.
    return np.negative(flags.view(np.uint8))


def _joined(parts: Sequence[Tuple[Any, ...]]) -> Tuple[Any, ...]:
    # Columns of several parts, one after the other.
    return parts[0] if len(parts) == 1 else tuple(map(np.concatenate, zip(*parts)))
