# SPDX-License-Identifier: LGPL-2.1-or-later
"""One made-up kernel for each known layout."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Mapping, Optional

# Flag numbers that matter here, in the order of the kernels of that time.
FLAGS_5_10 = {"PG_locked": 0, "PG_active": 5, "PG_workingset": 6, "PG_slab": 9, "PG_head": 16}
FLAGS_RFC = {"PG_locked": 0, "PG_active": 5, "PG_workingset": 6, "PG_head": 15}
FLAGS_6_8 = {"PG_locked": 0, "PG_head": 6, "PG_active": 8, "PG_workingset": 9, "PG_slab": 11}
FLAGS_6_12 = {"PG_locked": 0, "PG_head": 6, "PG_active": 8, "PG_workingset": 9}

PAGETYPE_6_10 = {
    "PG_buddy": 0x80,
    "PG_offline": 0x100,
    "PG_table": 0x200,
    "PG_guard": 0x400,
    "PG_hugetlb": 0x800,
    "PG_slab": 0x1000,
    "PAGE_TYPE_BASE": 0xF0000000,
    "PAGE_MAPCOUNT_RESERVE": -128,
}
PAGETYPE_6_11 = {
    "PG_buddy": 0x40000000,
    "PG_offline": 0x20000000,
    "PG_table": 0x10000000,
    "PG_guard": 0x08000000,
    "PG_hugetlb": 0x04000000,
    "PG_slab": 0x02000000,
    "PG_zsmalloc": 0x01000000,
    "PAGE_TYPE_BASE": 0x80000000,
    "PAGE_MAPCOUNT_RESERVE": -65536,
}
PAGETYPE_6_12 = {
    "PGTY_buddy": 0xF0,
    "PGTY_offline": 0xF1,
    "PGTY_table": 0xF2,
    "PGTY_guard": 0xF3,
    "PGTY_hugetlb": 0xF4,
    "PGTY_slab": 0xF5,
    "PGTY_zsmalloc": 0xF6,
    "PGTY_unaccepted": 0xF7,
    "PGTY_mapcount_underflow": 0xFF,
}
PAGETYPE_6_15 = {**PAGETYPE_6_12, "PGTY_large_kmalloc": 0xF8}

NUMBERS_5_10 = {
    "PAGE_BUDDY_MAPCOUNT_VALUE": -129,
    "PAGE_OFFLINE_MAPCOUNT_VALUE": -257,
    "HUGETLB_PAGE_DTOR": 2,
}
NUMBERS_6_9 = {
    "PAGE_BUDDY_MAPCOUNT_VALUE": -129,
    "PAGE_OFFLINE_MAPCOUNT_VALUE": -257,
    "PAGE_HUGETLB_MAPCOUNT_VALUE": -2049,
}
NUMBERS_RFC_V3 = {
    "PAGE_BUDDY_MAPCOUNT_VALUE": -65537,
    "PAGE_OFFLINE_MAPCOUNT_VALUE": -131073,
    "PAGE_SLAB_MAPCOUNT_VALUE": -1048577,
    "HUGETLB_PAGE_DTOR": 2,
}
NUMBERS_6_12 = {
    "PAGE_BUDDY_MAPCOUNT_VALUE": -268435456,
    "PAGE_OFFLINE_MAPCOUNT_VALUE": -251658240,
    "PAGE_HUGETLB_MAPCOUNT_VALUE": -201326592,
    "PAGE_SLAB_MAPCOUNT_VALUE": -184549376,
}


@dataclass(frozen=True)
class Spec:
    """What tells one layout from another."""

    encoding: str
    """The name of the encoding, on little endian; see ``Kernel.encoding``."""
    allocator: str
    slab: str
    """
    Slab members: ``page`` (in struct page), ``5.17`` and ``6.2`` (struct slab),
    ``6.10`` (``__page_type``), ``6.19`` (``freelist_counters``).
    """
    flags: Mapping[str, int]
    numbers: Mapping[str, int]
    pagetype: Mapping[str, int] = field(default_factory=dict)
    active: Optional[str] = None
    """Where detection must find SLAB's active count."""
    memcg: str = "memcg_data"
    """The memcg member of struct page."""
    compound: str = "compound_head"
    """``compound_head``, ``compound_info``, or ``mask`` (compound_info holds a mask)."""
    halves: bool = False
    """RFC v1: 16-bit members active and page_type."""
    page_type_first: bool = False
    """RFC v1 with page_type before active in memory."""
    subsections: bool = True
    dtor: str = "page"
    """Structure that has the destructor of a compound page: ``page`` or ``folio``."""
    memdesc: bool = False
    """Whether page->flags is a memdesc_flags_t."""


