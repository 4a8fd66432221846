# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's own words for pages
--------------------------------

What ``/proc/kpageflags`` and ``/proc/kpagecount`` say about each page, computed
from the memory map alone, bit for bit as the kernel of the target computes it:

>>> flags = kpageflags(prog)
>>> ", ".join(flag_names(flags[0x1d4b]))
'mmap, zero_page, reserved'

Both files have one 64-bit number for each page frame. What the bits mean is in
:mod:`drgn_slabtype.pages.flagnames`.

Linux 6.10 to 7.1 call every anonymous page one of KSM, by mistake. The repair
went to stable releases too and left no trace in a dump: a kernel before Linux
7.1 is taken to have the mistake, a newer one not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, Program, TypeKind
from drgn.helpers.linux.mm import page_to_pfn

from ..arguments import structure_of
from ..errors import TargetError
from ..files.whole import whole
from ..machine import Machine, machine
from ..machine.memory import U64, Bools
from ..machine.told import last_page
from .flagnames import BITS
from .folios import Folios, FreeBlocks
from .mapcount import block_counts, mapped
from .scan import Progress, page_blocks
from .sections import online_ranges, pages_per_section
from .single import free_block, one_page

_MOST_ZERO_PAGES = 1 << 10

# Flags that are copied from enum pageflags; some have had several names.
_COPIED = {
    "locked": ("PG_locked",),
    "error": ("PG_error",),
    "dirty": ("PG_dirty",),
    "uptodate": ("PG_uptodate",),
    "writeback": ("PG_writeback",),
    "lru": ("PG_lru",),
    "referenced": ("PG_referenced",),
    "active": ("PG_active",),
    "reclaim": ("PG_reclaim",),
    "swapbacked": ("PG_swapbacked",),
    "unevictable": ("PG_unevictable",),
    "mlocked": ("PG_mlocked",),
    "uncached": ("PG_uncached",),
    "reserved": ("PG_reserved",),
    # Since "mm: rename PG_mappedtodisk to PG_owner_2" (in v6.12).
    "mappedtodisk": ("PG_owner_2", "PG_mappedtodisk"),
    "private": ("PG_private",),
    "private_2": ("PG_private_2",),
    "owner_private": ("PG_owner_priv_1",),
    "arch": ("PG_arch_1",),
    "arch_2": ("PG_arch_2",),
    "arch_3": ("PG_arch_3",),
    "idle_page": ("PG_idle",),
}


@dataclass(frozen=True)
class _Era:
    # What differs from kernel to kernel.
    tables: Tuple[U64, ...]
    """What each value of each byte of ``page->flags`` contributes."""
    hwpoison: Optional[int]
    swap: int
    """Flags that are both set in the swap cache."""
    lru: int
    """Bit of ``PG_lru``."""
    of_head: bool
    """Whether the flags of a tail are those of its head."""
    types_of_head: bool
    """Whether the types of a tail are those of its head."""
    thp_by_flag: bool
    """Whether a transparent huge page is known by a flag of its own."""
    thp: bool
    """Whether the kernel has transparent huge pages."""
    ksm_is_anonymous: bool
    """Whether every anonymous page is called one of KSM."""
    hole: int
    """What is said of a page frame without a page."""
    zero: range
    """Page frames of zeros."""
    huge_zero: Optional[int]
    """First page frame of the huge page of zeros."""


def _era(machine: Machine) -> _Era:
    return machine.fact(_find_era)


