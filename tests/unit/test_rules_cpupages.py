# SPDX-License-Identifier: LGPL-2.1-or-later
"""The rules about the free pages that CPUs keep."""

from __future__ import annotations

from typing import Any, List, Sequence

import pytest

from drgn_slabtype.findings import Finding
from drgn_slabtype.pages.cpupages import CpuList, CpuPages, FreePages, Torn
from drgn_slabtype.pagetype.encoding import TOP_BYTE
from drgn_slabtype.rules.cpupages import judge_cpu_pages
from drgn_slabtype.rules.pagefindings import PageNames

_NAMES = PageNames(0xFFFFEA0000000000, 64)
_HEAD = 0xFFFF88800F82B510
_FREE = 0xFFFFFFFF


def _judge(lists: Sequence[CpuList], counted: int, whole: bool = True, **row: Any) -> List[Finding]:
    # What is said of one CPU; row is what the first page says.
    cpu = CpuPages(0, 1, "DMA32", 2, counted, _HEAD - 16, 63, list(lists), whole)
    pfns = [pfn for one in lists for pfn in one.pfns]
    places, words, counts = [(0, 1)] * len(pfns), [_FREE] * len(pfns), [0] * len(pfns)
    for name, column in (("place", places), ("word", words), ("refcount", counts)):
        if name in row:
            column[0] = row[name]
    rows = {pfn: at for at, pfn in enumerate(pfns)}
    free = FreePages([cpu], rows, places, words, counts)
    return list(judge_cpu_pages(free, _NAMES, TOP_BYTE))


def _list(number: int, order: int, *pfns: int) -> CpuList:
    return CpuList(number, order, list(pfns), None)


def test_what_is_sound_gives_nothing() -> None:
    assert not _judge([_list(0, 0, 7, 9), _list(3, 1, 12), _list(9, 3)], 4)


@pytest.mark.parametrize("order", [5, 8, 9, 13])
def test_huge_pages_are_as_large_as_the_count_says(order: int) -> None:
    assert not _judge([_list(0, 0, 7), _list(12, 9, 1 << 13)], 1 + (1 << order))


@pytest.mark.parametrize(
    ("counted", "moving"), [(3, True), (4 + (63 << 5), True), (-5 << 20, False)]
)
def test_a_count_can_be_off_by_what_moves_at_once(counted: int, moving: bool) -> None:
    (found,) = _judge([_list(0, 0, 7, 9), _list(3, 1, 12)], counted)
    assert (found.code, found.place, found.cpu) == ("page-free-count", "pcp", 2)
    assert (found.expected, found.found, found.moving) == (4, counted, moving)


def test_nothing_is_counted_where_a_list_is_torn_or_missing() -> None:
    torn = Torn(_HEAD, None, "next", _HEAD, 0x6B6B6B6B6B6B6B6B, False)
    (found,) = _judge([CpuList(0, 0, [7], torn)], 40)
    assert (found.code, found.found, found.moving) == ("page-free-list", torn.found, False)
    (lost,) = _judge([_list(0, 0, 7)], 40, whole=False)
    assert (lost.code, lost.cpu) == ("unreadable", 2)


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"word": 0}, "page-free-type"),
        ({"word": 0xF5000000}, "page-free-type"),
        ({"refcount": 1}, "page-free-flags"),
        ({"place": (1, 1)}, "page-free-list"),
    ],
)
def test_its_pages_are_free(row: Any, code: str) -> None:
    (found,) = _judge([_list(0, 0, 7, 9)], 2, **row)
    assert (found.code, found.page) == (code, _NAMES.page(7))
    assert (found.found is None) == (found.value_kind is None)


def test_blocks_begin_at_multiples_of_their_size() -> None:
    (found,) = _judge([_list(3, 1, 7)], 2)
    assert found.code == "page-free-order"
