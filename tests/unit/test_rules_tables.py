# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tables of caches: by the sizes of what they lead to."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
import pytest

from drgn_slabtype.rules.tables import (
    judge_kinds,
    judge_kmalloc,
    judge_size_index,
    sizes,
    usual_owner,
)

_COLUMNS = 14
_FIRST = 0xFFFF888000100000


def _machine() -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Two kinds of memory, all sizes up to 8 KiB; sizes below 8 bytes there are none.
    wanted = sizes(_COLUMNS)
    table = np.zeros((2, _COLUMNS), np.uint64)
    addresses: List[int] = []
    bytes_of: List[int] = []
    for row in range(2):
        for column in np.flatnonzero(wanted).tolist():
            addresses.append(_FIRST + 0x100 * len(addresses))
            bytes_of.append(int(wanted[column]))
            table[row, column] = addresses[-1]
    return table, np.array(addresses, np.uint64), np.array(bytes_of, np.uint64)


def _wrong(table: np.ndarray, addresses: np.ndarray, bytes_of: np.ndarray) -> List[Tuple[int, int]]:
    found = judge_kmalloc(table, addresses, bytes_of)
    assert found is not None
    return [(entry.row, entry.column) for entry in found]


def test_each_entry_leads_to_objects_of_its_size() -> None:
    table, addresses, bytes_of = _machine()
    assert _wrong(table, addresses, bytes_of) == []
    table[0, 8] = table[0, 6]
    found = judge_kmalloc(table, addresses, bytes_of)
    assert found is not None
    assert [(one.row, one.column, one.found) for one in found] == [(0, 8, int(table[0, 6]))]
    assert found[0].why == "leads to a cache for objects of 64 bytes, not 256"


@pytest.mark.parametrize("pointer", [0, 0x6B6B6B6B6B6B6B6B, _FIRST + 8])
def test_an_entry_that_is_no_cache(pointer: int) -> None:
    table, addresses, bytes_of = _machine()
    table[1, 7] = pointer
    assert _wrong(table, addresses, bytes_of) == [(1, 7)]


def test_where_objects_are_aligned_small_ones_share_a_larger_cache() -> None:
    table, addresses, bytes_of = _machine()
    table[1, [1, 3, 4, 5, 6]] = table[1, 7]  # 128 bytes
    assert _wrong(table, addresses, bytes_of) == []
    # But not one of another row, nor one that stands nowhere in its own place.
    table[1, 5] = table[0, 7]
    assert _wrong(table, addresses, bytes_of) == [(1, 5)]


def test_kinds_of_memory_may_be_missing_and_start_late() -> None:
    table, addresses, bytes_of = _machine()
    table[1] = 0
    table[0, [1, 3, 4]] = 0
    assert _wrong(table, addresses, bytes_of) == []
    table[0, 9] = 0
    assert _wrong(table, addresses, bytes_of) == [(0, 9)]


def test_a_cache_that_no_entry_leads_to() -> None:
    table, addresses, bytes_of = _machine()
    names = [
        f"kmalloc-{size}" if own in table[0] else "x" for own, size in zip(addresses, bytes_of)
    ]
    first = int(table[0, 3])
    table[0, 3] = 0
    wrong = judge_kmalloc(table, addresses, bytes_of, names)
    assert [(entry.row, entry.column) for entry in wrong or ()] == [(0, 3)]
    gone = addresses != first
    names = [name for name, there in zip(names, gone.tolist()) if there]
    assert judge_kmalloc(table, addresses[gone], bytes_of[gone], names) == []


def test_a_table_that_is_mostly_wrong_is_not_understood() -> None:
    table, addresses, bytes_of = _machine()
    assert judge_kmalloc(np.roll(table, 1, axis=1), addresses, bytes_of) is None


def test_where_structures_come_from() -> None:
    owners = np.full(20, 3, np.int64)
    owners[:2] = -1
    assert usual_owner(owners) == 3
    owners[2:5] = 4
    assert usual_owner(owners) is None
    assert usual_owner(np.full(4, 3, np.int64)) is None


def _names(bytes_of: np.ndarray) -> List[str]:
    half = len(bytes_of) // 2
    told = [f"{size >> 10}k" if size > 1023 else str(size) for size in bytes_of.tolist()]
    kinds = ["kmalloc-"] * half + ["kmalloc-rcl-"] * half
    return [kind + size for kind, size in zip(kinds, told)]


def _kinds(table: np.ndarray, names: List[str]) -> Tuple[List[Tuple[int, int]], List[int]]:
    _, addresses, bytes_of = _machine()
    entries, renamed = judge_kinds(table, addresses, bytes_of, names)
    return [(one.row, one.column) for one in entries], [one.cache for one in renamed]


def test_an_entry_of_another_row_is_told() -> None:
    table, _, bytes_of = _machine()
    names = _names(bytes_of)
    assert _kinds(table, names) == ([], [])
    table[0, 7] = table[1, 7]
    assert _kinds(table, names) == ([(0, 7)], [])


def test_a_cache_with_the_name_of_another_is_told() -> None:
    table, _, bytes_of = _machine()
    names = _names(bytes_of)
    names[4] = "dentry"
    assert _kinds(table, names) == ([], [4])
    names[4], names[5] = names[5], _names(bytes_of)[4]
    assert _kinds(table, names) == ([], [4, 5])


def test_rows_that_lead_to_the_same_caches_are_sound() -> None:
    # Without accounting, the caches that are charged are those that are not.
    table, _, bytes_of = _machine()
    table[1] = table[0]
    assert _kinds(table, _names(bytes_of)) == ([], [])


def test_names_that_nobody_understands_say_nothing() -> None:
    table, _, bytes_of = _machine()
    assert _kinds(table, [f"size-{size}" for size in bytes_of.tolist()]) == ([], [])


def test_small_sizes_lead_to_the_smallest_place_there_is() -> None:
    row = np.arange(1, 15, dtype=np.uint64)
    row[0] = 0
    usual = [3, 4, 5, 5, *[6] * 4, *[1] * 4, *[7] * 4, *[2] * 8]
    index = np.array(usual, np.uint8)
    assert judge_size_index(index, row) == []
    for entry in range(len(index)):
        for value in (0, 8, 1 ^ usual[entry]):
            wrong = index.copy()
            wrong[entry] = value
            assert judge_size_index(wrong, row) == [(entry, usual[entry])]
    # What an architecture does not make is left out: objects of SLAB are 32 bytes at least.
    row[[3, 4]] = 0
    assert judge_size_index(np.array([5, 5, *usual[2:]], np.uint8), row) == []
    # Of 64 bytes and more there are no 96.
    row[[1, 5]] = 0
    aligned = np.array([*[6] * 8, *[7] * 8, *[2] * 8], np.uint8)
    assert judge_size_index(aligned, row) == []


def test_another_table_is_none() -> None:
    row = np.arange(14, dtype=np.uint64)
    assert judge_size_index(np.arange(24, dtype=np.uint8), row) is None
    assert judge_size_index(np.full(24, 3, np.uint8), row[:5]) is None
    assert judge_size_index(np.full(24, 3, np.uint8), np.zeros(14, np.uint64)) is None
