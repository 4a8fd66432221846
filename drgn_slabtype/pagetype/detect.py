# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which encoding a kernel uses
----------------------------

:func:`detect` decides from the debug info and VMCOREINFO how a kernel
marks slab pages and where SLAB keeps its active count, and says which evidence
it used. It never looks at the release, which distributions make meaningless
with backports, and it refuses what it does not recognise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, List, Mapping, NoReturn, Optional, Tuple

import numpy as np
from drgn import PlatformFlags, Program, Type, sizeof

from ..errors import LayoutError, MissingDebugInfoError, UnsupportedError
from .encoding import (
    ALTERNATIVE_1_SLUB,
    INVERTED_6_10,
    INVERTED_6_11,
    PAGE_FLAG_4_18,
    PAGE_FLAG_5_1,
    PAGE_FLAG_5_3,
    PAGE_FLAG_5_11,
    PAGE_FLAG_6_9,
    RFC_V1,
    RFC_V1_LOW,
    RFC_V3,
    TOP_BYTE,
    Encoding,
    InvertedBits,
    PackedActive,
    top_byte,
)
from .sources import (
    Field,
    enumerators,
    fields,
    parts,
    vmcoreinfo_integer,
    vmcoreinfo_number,
)
from .word import WORD_MASK

__all__ = ("PageTypeLayout", "detect")


@dataclass(frozen=True)
class PageTypeLayout:
    """How one kernel tells what a page is."""

    encoding: Encoding
    """Meaning of the page type word."""
    slab_flag: Optional[int]
    """Bit number of ``PG_slab`` in ``page->flags``, ``None`` if slab is a page type."""
    head_flag: int
    """Bit number of ``PG_head`` in ``page->flags``."""
    allocator: str
    """``"SLAB"``, ``"SLUB"`` or ``"SLOB"``."""
    slab_struct: str
    """Structure with the members of a slab: ``"page"``, or ``"slab"`` since Linux 5.17."""
    active: Optional[str]
    """
    Where SLAB keeps its active count: ``"word"`` (plain, in place of the map
    count), ``"page_type"`` (in the page type word, see :attr:`encoding`),
    ``"packed"`` (elsewhere, see :attr:`packed`); ``None`` without SLAB.
    """
    packed: Optional[PackedActive]
    """Where the count is if :attr:`active` is ``"packed"``."""
    page_slab_follows_head: bool
    """Whether the kernel's ``PageSlab()`` is true for the tail pages of a slab."""
    word_offset: int
    """Offset of the page type word in ``struct page``, in bytes."""
    flags_offset: int
    """Offset of the flags in ``struct page``, in bytes."""
    flags_mask: int
    """All bits of an ``unsigned long``: the flags of a page never initialised."""
    evidence: Tuple[str, ...]
    """What the decision rests on, a sentence each."""
    notes: Tuple[str, ...]
    """What could not be confirmed, and what would mislead other tools."""

    def is_slab(self, flags: Any, words: Any) -> Any:
        """
        Return whether pages carry the slab mark.

        Each page is judged by itself: the tail pages of a slab carry none.

        :param flags: ``page->flags``, an integer or a ``uint64`` array.
        :param words: Page type words, an integer or a ``uint32`` array.
        """
        if self.slab_flag is None:
            return self.encoding.is_type(words, "slab")
        # A struct page that was never initialised may be all ones.
        if isinstance(flags, np.ndarray):
            flag = flags.dtype.type(1 << self.slab_flag)
            return ((flags & flag) != 0) & (flags != self.flags_mask)
        return bool(flags & (1 << self.slab_flag)) and flags != self.flags_mask


def detect(prog: Program, info: Mapping[str, str], origin: Optional[str]) -> PageTypeLayout:
    """
    Return how a kernel marks its pages.

    :param info: VMCOREINFO by its keys.
    :param origin: Where its types are from, if not from debug info: evidence, a sentence.
    :raises MissingDebugInfoError: if the types needed are not there.
    :raises LayoutError: if the layout is not known, or the debug info
        contradicts VMCOREINFO.
    :raises UnsupportedError: if the kernel is older than Linux 4.18.
    """
    return _Detection(prog, info, origin).layout()


