# SPDX-License-Identifier: LGPL-2.1-or-later
"""Merging of memory ranges."""

from __future__ import annotations

from typing import List, Set, Tuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.regions import Ranges, merge, region

RANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=30)


def covered(ranges: Ranges) -> Set[int]:
    pairs = zip(ranges.starts.tolist(), ranges.ends.tolist())
    return {byte for start, end in pairs for byte in range(start, end)}


def test_nothing_merges_to_nothing() -> None:
    assert merge([]).total == 0
    assert merge([region("x", 100, 0)]).total == 0


def test_touching_ranges_become_one() -> None:
    ranges = merge([region("a", [0, 32], [16, 16]), region("b", 16, 16)])
    assert (ranges.starts.tolist(), ranges.ends.tolist()) == ([0], [48])


def test_range_beyond_the_end_of_memory_is_dropped() -> None:
    ranges = merge([region("a", [0xFFFFFFFFFFFFFFF0, 64], 64)])
    assert ranges.starts.tolist() == [64]


@given(RANGES)
def test_merged_ranges_cover_the_same_bytes(pairs: List[Tuple[int, int]]) -> None:
    ranges = merge([region("x", start, size) for start, size in pairs])
    expected = {byte for start, size in pairs for byte in range(start, start + size)}
    assert covered(ranges) == expected
    assert ranges.total == len(expected)
    # In order, and with a gap between each and the next.
    assert (ranges.starts < ranges.ends).all()
    assert (ranges.ends[:-1] < ranges.starts[1:]).all()


@given(RANGES, st.integers(0, 240), st.integers(0, 240))
def test_within_cuts_to_the_asked_range(pairs: List[Tuple[int, int]], start: int, end: int) -> None:
    start, end = min(start, end), max(start, end)
    ranges = merge([region("x", address, size) for address, size in pairs])
    cut = Ranges(*ranges.within(start, end))
    assert covered(cut) == covered(ranges) & set(range(start, end))


def test_one_size_is_for_all() -> None:
    found = region("x", np.array([16, 48], np.uint64), 8, masked=True)
    assert found.sizes.tolist() == [8, 8]
    assert found.masked