def _find_era(machine: Machine) -> _Era:
    flags = machine.enumerators("pageflags")
    # "proc: rewrite stable_page_flags()" is of the release in which slab became
    # a page type (v6.10), and "fs/proc/page: use a folio in ..." of the next.
    # Neither left a trace of its own; postings of 2022 have names of their own.
    encoding = machine.layout.encoding.name
    of_head = encoding == "top-byte" or encoding.startswith("inverted-6.1")
    thp = _has(machine, "transparent_hugepage_flags")
    copied = []
    for name, sources in _COPIED.items():
        bit = next((flags[source] for source in sources if source in flags), None)
        if bit is not None:
            copied.append((BITS[name], bit))
    return _Era(
        tables=_tables(copied),
        hwpoison=flags.get("PG_hwpoison"),
        swap=1 << flags["PG_swapbacked"] | 1 << flags["PG_swapcache"],
        lru=flags["PG_lru"],
        of_head=of_head,
        # Since "fs: stable_page_flags(): use snapshot_page()" (in v6.17).
        types_of_head=_has_type(machine, "struct page_snapshot"),
        thp_by_flag=of_head and encoding != "inverted-6.10",
        thp=thp,
        # Until Linux kernel commit 81401cebfc15 ("fs/proc: fix KPF_KSM reported
        # for all anonymous pages") (in v7.2, and in stable releases since),
        # which left no trace; the nearest is that of d50569612c29 (in v7.1).
        ksm_is_anonymous=of_head and not machine.structure("struct page").has("compound_info"),
        # Since "fs/proc/page: refactor to reduce code duplication" (in v6.16),
        # holes are skipped before anything is said about them.
        hole=0 if _has_type(machine, "enum kpage_operation") else 1 << BITS["nopage"],
        zero=_zero_pfns(machine),
        huge_zero=_huge_zero_pfn(machine),
    )


def _has(machine: Machine, variable: str) -> bool:
    try:
        machine.prog[variable]
    except LookupError:
        return False
    return True


def _has_type(machine: Machine, type: str) -> bool:
    try:
        machine.prog.type(type)
    except LookupError:
        return False
    return True


def _zero_pfns(machine: Machine) -> range:
    # Where data caches are aliased by address (s390x), there is a page of zeros for
    # each colour, and zero_page_mask says how many.
    first = _zero_pfn(machine)
    if first is None:
        return range(0)
    count = 1
    if _has(machine, "zero_page_mask"):
        mask = int(machine.prog["zero_page_mask"].value_())
        count += min(mask >> machine.memory.page_shift, _MOST_ZERO_PAGES)
    return range(first, first + count)


def _zero_pfn(machine: Machine) -> Optional[int]:
    # Since Linux 7.0, zero_pfn is a function and zero_page_pfn the variable.
    for name in ("zero_page_pfn", "zero_pfn"):
        try:
            pfn = machine.prog[name]
        except LookupError:
            continue
        if pfn.type_.unaliased_kind() == TypeKind.INT:
            return int(pfn.value_())
    return None


def _huge_zero_pfn(machine: Machine) -> Optional[int]:
    for name in ("huge_zero_folio", "huge_zero_page"):
        try:
            page = machine.prog[name].value_()
        except LookupError:
            continue
        if page:
            return int(page_to_pfn(Object(machine.prog, "struct page *", page)).value_())
    return None


def _tables(copied: List[Tuple[int, int]]) -> Tuple[U64, ...]:
    # From pairs of (bit of the answer, bit of page->flags).
    tables: List[U64] = []
    values = np.arange(256, dtype=np.uint64)
    for low in range(0, 1 + max(source for _, source in copied), 8):
        table = np.zeros(256, np.uint64)
        for to, source in copied:
            if low <= source < low + 8:
                bit = (values >> np.uint64(source - low)) & np.uint64(1)
                table |= bit << np.uint64(to)
        tables.append(table)
    return tuple(tables)


def block_flags(folios: Folios, free: Bools) -> U64:
    """
    Return the word of ``/proc/kpageflags`` of each page of a block.

    :param free: Which pages lie in free blocks of the buddy allocator.
    """
    return _Words(folios, _era(folios.machine)).words(free)


