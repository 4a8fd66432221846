# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which layout is recognised, on a made-up program for each of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Mapping

import numpy as np
import pytest
from drgn import Architecture, Platform, PlatformFlags, Program

from drgn_slabtype.errors import LayoutError, MissingDebugInfoError, UnsupportedError
from drgn_slabtype.machine import machine, page_type_layout
from drgn_slabtype.pagetype.encoding import ENCODINGS, RFC_V1, PackedActive
from drgn_slabtype.pagetype.sources import vmcoreinfo, vmcoreinfo_number
from tests.synthetic import SPECS, Kernel, Spec, make_kernel

MACHINES = [(True, 64), (False, 64), (True, 32), (False, 32)]


def detect(layout: str, **changes: Any) -> Any:
    return page_type_layout(make_kernel(replace(SPECS[layout], **changes)).prog)


def numbers(layout: str, **changes: Any) -> Mapping[str, int]:
    merged = {**SPECS[layout].numbers, **changes}
    return {name: value for name, value in merged.items() if value is not None}


@pytest.mark.parametrize(("little", "bits"), MACHINES)
@pytest.mark.parametrize("name", SPECS)
def test_layout_is_recognised(name: str, little: bool, bits: int) -> None:
    spec, kernel = SPECS[name], make_kernel(name, little, bits)
    layout = page_type_layout(kernel.prog)
    assert layout.encoding.name == kernel.encoding
    assert layout.allocator == spec.allocator
    assert layout.slab_struct == ("page" if spec.slab == "page" else "slab")
    assert layout.active == spec.active
    assert layout.slab_flag == spec.flags.get("PG_slab")
    assert layout.head_flag == spec.flags["PG_head"]
    assert layout.page_slab_follows_head == (spec.slab != "6.19" and not spec.halves)
    assert layout.flags_mask == (1 << bits) - 1
    assert layout.evidence
    if (little, bits) == (True, 64):
        assert layout.word_offset == 48


def test_known_types_give_the_known_encoding() -> None:
    for name, spec in SPECS.items():
        encoding = page_type_layout(make_kernel(spec).prog).encoding
        known = ENCODINGS[spec.encoding]
        if name in ("6.12-slub", "6.1-slab-rfc-v3"):
            continue
        assert encoding == known
    # Linux 6.12 has no large_kmalloc yet.
    assert "large_kmalloc" not in detect("6.12-slub").encoding.types
    assert detect("6.12-slub").encoding.conflict(0xF8000000)
    assert not detect("6.18-slub").encoding.conflict(0xF8000000)


def test_type_of_a_newer_kernel_is_kept() -> None:
    layout = detect("7.2-slub", pagetype={**SPECS["7.2-slub"].pagetype, "PGTY_foo": 0xF9})
    assert layout.encoding.types_of(0xF9000000) == ("foo",)


def test_unknown_inverted_type_is_kept() -> None:
    pagetype = {**SPECS["6.10-slub"].pagetype, "PG_foo": 0x2000}
    encoding = detect("6.10-slub", pagetype=pagetype).encoding
    assert encoding.name == "inverted-6.10"
    assert encoding.types_of(0xFFFFDFFF) == ("foo",)
    assert not encoding.conflict(0xFFFFDFFF)


def test_evidence_names_what_was_used() -> None:
    evidence = " / ".join(detect("6.2-slab-rfc-v3").evidence)
    assert "PAGE_SLAB_MAPCOUNT_VALUE -1048577" in evidence
    assert "PAGE_BUDDY_MAPCOUNT_VALUE -65537" in evidence
    assert "struct slab has page_type and no active" in evidence
    assert "enum pagetype has PGTY_slab = 0xf5" in " / ".join(detect("7.2-slub").evidence)
    assert "enum pageflags has PG_slab = 9" in " / ".join(detect("5.10-slab").evidence)


def test_notes_tell_what_misleads_other_tools() -> None:
    assert "miss every slab in use" in " / ".join(detect("6.2-slab-rfc-v3").notes)
    assert detect("6.2-slub-rfc-v3").notes == ()
    assert "PG_slab 32" in " / ".join(detect("rfc-v1-slab").notes)
    assert "PG_slab in the debug info" in " / ".join(detect("6.11-slub").notes)
    assert detect("7.2-slub").notes == ()
    assert detect("6.1-slub").notes == ()


# Evidence that is not there.


@pytest.mark.parametrize("name", ["5.10-slab", "6.1-slub", "6.10-slub", "6.12-slub", "7.2-slub"])
def test_debug_info_is_enough_without_vmcoreinfo_numbers(name: str) -> None:
    layout = detect(name, numbers={})
    assert layout.encoding.name == SPECS[name].encoding


