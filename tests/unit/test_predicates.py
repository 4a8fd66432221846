# SPDX-License-Identifier: LGPL-2.1-or-later
"""The kernel's tests for pages, on made-up kernels of every layout."""

from __future__ import annotations

from dataclasses import replace
from typing import Callable

import pytest
from drgn import FaultError, Object, cast
from drgn.helpers.linux.mm import compound_head

from drgn_slabtype.errors import LayoutError
from drgn_slabtype.machine import machine, page_type_layout
from drgn_slabtype.pages import predicates
from drgn_slabtype.pages.counters import slab_active_state, slab_get_active, slab_get_inuse
from drgn_slabtype.pages.predicates import (
    PageBuddy,
    PageGuard,
    PageHuge,
    PageLargeKmalloc,
    PageOffline,
    PageSlab,
    PageTable,
    PageUnaccepted,
    PageZsmalloc,
    folio_test_hugetlb,
    folio_test_slab,
    page_has_type,
    page_type_has_type,
    page_type_text,
    page_type_word,
    page_types,
)
from drgn_slabtype.pagetype.encoding import ActiveState
from tests.synthetic import SPECS, Kernel, make_kernel

# Where the test of a folio has another name than the type.
FOLIO = {"table": "pgtable"}
MACHINES = [(True, 64), (False, 64), (True, 32), (False, 32)]
SLAB = [name for name, spec in SPECS.items() if spec.allocator == "SLAB"]
SLUB = [name for name, spec in SPECS.items() if spec.allocator == "SLUB"]
SIMPLE = {
    "buddy": PageBuddy,
    "offline": PageOffline,
    "table": PageTable,
    "guard": PageGuard,
    "zsmalloc": PageZsmalloc,
    "unaccepted": PageUnaccepted,
    "large_kmalloc": PageLargeKmalloc,
}


def as_folio(page: Object) -> Object:
    return cast("struct folio *", page)


@pytest.mark.parametrize(("little", "bits"), MACHINES)
@pytest.mark.parametrize("name", SPECS)
def test_slab_heads_and_tails(name: str, little: bool, bits: int) -> None:
    kernel = make_kernel(name, little, bits)
    kernel.make_slab(8, order=2, active=3)
    kernel.make_slab(20, active=3)
    tails_too = page_type_layout(kernel.prog).page_slab_follows_head
    assert tails_too == (SPECS[name].slab != "6.19" and not SPECS[name].halves)
    found = {pfn for pfn in range(kernel.num_pages) if PageSlab(kernel.page(pfn))}
    assert found == {8, 20} | ({9, 10, 11} if tails_too else set())
    marked = {pfn for pfn in range(kernel.num_pages) if folio_test_slab(as_folio(kernel.page(pfn)))}
    assert marked == {8, 20}
    assert [compound_head(kernel.page(pfn)) for pfn in (8, 9, 11, 12, 20)] == [
        kernel.page(pfn) for pfn in (8, 8, 8, 12, 20)
    ]


@pytest.mark.parametrize("type", SIMPLE)
@pytest.mark.parametrize("name", SPECS)
def test_types_without_head(name: str, type: str) -> None:
    kernel = make_kernel(name)
    encoding = page_type_layout(kernel.prog).encoding
    test = SIMPLE[type]
    folio_test: Callable[[Object], bool] = getattr(
        predicates, f"folio_test_{FOLIO.get(type, type)}"
    )
    if type not in encoding.types:
        with pytest.raises(LayoutError, match=f"no page type {type}"):
            test(kernel.page(4))
        return
    kernel.make_compound(4, 1)
    kernel.write_page(4, word=encoding.set(encoding.idle, type))
    assert [test(kernel.page(pfn)) for pfn in range(3, 7)] == [False, True, False, False]
    assert folio_test(as_folio(kernel.page(4)))
    assert not folio_test(as_folio(kernel.page(6)))
    assert page_types(kernel.page(4)) == (type,)
    assert page_has_type(kernel.page(4))
    assert not PageSlab(kernel.page(4))


def test_type_is_not_confused_with_another() -> None:
    for name in SPECS:
        kernel = make_kernel(name)
        encoding = page_type_layout(kernel.prog).encoding
        for set_type in encoding.types:
            kernel.write_page(1, word=encoding.set(encoding.idle, set_type))
            for type, test in SIMPLE.items():
                if type in encoding.types:
                    assert test(kernel.page(1)) is (type == set_type)


def make_hugetlb(kernel: Kernel, pfn: int, order: int) -> None:
    kernel.make_compound(pfn, order)
    encoding = page_type_layout(kernel.prog).encoding
    second = kernel.page(pfn + 1)
    if "hugetlb" in encoding.types:
        kernel.write_page(pfn, word=encoding.set(encoding.idle, "hugetlb"))
    elif "PG_hugetlb" in kernel.spec.flags:
        kernel.write_page(pfn + 1, flags=1 << kernel.spec.flags["PG_hugetlb"])
    elif kernel.spec.dtor == "folio":
        kernel.poke(as_folio(kernel.page(pfn))._folio_dtor, 2)
    else:
        kernel.poke(second.compound_dtor, 2)


@pytest.mark.parametrize("name", SPECS)
def test_hugetlb_heads_and_tails(name: str) -> None:
    kernel = make_kernel(name)
    make_hugetlb(kernel, 16, 2)
    kernel.make_compound(24, 2)
    assert [pfn for pfn in range(kernel.num_pages) if PageHuge(kernel.page(pfn))] == [
        16,
        17,
        18,
        19,
    ]
    assert folio_test_hugetlb(as_folio(kernel.page(16)))
    assert not folio_test_hugetlb(as_folio(kernel.page(24)))