class _Words:
    # One block of pages, told bit by bit.

    def __init__(self, folios: Folios, era: _Era) -> None:
        self.folios, self.era = folios, era
        self.n = len(folios)
        self.own = slice(0, self.n)
        self.heads = folios.heads
        self.huge = folios.spread(self.heads, folios.hugetlb(self.heads))

    def words(self, free: Bools) -> U64:
        folios, era = self.folios, self.era
        source = folios.flags[folios.head] if era.of_head else folios.flags[self.own]
        words = era.tables[0][source & np.uint64(0xFF)]
        for byte, table in enumerate(era.tables[1:], 1):
            words |= table[(source >> np.uint64(8 * byte)) & np.uint64(0xFF)]
        if era.hwpoison is not None:
            own = folios.flags[self.own]
            poisoned = np.where(self.huge, source, own) if era.of_head else own
            self._set(words, "hwpoison", self._bit(poisoned, era.hwpoison))
        head_flags = folios.flags[folios.head]
        self._set(words, "swapcache", head_flags & np.uint64(era.swap) == np.uint64(era.swap))
        self._mapping(words)
        self._compound(words, head_flags)
        self._types(words, free)
        return words

    def _set(self, words: U64, name: str, which: Bools) -> None:
        words |= which.astype(np.uint64) << np.uint64(BITS[name])

    def _bit(self, flags: U64, bit: int) -> Bools:
        return flags >> np.uint64(bit) & np.uint64(1) != 0

    def _mapping(self, words: U64) -> None:
        folios, era = self.folios, self.era
        mapping = folios.long(folios.where.mapping)[folios.head]
        anonymous = mapping & np.uint64(1) != 0
        self._set(words, "anonymous", anonymous)
        merged = mapping & np.uint64(3) == np.uint64(3)
        self._set(words, "ksm", anonymous if era.ksm_is_anonymous else merged)
        self._set(words, "mmap", mapped(folios, self.heads, self.huge))

    def _compound(self, words: U64, head_flags: U64) -> None:
        folios, era = self.folios, self.era
        tails = folios.tails
        large = self._bit(head_flags, folios.layout.head_flag) | tails
        self._set(words, "compound_head", large & ~tails)
        self._set(words, "compound_tail", tails)
        self._set(words, "huge", self.huge)
        head_pfns = folios.pfns[folios.head]
        huge_zero = np.zeros(self.n, np.bool_)
        if era.huge_zero is not None:
            huge_zero = head_pfns == np.uint64(era.huge_zero)
        if era.thp_by_flag:
            thp = np.zeros(self.n, np.bool_)
            if folios.where.rmappable_flag is not None and era.thp:
                marked = folios.second_flag(self.heads, folios.where.rmappable_flag)
                thp = folios.spread(self.heads, marked) & ~self.huge
            else_zero = ~thp & ~huge_zero & ~self.huge
        else:
            named = words & np.uint64(1 << BITS["anonymous"]) != 0
            named |= self._bit(head_flags, era.lru)
            thp = large & ~self.huge & named & era.thp
            huge_zero &= ~thp
            else_zero = ~self.huge & ~(large & era.thp)
        self._set(words, "thp", thp | huge_zero)
        zero = huge_zero
        if era.zero:
            # With types_of_head the page itself is asked, before its folio; a
            # page of zeros is never part of a larger one.
            zero = zero | else_zero & self._is_zero(folios.pfns[self.own])
        self._set(words, "zero_page", zero)

    def _is_zero(self, pfns: U64) -> Bools:
        zero = self.era.zero
        return (pfns >= np.uint64(zero.start)) & (pfns < np.uint64(zero.stop))

    def _types(self, words: U64, free: Bools) -> None:
        folios, encoding = self.folios, self.folios.layout.encoding
        refcount = folios.column(folios.where.refcount, 4)[folios.head]
        own = folios.words[self.own]
        self._set(words, "buddy", encoding.is_type(own, "buddy") | free & (refcount == 0))
        for name, type in (("offline", "offline"), ("pgtable", "table")):
            if type in encoding.types:
                asked = folios.words[folios.head] if self.era.types_of_head else own
                self._set(words, name, encoding.is_type(asked, type))
        self._set(words, "slab", folios.slab()[folios.head])