@pytest.mark.parametrize("name", ["6.2-slab-rfc-v3", "alternative-1-slub", "6.10-rc1-slub"])
def test_macros_need_vmcoreinfo(name: str) -> None:
    with pytest.raises(LayoutError, match=r"no slab mark.*has no PAGE_SLAB_MAPCOUNT_VALUE"):
        detect(name, numbers={})


def test_no_debug_info() -> None:
    platform = Platform(
        Architecture.X86_64, PlatformFlags.IS_64_BIT | PlatformFlags.IS_LITTLE_ENDIAN
    )
    with pytest.raises(MissingDebugInfoError, match="no debug info for struct page"):
        page_type_layout(Program(platform))


def remove(spec: Spec, type: str) -> Kernel:
    kernel = make_kernel(spec)
    del kernel.types.known[type]
    return kernel


def test_no_cache_type() -> None:
    with pytest.raises(MissingDebugInfoError, match="no debug info for struct kmem_cache"):
        page_type_layout(remove(SPECS["6.1-slub"], "struct kmem_cache").prog)


def test_no_page_flags() -> None:
    with pytest.raises(MissingDebugInfoError, match="no debug info for enum pageflags"):
        page_type_layout(remove(SPECS["6.1-slub"], "enum pageflags").prog)


def test_head_flag_from_vmcoreinfo() -> None:
    layout = page_type_layout(remove(SPECS["6.12-slub"], "enum pageflags").prog)
    assert layout.head_flag == 6
    assert "VMCOREINFO has PG_head_mask 0x40" in layout.evidence


def test_memcg_off_leaves_the_numbering_open_and_says_so() -> None:
    layout = detect("5.10-slub", memcg="unused")
    assert layout.encoding.name == "page-flag-5.3"
    assert any("is assumed" in note for note in layout.notes)


def test_hugetlb_type_in_a_stable_kernel_of_the_flag_era() -> None:
    layout = detect("6.2-slub", numbers=numbers("6.2-slub", PAGE_HUGETLB_MAPCOUNT_VALUE=-2049))
    assert layout.encoding.name == "page-flag-6.9"


# Contradictions and unknown layouts are refused.


@pytest.mark.parametrize(
    ("name", "key", "value", "match"),
    [
        ("6.1-slab", "PAGE_BUDDY_MAPCOUNT_VALUE", -65537, "buddy pages have 0xffffff7f"),
        ("6.1-slab", "PAGE_SLAB_MAPCOUNT_VALUE", -1048577, "but VMCOREINFO has PAGE_SLAB"),
        ("6.2-slab-rfc-v3", "PAGE_BUDDY_MAPCOUNT_VALUE", -129, "buddy pages have 0xfffeffff"),
        ("6.2-slab-rfc-v3", "PAGE_SLAB_MAPCOUNT_VALUE", -4194305, "no known layout"),
        ("6.2-slab-rfc-v3", "PAGE_SLAB_MAPCOUNT_VALUE", -4097, "active count.*not known"),
        ("6.2-slub-rfc-v3", "PAGE_SLAB_MAPCOUNT_VALUE", 0, "no known layout"),
        ("6.12-slub", "PAGE_SLAB_MAPCOUNT_VALUE", -4097, "slab pages have 0xf5000000"),
        ("6.10-slub", "PAGE_SLAB_MAPCOUNT_VALUE", -33554433, "slab pages have 0xffffefff"),
        ("rfc-v1-slab", "PAGE_BUDDY_MAPCOUNT_VALUE", -129, "buddy pages have 0xfffffffd"),
    ],
)
def test_contradictions_are_refused(name: str, key: str, value: int, match: str) -> None:
    with pytest.raises(LayoutError, match=match):
        detect(name, numbers=numbers(name, **{key: value}))


def test_slab_flag_of_another_kernel() -> None:
    class Other(Kernel):
        def vmcoreinfo(self) -> str:
            return super().vmcoreinfo().replace("NUMBER(PG_slab)=9", "NUMBER(PG_slab)=11")

    with pytest.raises(LayoutError, match=r"NUMBER\(PG_slab\) = 11, but PG_slab is flag 9"):
        page_type_layout(Other(SPECS["6.1-slub"]).prog)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("SIZE(page)=64", "SIZE(page)=56", r"SIZE\(page\) = 56, but the debug info says 64"),
        ("OFFSET(page._mapcount)=48", "OFFSET(page._mapcount)=40", "debug info says 48"),
        ("NUMBER(PG_head_mask)=65536", "NUMBER(PG_head_mask)=64", "PG_head is flag 16"),
        ("NUMBER(PG_slab)=9", "NUMBER(PG_slab)=nine", "'nine', which is no number"),
    ],
)
def test_vmcoreinfo_of_another_kernel(old: str, new: str, match: str) -> None:
    class Other(Kernel):
        def vmcoreinfo(self) -> str:
            assert old in super().vmcoreinfo()
            return super().vmcoreinfo().replace(old, new)

    with pytest.raises(LayoutError, match=match):
        page_type_layout(Other(SPECS["6.1-slub"]).prog)


