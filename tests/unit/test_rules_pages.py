# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rules on free memory, on machines made of arrays: whole ones, and one damage each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.findings import Finding
from drgn_slabtype.pages.freememory import NOWHERE, FreeList, FreeMemory, Strays, Zone
from drgn_slabtype.pages.vmstat import SlabPages
from drgn_slabtype.pagetype.encoding import TOP_BYTE
from drgn_slabtype.rules.pagefindings import PageNames
from drgn_slabtype.rules.pages import judge_pages, judge_vmstat

_NAMES = PageNames(0xFFFFEA0000000000, 64)
_MAX_ORDER, _PAGES = 10, 1 << 14
_SLAB = 0xF5000000
_BUDDY = 0xF0000000


def _no_strays() -> Strays:
    long, word = np.zeros(0, np.uint64), np.zeros(0, np.uint32)
    return Strays(long, word, long, word.view(np.int32), long, long)


def _strays(
    pfn: int,
    word: int = 0xFFFFFFFF,
    flags: int = 0,
    refcount: int = 0,
    mapping: int = 0,
    memcg: int = 0,
) -> Strays:
    return Strays(
        np.array([pfn], np.uint64),
        np.array([word], np.uint32),
        np.array([flags], np.uint64),
        np.array([refcount], np.int32),
        np.array([mapping], np.uint64),
        np.array([memcg], np.uint64),
    )


def _machine(blocks: List[Tuple[int, int]]) -> FreeMemory:
    # One zone, one list for each order; blocks stand on it as they are given.
    pfn = np.array([block for block, _ in blocks], np.int64)
    order = np.array([order for _, order in blocks], np.int64)
    after, before = np.full(len(blocks), NOWHERE), np.full(len(blocks), NOWHERE)
    lists = []
    for number in range(_MAX_ORDER + 1):
        rows = np.flatnonzero(order == number)
        head = -2 - number
        after[rows] = [*pfn[rows[1:]], head][: len(rows)]
        before[rows] = [head, *pfn[rows[:-1]]][: len(rows)]
        ends = (int(pfn[rows[0]]), int(pfn[rows[-1]])) if len(rows) else (head, head)
        lists.append(FreeList(0, number, 0, *ends, 0))
    counts = tuple(np.bincount(order, minlength=_MAX_ORDER + 1).tolist())
    return FreeMemory(
        pfn=pfn,
        order=order,
        word=np.full(len(blocks), _BUDDY, np.uint32),
        mapping=np.zeros(len(blocks), np.uint64),
        memcg=np.zeros(len(blocks), np.uint64),
        flags=np.zeros(len(blocks), np.uint64),
        refcount=np.zeros(len(blocks), np.int64),
        zone=np.zeros(len(blocks), np.int64),
        next=after,
        prev=before,
        zones=[Zone(0, 1, "Normal", 0, _PAGES, counts, False)],
        lists=lists,
        inside=_no_strays(),
        tails=_no_strays(),
        mapped=_no_strays(),
        large={},
        words={},
        max_order=_MAX_ORDER,
        pageblock_order=9,
    )


_BLOCKS = [(0, 0), (2, 1), (8, 3), (32, 3), (64, 4), (1024, 10), (96, 3)]


def _judge(free: FreeMemory, **told: Any) -> List[Finding]:
    return judge_pages(free, TOP_BYTE, _NAMES, **told)


def _changed(free: FreeMemory, column: str, row: int, value: int) -> FreeMemory:
    values = getattr(free, column).copy()
    values[row] = value
    return replace(free, **{column: values})


def _without(free: FreeMemory, pfn: int) -> FreeMemory:
    # A page is taken from the free blocks, but the list still leads to it.
    keep = free.pfn != pfn
    columns = ("pfn", "order", "word", "mapping", "memcg", "flags", "refcount", "zone")
    kept = {column: getattr(free, column)[keep] for column in (*columns, "next", "prev")}
    return replace(free, words={pfn: _SLAB}, **kept)


def _roots(findings: List[Finding]) -> List[str]:
    return [finding.code for finding in findings if finding.because is None]


def test_whole_free_memory_has_no_finding() -> None:
    assert _judge(_machine(_BLOCKS)) == []
    assert _judge(_machine([])) == []


@given(st.lists(st.tuples(st.integers(0, 15), st.integers(0, 8)), unique_by=lambda b: b[0]))
def test_random_free_memory_has_no_finding(blocks: List[Tuple[int, int]]) -> None:
    # A block in each 1024 pages has no free neighbour to merge with.
    assert _judge(_machine([(place * 1024, order) for place, order in blocks])) == []


