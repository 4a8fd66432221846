# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names of caches, and of their directories in sysfs."""

from __future__ import annotations

from typing import List, Optional

import numpy as np

from drgn_slabtype.rules.names import judge_characters, judge_names

_NUMBER = 12


def _judged(in_sysfs: List[Optional[str]], size: int = 64) -> List[str]:
    names = [f"fs/cache-{at}" for at in range(_NUMBER)]
    pointers, sizes = np.arange(_NUMBER, dtype=np.uint64), np.full(_NUMBER, 64, np.uint64)
    sizes[3] = size
    return [odd.what for odd in judge_names(names, in_sysfs, pointers, sizes)]


def _called() -> List[Optional[str]]:
    called: List[Optional[str]] = [f"fs!cache-{at}" for at in range(_NUMBER)]
    called[3:6] = [":A-0000064", ":0000064", None]
    return called


def test_a_directory_has_the_name_or_tells_the_size() -> None:
    assert _judged(_called()) == []
    called = _called()
    called[7] = "fs!cache-8"
    (what,) = _judged(called)
    assert what == "name is fs/cache-7, and its directory in sysfs is called fs!cache-8"


def test_the_size_of_a_cache_that_can_be_merged() -> None:
    (what,) = _judged(_called(), size=128)
    assert what.startswith("size is 128, and was 64 when it was made")


def test_names_that_are_made_in_another_way_are_not_understood() -> None:
    assert _judged([f"slab-{at}" for at in range(_NUMBER)]) == []


def test_a_name_that_cannot_be_printed() -> None:
    names = ["dentry", "fs\\\\cache", *map(str, range(_NUMBER))]
    pointers = np.arange(len(names), dtype=np.uint64)
    assert list(judge_characters(names, pointers)) == []
    names[1] = "\\xff\\x01cache"
    (odd,) = judge_characters(names, pointers)
    assert (odd.row, odd.member, odd.found) == (1, "name", 1)
    assert odd.what == "name is \\xff\\x01cache, which has bytes that cannot be printed"
