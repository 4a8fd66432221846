# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which of the known encodings a kernel has."""

from __future__ import annotations

from dataclasses import replace
from typing import Optional, Tuple

from ..errors import LayoutError, MissingDebugInfoError
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
    top_byte,
)
from .evidence import Evidence
from .sources import fields
from .word import WORD_MASK


def find_encoding(told: Evidence) -> Tuple[Encoding, Optional[int]]:
    """
    Return the encoding of a kernel, and the bit of ``PG_slab`` if slab is a page flag.

    :raises LayoutError: if it is none that is known.
    """
    halves = _split_halves(told)
    if halves is not None:
        return halves, None
    if "PGTY_slab" in told.pagetype:
        return _top_byte(told), None
    if "PG_slab" in told.pagetype and "PAGE_TYPE_BASE" in told.pagetype:
        return _inverted(told), None
    # Only here PG_slab is a bit number: in enum pagetype it is a mask.
    if "PG_slab" in told.pageflags:
        return _page_flag(told)
    return _macros(told), None


def _split_halves(told: Evidence) -> Optional[Encoding]:
    # "[RFC PATCH] mm: move PG_slab flag to page_type", 2022-09-19.
    types, active = told.page["page_type"], told.page.get("active")
    if types.bit_size != 16 or active is None or active.bit_size != 16:
        return None
    low = told.shift(types, told.page["_mapcount"].bit_offset) == 0
    told.evidence.append(
        "struct page has 16-bit members active and page_type, the latter in the"
        f" {'lower' if low else 'upper'} half of the word: RFC v1"
    )
    return RFC_V1_LOW if low else RFC_V1


def _top_byte(told: Evidence) -> Encoding:
    # Since Linux kernel commit 4ffca5a96678 ("mm: support only one
    # page_type per page") (in v6.12).
    told.evidence.append(
        f"enum pagetype has PGTY_slab = {told.pagetype['PGTY_slab']:#x}:"
        " the page type is the top byte of the word"
    )
    types = {
        name[len("PGTY_") :]: value
        for name, value in told.pagetype.items()
        if name.startswith("PGTY_") and name != "PGTY_mapcount_underflow"
    }
    return TOP_BYTE if types == TOP_BYTE.types else top_byte(types)


def _inverted(told: Evidence) -> Encoding:
    # Since Linux kernel commits 46df8e73a4a3 ("mm: free up PG_slab") and
    # ff202303c398 ("mm: convert page type macros to enum") (in v6.10), the
    # types are enumerators. 8db00ad56461 ("mm: allow reuse of the lower 16
    # bit of the page type with an actual type") (in v6.11) moved them up.
    base = told.pagetype["PAGE_TYPE_BASE"] & WORD_MASK
    types = {
        name[len("PG_") :]: value & WORD_MASK
        for name, value in told.pagetype.items()
        if name.startswith("PG_")
    }
    told.evidence.append(
        f"enum pagetype has PG_slab = {types['slab']:#x} and PAGE_TYPE_BASE = {base:#x}:"
        " page types are bits of the word, clear when set"
    )
    low_mask = ~told.pagetype.get("PAGE_MAPCOUNT_RESERVE", -128) & WORD_MASK
    for known in (INVERTED_6_10, INVERTED_6_11):
        if (base, low_mask) == (known.base, known.low_mask):
            return known if types == known.types else replace(known, types=types)
    raise LayoutError(f"enum pagetype has PAGE_TYPE_BASE = {base:#x}, which is not a known layout")


def _page_flag(told: Evidence) -> Tuple[Encoding, int]:
    # Before Linux kernel commit 46df8e73a4a3 ("mm: free up PG_slab") (in
    # v6.10), slab is a page flag.
    flag = told.pageflags["PG_slab"]
    number = told.number("PG_slab")
    if number is not None and number != flag:
        told.contradiction("NUMBER(PG_slab)", number, f"PG_slab is flag {flag}")
    if told.number("PAGE_SLAB_MAPCOUNT_VALUE") is not None:
        raise LayoutError(
            f"PG_slab is page flag {flag} in enum pageflags,"
            " but VMCOREINFO has PAGE_SLAB_MAPCOUNT_VALUE"
        )
    told.evidence.append(f"enum pageflags has PG_slab = {flag}: slab is a page flag")
    return _numbering(told), flag


def _numbering(told: Evidence) -> Encoding:
    # The types beside slab are macros while slab is a flag. What is known
    # of the numbering comes from VMCOREINFO and from members that changed
    # in the same commits or releases.
    if told.number("PAGE_HUGETLB_MAPCOUNT_VALUE") is not None:
        told.evidence.append("VMCOREINFO has PAGE_HUGETLB_MAPCOUNT_VALUE: numbering of 6.9")
        return PAGE_FLAG_6_9
    # Linux kernel commit bcfe06bf2622 ("mm: memcontrol: Use helpers to read
    # page's memcg data") (in v5.11) belongs to the series that removed the
    # type kmemcg.
    _, slab_type = told.slab_struct()
    if "memcg_data" in {**told.page, **fields(slab_type)} or slab_type != told.page_type:
        told.evidence.append("struct page or slab is that of 5.11 or later: numbering of 5.11")
        return PAGE_FLAG_5_11
    if "mem_cgroup" not in told.page:
        told.notes.append(
            "nothing tells the numbering of page tables and guard pages;"
            " that of 5.3 to 5.10 is assumed"
        )
        return PAGE_FLAG_5_3
    told.evidence.append("struct page has mem_cgroup: numbering before 5.11")
    if _has_subsections(told):
        told.evidence.append("there is a struct mem_section_usage: numbering of 5.3")
        return PAGE_FLAG_5_3
    # PAGE_OFFLINE_MAPCOUNT_VALUE is exported beside HUGETLB_PAGE_DTOR.
    offline, hugetlb = "PAGE_OFFLINE_MAPCOUNT_VALUE", "HUGETLB_PAGE_DTOR"
    if told.number(offline) is None and told.number(hugetlb) is not None:
        told.evidence.append(f"VMCOREINFO has no {offline}: numbering of 4.18")
        return PAGE_FLAG_4_18
    told.evidence.append("there is no struct mem_section_usage: numbering of 5.1")
    return PAGE_FLAG_5_1


def _has_subsections(told: Evidence) -> bool:
    # Since Linux kernel commit f1eca35a0dc7 ("mm/sparsemem: introduce
    # struct mem_section_usage") (in v5.3).
    try:
        told.prog.type("struct mem_section_usage")
    except LookupError:
        return False
    return True


def _macros(told: Evidence) -> Encoding:
    # Slab is a page type, but no enumerator says so: RFC v2 and v3, the
    # alternatives discussed with them, and early release candidates of
    # 6.10. All export the word of a slab.
    key = "PAGE_SLAB_MAPCOUNT_VALUE"
    number = told.number(key)
    if number is None:
        if not told.pageflags:
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
            told.evidence.append(
                f"VMCOREINFO has {key} {number} ({word:#x}), and there is no enumerator"
                f" for slab: the bits are those of {encoding.name}"
            )
            return encoding
    raise LayoutError(f"VMCOREINFO has {key} {number} ({word:#x}), which is no known layout")