def for_each_block(
    machine: Machine, progress: Optional[Progress] = None, within: Optional[Tuple[int, int]] = None
) -> Iterator[Tuple[Folios, Bools]]:
    """
    Read the online pages block by block.

    :param within: Range [start, end) of page frame numbers; all if ``None``.
    :return: Iterator of the pages and which of them lie in free blocks.
    """
    ranges = online_ranges(machine)
    if within is not None:
        cut = [(max(low, within[0]), min(high, within[1])) for low, high in ranges]
        ranges = [(low, high) for low, high in cut if low < high]
    free = FreeBlocks()
    for block in page_blocks(machine, progress, ranges):
        folios = Folios(machine, block)
        yield folios, free.inside(folios)


def kpageflags(prog: Program, progress: Optional[Progress] = None) -> U64:
    """
    Return what ``/proc/kpageflags`` says, one word for each page frame.

    Page frames without a page have what the kernel has for them: ``NOPAGE``,
    or zero since Linux 6.16. Those whose struct page is not in the target have
    ``NOPAGE``.

    >>> hex(kpageflags(prog)[0x98f])
    '0x80'

    :param progress: Called as work goes on: with what is done, how far it is, and how far it goes.
    """
    words = np.full(_length(machine(prog)), _era(machine(prog)).hole, np.uint64)
    for start, end in online_ranges(machine(prog)):
        words[start:end] = np.uint64(1 << BITS["nopage"])
    for folios, free in for_each_block(machine(prog), progress):
        _put(words, folios, block_flags(folios, free))
    return words


def kpagecount(prog: Program, progress: Optional[Progress] = None) -> U64:
    """
    Return what ``/proc/kpagecount`` says, one number for each page frame.

    >>> int(kpagecount(prog)[0x98f])
    0

    :param progress: Called as work goes on: with what is done, how far it is, and how far it goes.
    """
    counts = np.zeros(_length(machine(prog)), np.uint64)
    for folios, _ in for_each_block(machine(prog), progress):
        _put(counts, folios, block_counts(folios))
    return counts


def _put(all: U64, folios: Folios, values: U64) -> None:
    pfn = folios.block.pfn
    room = max(len(all) - pfn, 0)
    all[pfn : pfn + len(values)] = values[:room]


def _length(machine: Machine) -> int:
    # Both files end with the section of the last page.
    last, step = machine.settled(last_page).counted, pages_per_section(machine)
    if last is None:
        raise FaultError("max_pfn is not in the target", 0)
    return -(-last // step) * step


def stable_page_flags(page: Object) -> int:
    """
    Return the word of ``/proc/kpageflags`` for one page.

    >>> page = virt_to_page(0xffff88800098f000)
    >>> hex(stable_page_flags(page))
    '0x80'

    :param page: ``struct page *``
    :raises ArgumentError: if *page* is no page.
    :raises ~drgn.FaultError: if the page is not in the dump.
    """
    at = structure_of(page, "page", "folio", "slab")
    page = Object(page.prog_, "struct page *", at)
    folios, row = one_page(page)
    free = np.zeros(len(folios), np.bool_)
    free[row] = free_block(page) is not None
    return int(block_flags(folios, free)[row])


def write_kernel_files(
    prog: Program,
    flags: Optional[str],
    counts: Optional[str],
    progress: Optional[Progress] = None,
) -> None:
    """
    Write files as the kernel has them in ``/proc``: 64 bits for each page frame.

    >>> write_kernel_files(prog, "kpageflags", None)

    :param flags: File for what ``/proc/kpageflags`` has, if any.
    :param counts: File for what ``/proc/kpagecount`` has, if any.
    :param progress: Called as work goes on: with what is done, how far it is, and how far it goes.
    :raises TargetError: if a file cannot be written.
    """
    order = machine(prog).memory.byteorder
    for path, find in ((flags, kpageflags), (counts, kpagecount)):
        if path is None:
            continue
        words = find(prog, progress).astype(f"{order}u8")
        try:
            with whole(path) as file:
                file.write(words.data)
        except OSError as e:
            raise TargetError(f"{path}: {e.strerror or e}") from None
