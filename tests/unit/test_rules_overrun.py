# SPDX-License-Identifier: LGPL-2.1-or-later
"""Struct pages that one write ran over are one root, with what led to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, List, Optional

from drgn_slabtype.findings import Finding
from drgn_slabtype.rules.oneroot import one_root
from tests.memmap import LINEAR, MAP, PAGE, page_of


def _roots(findings: List[Finding]) -> Dict[int, Optional[int]]:
    return {one.id: one.because for one in one_root(findings, page_of, PAGE)}


def _tails(first: int, count: int, id: int, step: int = 1) -> List[Finding]:
    # Pages that the first of them is said to be wrong with, as each 4096 bytes are bound.
    pages = [MAP + (first + row * step) * PAGE for row in range(count)]
    some = [
        Finding("page-tail-head", "leads to no page", id=id + row, page=page, word=page + 8)
        for row, page in enumerate(pages)
    ]
    return [one if one.id == id else replace(one, because=id) for one in some]


def test_struct_pages_side_by_side_are_one_write() -> None:
    # In two pages of the memory map.
    some = [*_tails(50, 12, 1), *_tails(64, 12, 20)]
    assert [id for id, because in _roots(some).items() if because is None] == [1]


def test_what_led_there_follows() -> None:
    some = [*_tails(50, 12, 1), *_tails(64, 12, 14)]
    vector = Finding("slab-vector-wrong", "vector", id=30, slab=MAP, found=LINEAR + (70 << 12))
    link = Finding("list-links", "next", id=31, word=MAP + 8, found=MAP + 72 * PAGE + 8)
    missing = Finding("list-missing", "on no list", id=32, slab=MAP + 4096 * PAGE)
    count = Finding("node-slabs", "slabs", id=33, node=0, expected=3, found=4, word=LINEAR)
    elsewhere = replace(vector, id=34, slab=MAP + PAGE, found=LINEAR + (700 << 12))
    roots = _roots([*some, vector, link, missing, count, elsewhere])
    assert [roots[id] for id in (1, 14, 30, 31, 32, 33, 34)] == [None, 1, 1, 1, 1, 1, None]
    # All tails of one head are wrong with it.
    roots = _roots([*_tails(64, 20, 1), vector, missing])
    assert [roots[id] for id in (1, 30, 32)] == [None, 1, None]


def test_a_few_struct_pages_are_damaged_one_by_one() -> None:
    vector = Finding("slab-vector-wrong", "vector", id=90, slab=MAP, found=LINEAR + (75 << 12))
    assert _roots([*_tails(64, 15, 1), vector])[90] is None
    # But for what lay in the one that is told.
    assert _roots([*_tails(64, 15, 1), replace(vector, found=LINEAR + (64 << 12))])[90] == 1
    # So are many that lie far from each other.
    assert _roots([*_tails(64, 30, 1, step=9), vector])[90] is None


def test_what_follows_from_a_cache_was_not_written_to() -> None:
    cache = Finding("cache-wrong", "order", id=1, cache="dentry", word=LINEAR + 16)
    slabs = [
        Finding("slab-order-wrong", "order", id=2 + row, because=1, cache="dentry", slab=page)
        for row, page in enumerate(range(MAP, MAP + 4096, PAGE))
    ]
    vector = Finding("slab-vector-wrong", "vector", id=90, slab=MAP, found=LINEAR + (9 << 12))
    assert _roots([cache, *slabs, vector])[90] is None


def test_of_two_regions_none_explains_what_is_missing() -> None:
    some = [*_tails(64, 20, 1), *_tails(512, 20, 40)]
    missing = Finding("list-missing", "on no list", id=70, slab=MAP + 4096 * PAGE)
    assert [id for id, because in _roots([*some, missing]).items() if because is None] == [
        1,
        40,
        70,
    ]


def test_finding_about_many_struct_pages_is_about_them_all() -> None:
    page = MAP + 64 * PAGE
    row = Finding("page-zone-wrong", "zone 5", id=1, page=page, word=page, pages=64)
    link = Finding("list-links", "next", id=2, word=MAP + 8, found=MAP + 90 * PAGE + 8)
    missing = Finding("list-missing", "on no list", id=3, slab=MAP + 4096 * PAGE)
    assert _roots([row, link, missing]) == {1: None, 2: 1, 3: 1}
    assert _roots([replace(row, pages=15), link, missing]) == {1: None, 2: None, 3: None}