def test_unknown_base_is_refused() -> None:
    pagetype = {**SPECS["6.10-slub"].pagetype, "PAGE_TYPE_BASE": 0xE0000000}
    with pytest.raises(LayoutError, match="PAGE_TYPE_BASE = 0xe0000000"):
        detect("6.10-slub", pagetype=pagetype)


def test_unknown_allocator_is_refused() -> None:
    kernel = make_kernel("6.1-slub")
    kernel.types.struct("kmem_cache", ("shrinker", kernel.types.uint))
    with pytest.raises(LayoutError, match="neither that of SLAB, nor of SLUB, nor of SLOB"):
        page_type_layout(kernel.prog)


def test_kernel_before_4_18_is_unsupported() -> None:
    kernel = make_kernel("5.10-slub")
    t = kernel.types
    t.struct(
        "page", ("flags", t.ulong), ("rest", t.array(t.ulong, 5)),
        ("_mapcount", kernel.atomic), ("_refcount", kernel.atomic), ("mem_cgroup", t.ulong),
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"before Linux 4\.18"):
        page_type_layout(kernel.prog)


def test_slab_without_a_count_is_refused() -> None:
    kernel = make_kernel("6.1-slab")
    t = kernel.types
    t.struct("slab", ("__page_flags", t.ulong), ("slab_cache", t.pointer), ("s_mem", t.pointer))
    with pytest.raises(LayoutError, match="active count of a slab is not known"):
        page_type_layout(kernel.prog)


def test_alternative_2_without_an_offset_is_refused() -> None:
    kernel = make_kernel("alternative-2-slab")
    t = kernel.types
    t.struct("slab", ("__page_flags", t.ulong), ("slab_cache", t.pointer), ("active", t.u16))
    with pytest.raises(LayoutError, match="no 16-bit s_mem offset"):
        page_type_layout(kernel.prog)


# Details of single layouts.


@pytest.mark.parametrize(
    ("little", "bits", "packed"),
    [
        (True, 64, PackedActive(40, 0, 16)),
        (False, 64, PackedActive(40, 16, 0)),
        (True, 32, PackedActive(20, 0, 16)),
        (False, 32, PackedActive(20, 16, 0)),
    ],
)
def test_alternative_2_fields(little: bool, bits: int, packed: PackedActive) -> None:
    assert page_type_layout(make_kernel("alternative-2-slab", little, bits).prog).packed == packed


@pytest.mark.parametrize("little", [True, False])
def test_alternative_2_as_bit_fields(little: bool) -> None:
    kernel = make_kernel("alternative-2-slab", little)
    t = kernel.types
    t.struct(
        "slab", ("__page_flags", t.ulong), ("slab_cache", t.pointer),
        ("slab_list", kernel.list_head), ("freelist", t.pointer),
        ("active", t.uint, 16), ("s_mem_offset", t.uint, 16),
    )  # fmt: skip
    layout = page_type_layout(kernel.prog)
    assert layout.packed == (PackedActive(40, 0, 16) if little else PackedActive(40, 16, 0))


def test_rfc_v1_as_meant_on_big_endian() -> None:
    spec = replace(SPECS["rfc-v1-slab"], page_type_first=True)
    assert page_type_layout(make_kernel(spec, little=False).prog).encoding is RFC_V1


def test_is_slab_of_flags_and_words() -> None:
    flags = np.array([0, 1 << 9, 1 << 9 | 1 << 16, (1 << 64) - 1], np.uint64)
    words = np.array([0xFFEFFFFF, 3, 0xFFFFFFFF, 0xFFFFFFFF], np.uint32)
    by_flag, by_word = detect("6.1-slab"), detect("6.1-slab-rfc-v3")
    assert by_flag.is_slab(flags, words).tolist() == [False, True, True, False]
    assert by_word.is_slab(flags, words).tolist() == [True, False, False, False]
    for layout in (by_flag, by_word):
        single = [layout.is_slab(int(f), int(w)) for f, w in zip(flags, words)]
        assert single == layout.is_slab(flags, words).tolist()


def test_vmcoreinfo_is_read_once() -> None:
    prog = make_kernel("6.12-slub").prog
    assert vmcoreinfo(prog)["OSRELEASE"] == "0.0.0-synthetic"
    assert machine(prog).vmcoreinfo is machine(prog).vmcoreinfo
    assert vmcoreinfo_number(vmcoreinfo(prog), "PAGE_SLAB_MAPCOUNT_VALUE") == -184549376
    assert vmcoreinfo_number(vmcoreinfo(prog), "PG_slab") is None