@given(st.integers(0, len(_BLOCKS) - 1), st.sampled_from(["next", "prev"]), st.integers(-20, 2000))
def test_any_wrong_link_is_found_once(row: int, column: str, value: int) -> None:
    free = _machine(_BLOCKS)
    if getattr(free, column)[row] == value:
        return
    findings = _judge(_changed(free, column, row, value))
    assert len(_roots(findings)) == 1
    assert _roots(findings)[0] in ("page-free-list", "page-free-type")


def test_slab_on_a_free_list_is_the_root_and_its_neighbours_follow() -> None:
    findings = _judge(_without(_machine(_BLOCKS), 32))
    assert _roots(findings) == ["page-free-type"]
    assert findings[0].page == _NAMES.page(32)
    assert (findings[0].expected, findings[0].found) == ("buddy", "0xf5000000")
    followers = [finding for finding in findings if finding.because is not None]
    assert followers
    assert all(finding.because == findings[0].id for finding in followers)


def test_count_follows_from_the_only_block_of_its_order_being_told_elsewhere() -> None:
    block = (64, 4)
    assert [order for _, order in _BLOCKS].count(block[1]) == 1
    free = _without(_machine(_BLOCKS), block[0])
    zone = free.zones[0]
    assert zone.free[block[1]] == 1
    findings = _judge(free, told={_NAMES.page(block[0]): 7}, last_id=7)
    assert [(one.code, one.because) for one in findings] == [("page-free-count", 7)]


def test_pages_that_are_told_elsewhere_are_not_accused_again() -> None:
    free = replace(_machine(_BLOCKS), tails=_strays(5, _SLAB))
    assert _judge(free, known={_NAMES.page(5)}) == []
    assert _judge(free, told={_NAMES.page(5): 1}, last_id=1) == []


def test_numbers_go_on_after_those_that_are_taken() -> None:
    findings = _judge(replace(_machine(_BLOCKS), tails=_strays(5, _SLAB)), last_id=7)
    assert [finding.id for finding in findings] == [8]


@pytest.mark.parametrize(
    ("stray", "code"),
    [
        (_strays(9, _SLAB), "page-free-type"),
        (_strays(9, flags=1 << 5), "page-free-flags"),
        (_strays(9, refcount=1), "page-free-flags"),
        (_strays(9), "page-free-type"),
    ],
    ids=["type", "flags", "references", "tail"],
)
def test_stray_page_inside_a_free_block(stray: Strays, code: str) -> None:
    findings = _judge(replace(_machine(_BLOCKS), inside=stray))
    assert _roots(findings) == [code]
    assert findings[0].page == _NAMES.page(9)
    assert "inside the free block at PFN 0x8" in findings[0].message


@pytest.mark.parametrize(
    ("column", "row", "value", "code"),
    [
        ("flags", 2, 1 << 5, "page-free-flags"),
        ("refcount", 2, 1, "page-free-flags"),
        ("order", 2, 40, "page-free-order"),
        ("pfn", 2, 12, "page-free-order"),
        ("zone", 2, -1, "page-free-order"),
    ],
)
def test_wrong_first_page_of_a_free_block(column: str, row: int, value: int, code: str) -> None:
    findings = _judge(_changed(_machine(_BLOCKS), column, row, value))
    assert code in _roots(findings)


def test_block_that_leaves_its_zone() -> None:
    free = _machine([(_PAGES - 8, 3), (_PAGES - 1024, 9)])
    free = replace(free, zones=[replace(free.zones[0], end=_PAGES - 4)])
    assert _roots(_judge(free)) == ["page-free-order"]


def test_blocks_in_another_zone_are_wrong_themselves() -> None:
    # They say that they are of the first, which ends in front of them.
    free = _machine([(8, 3), (512, 3), (520 + 504, 3), (2048, 3)])
    first = free.zones[0]
    zones = [replace(first, end=512), replace(first, name="Other", start=512)]
    findings = _judge(replace(free, zones=zones))
    wrong = [one for one in findings if "leaves its zone" in one.message]
    assert len(wrong) == 3
    assert "machine-wrong" not in {one.code for one in findings}
    # Where no zone is, it is the first that ends too early.
    told = _judge(replace(free, zones=zones[:1]))
    assert [one.code for one in told if one.code == "machine-wrong"] == ["machine-wrong"]
    assert not [one for one in told if "leaves its zone" in one.message]


def test_halves_that_were_not_merged() -> None:
    findings = _judge(_machine([(16, 3), (24, 3)]))
    assert _roots(findings) == ["page-free-buddies"]
    # Above the page block their migrate types may differ, and these are no halves.
    assert _judge(_machine([(0, 9), (512, 9)])) == []
    assert _judge(_machine([(8, 3), (16, 3)])) == []


def test_many_halves_say_that_page_blocks_are_smaller() -> None:
    blocks = [(2 * pair * 256 + half * 256, 8) for pair in range(1, 6) for half in range(2)]
    findings = _judge(_machine([*_BLOCKS[:5], *blocks]))
    assert [one.code for one in findings] == ["not-understood"]
    assert findings[0].place == "pageblock_order"