_A = Spec("page-flag-5.3", "SLUB", "page", FLAGS_5_10, NUMBERS_5_10, memcg="mem_cgroup")
_C = Spec("page-flag-5.11", "SLUB", "6.2", FLAGS_5_10, NUMBERS_5_10)
_R = Spec("rfc-v3", "SLUB", "6.2", FLAGS_RFC, NUMBERS_RFC_V3)
_G = Spec("top-byte", "SLUB", "6.10", FLAGS_6_12, NUMBERS_6_12, PAGETYPE_6_12)
_I = replace(_G, pagetype=PAGETYPE_6_15, slab="6.19", memdesc=True)
_V1 = Spec(
    "rfc-v1", "SLUB", "5.17", FLAGS_RFC,
    {"PAGE_BUDDY_MAPCOUNT_VALUE": -3, "PAGE_OFFLINE_MAPCOUNT_VALUE": -5, "PG_slab": 32},
    halves=True,
)  # fmt: skip

SPECS: Mapping[str, Spec] = {
    "4.18-slub": replace(
        _A, encoding="page-flag-4.18", subsections=False,
        numbers={"PAGE_BUDDY_MAPCOUNT_VALUE": -129, "HUGETLB_PAGE_DTOR": 2},
    ),
    "5.1-slub": replace(_A, encoding="page-flag-5.1", subsections=False),
    "5.10-slub": _A,
    "5.10-slab": replace(_A, allocator="SLAB", active="word"),
    "5.10-slob": replace(_A, allocator="SLOB"),
    "5.15-slab": replace(
        _A, allocator="SLAB", active="word", encoding="page-flag-5.11", memcg="memcg_data"
    ),
    "6.1-slub": replace(_C, slab="5.17"),
    "6.1-slab": replace(_C, slab="5.17", allocator="SLAB", active="word"),
    "6.2-slub": _C,
    "6.2-slab": replace(_C, allocator="SLAB", active="word"),
    "6.3-slub": replace(_C, dtor="folio"),
    "6.8-slub": replace(_C, flags={**FLAGS_6_8, "PG_hugetlb": 8}),
    "6.9-slub": replace(_C, encoding="page-flag-6.9", flags=FLAGS_6_8, numbers=NUMBERS_6_9),
    "rfc-v1-slab": replace(_V1, allocator="SLAB", active="page_type"),
    "rfc-v1-slub": _V1,
    "rfc-v2-slab": replace(_R, allocator="SLAB", slab="5.17", active="page_type"),
    "6.1-slab-rfc-v3": replace(_R, allocator="SLAB", slab="5.17", active="page_type"),
    "6.2-slab-rfc-v3": replace(_R, allocator="SLAB", active="page_type"),
    "6.2-slub-rfc-v3": _R,
    "alternative-1-slub": replace(
        _C, encoding="alternative-1-slub", flags=FLAGS_RFC,
        numbers={**NUMBERS_5_10, "PAGE_SLAB_MAPCOUNT_VALUE": -2049},
    ),
    "alternative-1-slab": replace(_C, allocator="SLAB", active="word"),
    "alternative-2-slab": replace(
        _R, encoding="alternative-2", allocator="SLAB", active="packed"
    ),
    "6.10-rc1-slub": replace(
        _C, encoding="inverted-6.10", slab="6.10", flags=FLAGS_6_12,
        numbers={**NUMBERS_6_9, "PAGE_SLAB_MAPCOUNT_VALUE": -4097},
    ),
    "6.10-slub": replace(
        _C, encoding="inverted-6.10", slab="6.10", flags=FLAGS_6_12,
        numbers={**NUMBERS_6_9, "PAGE_SLAB_MAPCOUNT_VALUE": -4097}, pagetype=PAGETYPE_6_10,
    ),
    "6.11-slub": replace(
        _C, encoding="inverted-6.11", slab="6.10", flags=FLAGS_6_12, pagetype=PAGETYPE_6_11,
        numbers={
            "PAGE_BUDDY_MAPCOUNT_VALUE": -1073741825,
            "PAGE_OFFLINE_MAPCOUNT_VALUE": -536870913,
            "PAGE_HUGETLB_MAPCOUNT_VALUE": -67108865,
            "PAGE_SLAB_MAPCOUNT_VALUE": -33554433,
        },
    ),
    "6.12-slub": _G,
    "6.18-slub": replace(_G, pagetype=PAGETYPE_6_15, memdesc=True),
    "6.19-slub": _I,
    "7.0-slub": _I,
    "7.2-slub": replace(_I, compound="mask"),
    "7.3-slub": replace(
        _I, compound="compound_info",
        numbers={**NUMBERS_6_12, "PAGE_UNACCEPTED_MAPCOUNT_VALUE": -150994944},
    ),
}  # fmt: skip
"""One entry a layout; tests parametrise over the names."""