def test_hugetlb_without_its_config_is_false() -> None:
    kernel = make_kernel("6.2-slub")
    kernel.types.enum("compound_dtor_id", {"NULL_COMPOUND_DTOR": 0})
    make_hugetlb(kernel, 16, 2)
    assert not PageHuge(kernel.page(16))


@pytest.mark.parametrize("name", [n for n, spec in SPECS.items() if "PG_slab" in spec.flags])
def test_uninitialised_page_is_no_slab(name: str) -> None:
    kernel = make_kernel(name)
    address = kernel.page(5).value_()
    kernel.write(address, b"\xff" * (kernel.page(6).value_() - address))
    assert not PageSlab(kernel.page(5))
    assert not folio_test_slab(kernel.page(5))
    assert not PageHuge(kernel.page(5))


def test_unreadable_page_is_a_fault() -> None:
    kernel = make_kernel("6.12-slub")
    with pytest.raises(FaultError):
        PageSlab(kernel.page(kernel.num_pages + 1000))


# The word.


def test_word_and_text() -> None:
    kernel = make_kernel("6.1-slab-rfc-v3")
    kernel.make_slab(2, active=5)
    assert page_type_word(kernel.page(2)) == 0xFFEFFFFA
    assert page_type_word(kernel.slab(2)) == 0xFFEFFFFA
    assert page_type_text(kernel.page(2)) == "0xffeffffa(slab|0x5)"
    assert page_types(kernel.page(2)) == ("slab",)
    assert page_types(kernel.page(3)) == ()


def test_slab_flag_is_among_the_types() -> None:
    kernel = make_kernel("6.1-slab")
    kernel.make_slab(2, active=5)
    assert page_types(kernel.page(2)) == ("slab",)
    assert not page_has_type(kernel.page(2))


def test_signed_words_are_taken() -> None:
    prog = make_kernel("6.12-slub").prog
    assert page_type_has_type(prog, -184549376)
    assert not page_type_has_type(prog, -1)


# The counts.


@pytest.mark.parametrize(("little", "bits"), MACHINES)
@pytest.mark.parametrize("name", SLAB)
@pytest.mark.parametrize("active", [0, 1, 5, 255, 65535])
def test_active_count(name: str, little: bool, bits: int, active: int) -> None:
    kernel = make_kernel(name, little, bits)
    kernel.make_slab(8, order=1, active=active)
    assert slab_get_active(kernel.slab(8)) == active
    assert slab_get_active(kernel.page(8)) == active
    assert slab_active_state(kernel.slab(8)) is ActiveState.OK
    assert PageSlab(kernel.page(8))


@pytest.mark.parametrize(
    ("word", "active", "state"),
    [
        (0xFFEEFFFF, 65536, ActiveState.OVERFLOW),
        (0xFFF00000, 1048575, ActiveState.UNDERFLOW),
        (0xFFFFFFFF, 0, ActiveState.NONE),
    ],
)
def test_rfc_v3_active_out_of_range(word: int, active: int, state: ActiveState) -> None:
    kernel = make_kernel("6.2-slab-rfc-v3")
    kernel.write_page(8, word=word)
    assert slab_get_active(kernel.slab(8)) == active
    assert slab_active_state(kernel.slab(8)) is state


@pytest.mark.parametrize(("little", "bits"), MACHINES)
@pytest.mark.parametrize("name", SLUB)
def test_inuse_count(name: str, little: bool, bits: int) -> None:
    kernel = make_kernel(name, little, bits)
    kernel.make_slab(8)
    slab = kernel.slab(8)
    kernel.poke(slab.inuse, 17)
    kernel.poke(slab.objects, 30)
    kernel.poke(slab.frozen, 1)
    assert slab_get_inuse(slab) == 17
    assert slab_get_inuse(kernel.page(8)) == 17


def test_count_of_the_other_allocator_is_an_error() -> None:
    slub, slab = make_kernel("6.12-slub"), make_kernel("6.1-slab")
    for ask in (slab_get_active, slab_active_state):
        with pytest.raises(LayoutError, match="SLUB have no active count"):
            ask(slub.slab(1))
    with pytest.raises(LayoutError, match="SLAB have no inuse count"):
        slab_get_inuse(slab.slab(1))


def test_alternative_2_keeps_the_offset_apart() -> None:
    for little, bits in MACHINES:
        kernel = make_kernel("alternative-2-slab", little, bits)
        kernel.make_slab(8, active=12)
        kernel.poke(kernel.slab(8).s_mem_offset, 0x1C0)
        packed = page_type_layout(kernel.prog).packed
        assert packed is not None
        word = kernel.prog.read_u32(kernel.slab(8).value_() + packed.offset)
        assert packed.active(word) == 12
        assert packed.s_mem_offset(word) == 0x1C0
        assert slab_get_active(kernel.slab(8)) == 12


def test_every_name_is_exported() -> None:
    for name in predicates.__all__:
        assert callable(getattr(predicates, name))


def test_layout_is_decided_once() -> None:
    kernel = make_kernel(replace(SPECS["6.12-slub"]))
    layout = page_type_layout(kernel.prog)
    PageSlab(kernel.page(1))
    assert page_type_layout(kernel.prog) is layout
    assert machine(kernel.prog).layout is machine(kernel.prog).layout
