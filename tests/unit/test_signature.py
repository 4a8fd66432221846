# SPDX-License-Identifier: LGPL-2.1-or-later
"""Signatures have nothing in them that differs from dump to dump."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drgn_slabtype.answers.signs import _byte, _difference
from drgn_slabtype.findings import Finding
from drgn_slabtype.report.members import document
from drgn_slabtype.signature import (
    Signature,
    callers,
    first_caller,
    from_caller,
    kind_of_place,
    size_class,
)


@pytest.mark.parametrize(
    ("cache", "told"),
    [
        ("kmalloc-64", "kmalloc-64"),
        ("kmalloc-rnd-07-64", "kmalloc-64"),
        ("kmalloc-part-07-64", "kmalloc-64"),
        ("kmalloc-cg-64", "kmalloc-cg-64"),
        ("dentry(123:user.slice)", "dentry"),
        ("(cache 0xffff888003a1c480)", "(no name)"),
        ("nf_conntrack_ffff888003a1c480", "nf_conntrack_#"),
        ("ext4_groupinfo_4k", "ext4_groupinfo_4k"),
    ],
)
def test_cache_is_told_without_what_a_boot_gives_it(cache: str, told: str) -> None:
    assert size_class(cache) == told


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("freelist", "freelist"),
        ("main sheaf of CPU 3", "main sheaf"),
        ("cpu array of CPU 12", "cpu array"),
        ("full barn of node 1", "full barn"),
        ("freelist, position 34", "freelist"),
        ("caller of the allocation", "caller of the allocation"),
    ],
)
def test_place_is_told_without_its_owner(place: str, told: str) -> None:
    assert kind_of_place(place) == told


def test_callers_are_those_outside_of_the_allocator() -> None:
    trace = ["kmem_cache_alloc_noprof+0x1e", "__d_alloc.isra.0+0x2b", "d_alloc+0x1", "open+0x2"]
    assert callers(trace, 2) == ("__d_alloc", "d_alloc")
    # A module of which nothing is known has another address in every boot.
    assert callers(["foo+0x1", "0xffffffffc0101010", "bar+0x3"], 3) == ("foo",)


def test_kernel_is_no_part_of_the_damage() -> None:
    one = Signature("poison", "kmalloc-64", offset=16, allocator="SLUB", version="6.1")
    other = replace(one, version="6.12", layout="top-byte")
    assert one.id == other.id
    assert one.kernel == "6.1 SLUB"
    assert other.kernel == "6.12 SLUB top-byte"
    assert one.id != replace(one, offset=24).id
    assert one.id != replace(one, cache="kmalloc-96").id


def test_id_does_not_change_from_version_to_version() -> None:
    # Users keep it in files.
    assert Signature("poison", "kmalloc-64", written="text", offset=16).id == "fb40fb8b3521"
    assert document(Signature("poison"))["id"] == Signature("poison").id


@pytest.mark.parametrize(
    ("expected", "found", "told"),
    [(3, 4, "+1"), (4, 3, "-1"), (0, 9, "more"), (9, 0, "fewer"), (3, 3, None)],
)
def test_counts_differ_by_one_or_by_more(expected: int, found: int, told: str) -> None:
    assert _difference(Finding("count-mismatch", "", expected=expected, found=found)) == told


def test_addresses_are_not_counted_with() -> None:
    assert _difference(Finding("vmstat-slab", "", expected=0xFFFF888003A1C480, found=0)) is None
    assert _difference(Finding("redzone", "", expected="cc", found="00")) is None
    # The first GiB of some machines is all they have.
    assert _difference(Finding("slab-cache-wrong", "", expected=0x3A1C480, found=0)) is None
    assert _difference(Finding("freelist-index", "", expected=9, found=16)) is None


@pytest.mark.parametrize(
    ("found", "expected", "told"),
    [
        (0x00, "cc", "a zero byte"),
        (0x6A, "6b", "a byte one less"),
        (0x6C, "6b", "a byte one more"),
        (0x7B, "6b", "one bit wrong"),
        (0x12, "cc", "a byte"),
        (0x12, "set", "a byte"),
    ],
)
def test_byte_tells_what_became_of_it(found: int, expected: str, told: str) -> None:
    assert _byte(found, expected) == told


def test_trace_begins_with_who_asked_the_allocator() -> None:
    trace = ("kasan_save_stack+0x33", "__kasan_slab_alloc+0x6e", "kmem_cache_alloc+0x1", "fork+0x2")
    assert from_caller((*trace, "exit+0x3")) == ("fork+0x2", "exit+0x3")
    assert first_caller(trace) == "fork+0x2"
    # One that is all of the allocator's is told as it is.
    assert from_caller(trace[:3]) == trace[:3]
    assert first_caller(()) is None