def test_many_small_halves_are_damage() -> None:
    blocks = [(4 * pair + 2 * half, 1) for pair in range(1, 7) for half in range(2)]
    findings = _judge(_machine(blocks))
    assert {one.code for one in findings} == {"page-free-buddies"}
    assert len(findings) == 6


def test_count_of_a_free_area() -> None:
    free = _machine(_BLOCKS)
    zone = replace(free.zones[0], free=(9, *free.zones[0].free[1:]))
    findings = _judge(replace(free, zones=[zone]))
    assert _roots(findings) == ["page-free-count"]
    assert (findings[0].expected, findings[0].found) == (9, 1)


def test_locked_zone_was_caught_in_the_middle_of_a_change() -> None:
    free = _changed(_machine(_BLOCKS), "next", 2, NOWHERE)
    free = replace(free, zones=[replace(free.zones[0], locked=True)])
    findings = _judge(free)
    assert findings
    assert all(finding.moving for finding in findings)


def test_lock_excuses_no_more_than_one_operation_leaves_behind() -> None:
    for column, value in (("word", 0xF0000001), ("mapping", 8), ("memcg", 8), ("flags", 1)):
        free = _changed(_machine(_BLOCKS), column, 2, value)
        findings = _judge(replace(free, zones=[replace(free.zones[0], locked=True)]))
        assert [finding.moving for finding in findings] == [False], column
    free = _machine(_BLOCKS)
    counts = free.zones[0].free
    for more, moving in ((1, True), (2, False)):
        zone = replace(free.zones[0], free=(counts[0] + more, *counts[1:]), locked=True)
        findings = _judge(replace(free, zones=[zone]))
        assert [(one.code, one.moving) for one in findings] == [("page-free-count", moving)]
    lists = [free.lists[0]._replace(first=NOWHERE), *free.lists[1:]]
    locked = replace(free, zones=[replace(free.zones[0], locked=True)], lists=lists)
    assert any(one.code == "page-free-list" and not one.moving for one in _judge(locked))


@pytest.mark.parametrize("column", ["mapping", "memcg"])
def test_free_page_belongs_to_nobody(column: str) -> None:
    blocks = _machine(_BLOCKS)
    assert _roots(_judge(_changed(blocks, column, 2, 0xFFFF888000000000))) == ["page-free-type"]
    inside = _strays(9, **{column: 0xFFFF888000000000})
    assert _roots(_judge(replace(blocks, inside=inside))) == ["page-free-type"]


@pytest.mark.parametrize(
    ("column", "codes"),
    [("word", ["not-understood", "page-free-type"]), ("mapping", ["not-understood"])],
)
def test_what_most_free_blocks_hold_is_not_understood(column: str, codes: List[str]) -> None:
    free = _machine([(16 * number, 0) for number in range(12)])
    many = getattr(free, column).copy()
    many[:9] = 0xF0000001
    inside = _strays(9, mapping=8)
    found = _judge(replace(free, **{column: many}, inside=inside))
    assert [one.code for one in found] == codes
    assert f"the {column} of free pages: 9 of 12" in found[0].message
    few = getattr(free, column).copy()
    few[:4] = 0xF0000001
    assert _roots(_judge(replace(free, **{column: few}))) == ["page-free-type"] * 4


def test_word_of_a_free_block_is_nothing_but_its_type() -> None:
    findings = _judge(_changed(_machine(_BLOCKS), "word", 2, 0xF0000001))
    assert _roots(findings) == ["page-free-type"]
    assert (findings[0].expected, findings[0].found) == ("0xf0000000", "0xf0000001")


@pytest.mark.parametrize("column", ["tails", "mapped"])
def test_typed_tail_and_mapped_type(column: str) -> None:
    strays: Dict[str, Any] = {column: _strays(100, _SLAB)}
    codes = {"tails": "page-tail-type", "mapped": "page-type-mapped"}
    findings = _judge(replace(_machine(_BLOCKS), **strays))
    assert _roots(findings) == [codes[column]]
    assert findings[0].found == "0xf5000000"


@pytest.mark.parametrize(
    ("counted", "large", "wrong"),
    [
        (108, 8, False),
        (104, 8, False),
        (112, 8, False),
        (103, 8, True),
        (113, 8, True),
        (96, None, False),
        (500, None, False),
        (95, None, True),
    ],
)
def test_vmstat_within_what_cpus_can_have_in_flight(
    counted: int, large: Optional[int], wrong: bool
) -> None:
    node = SlabPages(node=0, counted=counted, slabs=100, large=large, tolerance=4)
    assert bool(list(judge_vmstat([node]))) == wrong