class _Detection:
    # The steps of detect(), with what they share.

    def __init__(self, prog: Program, info: Mapping[str, str], origin: Optional[str]) -> None:
        self.prog = prog
        self.info = info
        self.evidence: List[str] = [] if origin is None else [origin]
        self.notes: List[str] = []
        self.page_type = self._type("struct page")
        self.page = fields(self.page_type)
        self.pageflags = enumerators(prog, "pageflags")
        self.pagetype = enumerators(prog, "pagetype")
        if not info:
            self.notes.append("there is no VMCOREINFO to confirm the debug info")

    def layout(self) -> PageTypeLayout:
        word = self._word()
        self._check_page()
        allocator = self._allocator()
        slab_struct, slab_type = self._slab_struct()
        encoding, slab_flag = self._encoding()
        active, packed = None, None
        if allocator == "SLAB":
            active, packed = self._active(encoding, slab_flag, word, slab_struct, slab_type)
        if active == "packed" and isinstance(encoding, InvertedBits):
            # The bits of RFC v3, say, but the low half of the word stays unused.
            encoding = InvertedBits(
                "alternative-2", encoding.types, encoding.base, encoding.low_mask
            )
        self._check_types(encoding)
        self._warn(encoding, slab_flag, active)
        return PageTypeLayout(
            encoding=encoding,
            slab_flag=slab_flag,
            head_flag=self._head_flag(),
            allocator=allocator,
            slab_struct=slab_struct,
            active=active,
            packed=packed,
            page_slab_follows_head=self._follows_head(encoding, slab_type),
            word_offset=word.bit_offset // 8,
            flags_offset=self.page["flags"].bit_offset // 8,
            flags_mask=(1 << self.page["flags"].bit_size) - 1,
            evidence=tuple(self.evidence),
            notes=tuple(self.notes),
        )

    # Sources.

    def _type(self, name: str) -> Type:
        try:
            return self.prog.type(name)
        except LookupError:
            raise MissingDebugInfoError(
                f"no debug info for {name}: load the vmlinux of this kernel"
            ) from None

    def _number(self, name: str) -> Optional[int]:
        return vmcoreinfo_number(self.info, name)

    def _contradiction(self, key: str, theirs: int, ours: str) -> NoReturn:
        raise LayoutError(
            f"VMCOREINFO has {key} = {theirs}, but {ours}:"
            " the debug info is not that of this kernel, or its layout is not known"
        )

    # Steps.

    def _word(self) -> Field:
        word = self.page.get("_mapcount")
        if word is None or word.bit_size != 32 or "flags" not in self.page:
            raise LayoutError("struct page has no 32-bit _mapcount and flags")
        if "page_type" not in self.page:
            raise UnsupportedError(
                "struct page has no page_type: kernels before Linux 4.18 are not supported"
            )
        return word

    def _check_page(self) -> None:
        size = sizeof(self.page_type)
        offset = self.page["_mapcount"].bit_offset // 8
        for key, ours in (("SIZE(page)", size), ("OFFSET(page._mapcount)", offset)):
            theirs = vmcoreinfo_integer(self.info, key)
            if theirs is not None and theirs != ours:
                self._contradiction(key, theirs, f"the debug info says {ours}")

    def _head_flag(self) -> int:
        mask = self._number("PG_head_mask")
        flag = self.pageflags.get("PG_head")
        if flag is not None:
            if mask is not None and mask != 1 << flag:
                self._contradiction("NUMBER(PG_head_mask)", mask, f"PG_head is flag {flag}")
            return flag
        if mask is None or mask <= 0 or mask & (mask - 1):
            raise LayoutError("neither enum pageflags nor VMCOREINFO has PG_head")
        self.evidence.append(f"VMCOREINFO has PG_head_mask {mask:#x}")
        return mask.bit_length() - 1

    def _allocator(self) -> str:
        members = fields(self._type("struct kmem_cache"))
        for allocator, needed in (
            ("SLAB", ("cpu_cache", "num", "gfporder")),
            ("SLUB", ("oo", "offset")),
            ("SLOB", ("object_size", "name")),
        ):
            if all(name in members for name in needed):
                self.evidence.append(
                    f"struct kmem_cache has {' and '.join(needed)}: the allocator is {allocator}"
                )
                return allocator
        raise LayoutError("struct kmem_cache is neither that of SLAB, nor of SLUB, nor of SLOB")

    def _slab_struct(self) -> Tuple[str, Type]:
        # Since Linux kernel commit d122019bf061 ("mm: Split slab into its own
        # type") (in v5.17).
        try:
            type = self.prog.type("struct slab")
        except LookupError:
            return "page", self.page_type
        return "slab", type

    def _encoding(self) -> Tuple[Encoding, Optional[int]]:
        halves = self._split_halves()
        if halves is not None:
            return halves, None
        if "PGTY_slab" in self.pagetype:
            return self._top_byte(), None
        if "PG_slab" in self.pagetype and "PAGE_TYPE_BASE" in self.pagetype:
            return self._inverted(), None
        # Only here PG_slab is a bit number: in enum pagetype it is a mask.
        if "PG_slab" in self.pageflags:
            return self._page_flag()
        return self._macros(), None

    def _split_halves(self) -> Optional[Encoding]:
        # "[RFC PATCH] mm: move PG_slab flag to page_type", 2022-09-19.
        types, active = self.page["page_type"], self.page.get("active")
        if types.bit_size != 16 or active is None or active.bit_size != 16:
            return None
        low = self._shift(types, self.page["_mapcount"].bit_offset) == 0
        self.evidence.append(
            "struct page has 16-bit members active and page_type, the latter in the"
            f" {'lower' if low else 'upper'} half of the word: RFC v1"
        )
        return RFC_V1_LOW if low else RFC_V1

    def _top_byte(self) -> Encoding:
        # Since Linux kernel commit 4ffca5a96678 ("mm: support only one
        # page_type per page") (in v6.12).
        self.evidence.append(
            f"enum pagetype has PGTY_slab = {self.pagetype['PGTY_slab']:#x}:"
            " the page type is the top byte of the word"
        )
        types = {
            name[len("PGTY_") :]: value
            for name, value in self.pagetype.items()
            if name.startswith("PGTY_") and name != "PGTY_mapcount_underflow"
        }
        return TOP_BYTE if types == TOP_BYTE.types else top_byte(types)

    def _inverted(self) -> Encoding:
        # Since Linux kernel commits 46df8e73a4a3 ("mm: free up PG_slab") and
        # ff202303c398 ("mm: convert page type macros to enum") (in v6.10), the
        # types are enumerators. 8db00ad56461 ("mm: allow reuse of the lower 16
        # bit of the page type with an actual type") (in v6.11) moved them up.
        base = self.pagetype["PAGE_TYPE_BASE"] & WORD_MASK
        types = {
            name[len("PG_") :]: value & WORD_MASK
            for name, value in self.pagetype.items()
            if name.startswith("PG_")
        }
        self.evidence.append(
            f"enum pagetype has PG_slab = {types['slab']:#x} and PAGE_TYPE_BASE = {base:#x}:"
            " page types are bits of the word, clear when set"
        )
        low_mask = ~self.pagetype.get("PAGE_MAPCOUNT_RESERVE", -128) & WORD_MASK
        for known in (INVERTED_6_10, INVERTED_6_11):
            if (base, low_mask) == (known.base, known.low_mask):
                return known if types == known.types else replace(known, types=types)
        raise LayoutError(
            f"enum pagetype has PAGE_TYPE_BASE = {base:#x}, which is not a known layout"
        )

    def _page_flag(self) -> Tuple[Encoding, int]:
        # Before Linux kernel commit 46df8e73a4a3 ("mm: free up PG_slab") (in
        # v6.10), slab is a page flag.
        flag = self.pageflags["PG_slab"]
        number = self._number("PG_slab")
        if number is not None and number != flag:
            self._contradiction("NUMBER(PG_slab)", number, f"PG_slab is flag {flag}")
        if self._number("PAGE_SLAB_MAPCOUNT_VALUE") is not None:
            raise LayoutError(
                f"PG_slab is page flag {flag} in enum pageflags,"
                " but VMCOREINFO has PAGE_SLAB_MAPCOUNT_VALUE"
            )
        self.evidence.append(f"enum pageflags has PG_slab = {flag}: slab is a page flag")
        return self._numbering(), flag

    def _numbering(self) -> Encoding:
        # The types beside slab are macros while slab is a flag. What is known
        # of the numbering comes from VMCOREINFO and from members that changed
        # in the same commits or releases.
        if self._number("PAGE_HUGETLB_MAPCOUNT_VALUE") is not None:
            self.evidence.append("VMCOREINFO has PAGE_HUGETLB_MAPCOUNT_VALUE: numbering of 6.9")
            return PAGE_FLAG_6_9
        # Linux kernel commit bcfe06bf2622 ("mm: memcontrol: Use helpers to read
        # page's memcg data") (in v5.11) belongs to the series that removed the
        # type kmemcg.
        _, slab_type = self._slab_struct()
        if "memcg_data" in {**self.page, **fields(slab_type)} or slab_type != self.page_type:
            self.evidence.append("struct page or slab is that of 5.11 or later: numbering of 5.11")
            return PAGE_FLAG_5_11
        if "mem_cgroup" not in self.page:
            self.notes.append(
                "nothing tells the numbering of page tables and guard pages;"
                " that of 5.3 to 5.10 is assumed"
            )
            return PAGE_FLAG_5_3
        self.evidence.append("struct page has mem_cgroup: numbering before 5.11")
        if self._has_subsections():
            self.evidence.append("there is a struct mem_section_usage: numbering of 5.3")
            return PAGE_FLAG_5_3
        # PAGE_OFFLINE_MAPCOUNT_VALUE is exported beside HUGETLB_PAGE_DTOR.
        offline, hugetlb = "PAGE_OFFLINE_MAPCOUNT_VALUE", "HUGETLB_PAGE_DTOR"
        if self._number(offline) is None and self._number(hugetlb) is not None:
            self.evidence.append(f"VMCOREINFO has no {offline}: numbering of 4.18")
            return PAGE_FLAG_4_18
        self.evidence.append("there is no struct mem_section_usage: numbering of 5.1")
        return PAGE_FLAG_5_1

    def _has_subsections(self) -> bool:
        # Since Linux kernel commit f1eca35a0dc7 ("mm/sparsemem: introduce
        # struct mem_section_usage") (in v5.3).
        try:
            self.prog.type("struct mem_section_usage")
        except LookupError:
            return False
        return True

    def _macros(self) -> Encoding:
        # Slab is a page type, but no enumerator says so: RFC v2 and v3, the
        # alternatives discussed with them, and early release candidates of
        # 6.10. All export the word of a slab.
        key = "PAGE_SLAB_MAPCOUNT_VALUE"
        number = self._number(key)
        if number is None:
            if not self.pageflags:
                raise MissingDebugInfoError(
                    "no debug info for enum pageflags: load the vmlinux of this kernel"
                )
            raise LayoutError(
                "no slab mark: neither enum pagetype nor enum pageflags has PG_slab or PGTY_slab,"
                f" and VMCOREINFO has no {key}"
            )
        word = number & WORD_MASK
        known: Tuple[Encoding, ...] = (RFC_V3, INVERTED_6_10, INVERTED_6_11, ALTERNATIVE_1_SLUB)
        for encoding in (*known, TOP_BYTE):
            if word == encoding.set(encoding.idle, "slab"):
                self.evidence.append(
                    f"VMCOREINFO has {key} {number} ({word:#x}), and there is no enumerator"
                    f" for slab: the bits are those of {encoding.name}"
                )
                return encoding
        raise LayoutError(f"VMCOREINFO has {key} {number} ({word:#x}), which is no known layout")

    def _shift(self, field: Field, start: int) -> int:
        # The first bit of a member of the 32-bit word that starts at a bit
        # offset. drgn counts from the most significant bit on big endian.
        offset = field.bit_offset - start
        platform = self.prog.platform
        if platform is not None and not platform.flags & PlatformFlags.IS_LITTLE_ENDIAN:
            return 32 - offset - field.bit_size
        return offset

    def _active(
        self,
        encoding: Encoding,
        slab_flag: Optional[int],
        word: Field,
        slab_struct: str,
        slab_type: Type,
    ) -> Tuple[str, Optional[PackedActive]]:
        members = fields(slab_type)
        active = members.get("active")
        if active is None:
            types = members.get("page_type")
            if encoding is RFC_V3 and types is not None and types[1:] == word[1:]:
                self.evidence.append(
                    f"struct {slab_struct} has page_type and no active:"
                    " SLAB's active count is in the page type word"
                )
                return "page_type", None
        elif encoding in (RFC_V1, RFC_V1_LOW):
            return "page_type", None
        elif active.bit_size == 32 and active.bit_offset == word.bit_offset:
            if slab_flag is not None:
                self.evidence.append(f"struct {slab_struct} has active in the _mapcount word")
                return "word", None
        elif active.bit_size == 16 and "s_mem" not in members:
            packed = self._packed(active, members)
            self.evidence.append(
                f"struct {slab_struct} has no s_mem, and a 16-bit active at offset"
                f" {active.bit_offset // 8}: Alternative 2"
            )
            return "packed", packed
        raise LayoutError(
            f"struct {slab_struct} is that of SLAB, but where it keeps the active count of a slab"
            f" is not known (encoding {encoding.name})"
        )

    def _packed(self, active: Field, members: Mapping[str, Field]) -> PackedActive:
        start = active.bit_offset & ~31
        others = [
            field
            for field in members.values()
            if field.bit_size == 16 and field.bit_offset & ~31 == start and field != active
        ]
        if len(others) != 1:
            raise LayoutError("the word of active in struct slab has no 16-bit s_mem offset")
        return PackedActive(start // 8, self._shift(active, start), self._shift(others[0], start))

    def _follows_head(self, encoding: Encoding, slab_type: Type) -> bool:
        # RFC v1 defines PageSlab() like the tests for all other types.
        if encoding in (RFC_V1, RFC_V1_LOW):
            return False
        # PageSlab() went to the head page until "slab: Reimplement page_slab()"
        # and the rest of its series (in v6.19). That leaves no trace in the
        # types, but struct freelist_counters is embedded in struct slab since
        # the same release.
        for type, field in parts(slab_type):
            if not field.name and getattr(type, "tag", None) == "freelist_counters":
                self.evidence.append(
                    "struct slab embeds struct freelist_counters:"
                    " PageSlab() does not go to the head page"
                )
                return False
        return True

    # Confirmation.

    def _check_types(self, encoding: Encoding) -> None:
        agreed = []
        for name, mask in encoding.types.items():
            key = f"PAGE_{name.upper()}_MAPCOUNT_VALUE"
            number = self._number(key)
            if number is None:
                continue
            word = encoding.set(encoding.idle, name)
            if encoding in (RFC_V1, RFC_V1_LOW):
                # RFC v1 left VMCOREINFO alone, which prints ~PG_buddy of the
                # 16-bit value.
                word = ~(mask >> 16) & WORD_MASK
            if number & WORD_MASK != word:
                self._contradiction(f"NUMBER({key})", number, f"{name} pages have {word:#x}")
            agreed.append(f"{key} {number}")
        if agreed:
            self.evidence.append(f"VMCOREINFO agrees: {', '.join(agreed)}")

    def _warn(self, encoding: Encoding, slab_flag: Optional[int], active: Optional[str]) -> None:
        if active == "page_type" and encoding is RFC_V3:
            self.notes.append(
                "the word of a slab is PAGE_SLAB_MAPCOUNT_VALUE only while no object is active:"
                " tools that compare the whole word with it miss every slab in use"
            )
        number = self._number("PG_slab")
        if slab_flag is None and number is not None:
            self.notes.append(
                f"VMCOREINFO has PG_slab {number}, which is a page type here:"
                " tools that test it as a page flag misread every page"
            )
        if "PG_slab" in self.pagetype:
            self.notes.append(
                "PG_slab in the debug info is a page type here:"
                " tools that test it as a page flag misread every page"
            )
