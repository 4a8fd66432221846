# SPDX-License-Identifier: LGPL-2.1-or-later
"""KFENCE's metadata: what its own code cannot have left."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
import pytest

from drgn_slabtype.rules.guarded import Guarded, judge_guarded

_NUMBER = 6


def _sound() -> Guarded:
    # Three that are given out, two that were, one that never was.
    state = np.array([1, 1, 1, 2, 2, 0], np.uint64)
    return Guarded(
        in_place=np.ones(_NUMBER, np.bool_),
        state=state,
        size=np.array([8, 64, 30, 7000, 0, 0], np.uint64),
        cache=np.array([0, 0, 0, -1, 0, -1], np.int64),
        object_size=np.array([64, 64, 64, 0, 64, 0], np.uint64),
        pointer=np.arange(_NUMBER, dtype=np.uint64),
        address=np.arange(_NUMBER, dtype=np.uint64),
        locked=np.zeros(_NUMBER, np.bool_),
        states=3,
        listed=state != 1,
    )


def _wrong(of: Guarded) -> List[Tuple[int, str]]:
    return [(odd.row, odd.member) for odd in judge_guarded(of)]


def test_what_was_freed_may_keep_anything() -> None:
    assert _wrong(_sound()) == []


@pytest.mark.parametrize(
    ("column", "value", "member"),
    [
        ("in_place", False, "addr"),
        ("state", 7, "state"),
        ("cache", -1, "cache"),
        ("size", 65, "size"),
        ("size", 0, "size"),
        ("listed", True, "state"),
    ],
)
def test_one_word_is_one_finding(column: str, value: int, member: str) -> None:
    of = _sound()
    getattr(of, column)[1] = value
    assert _wrong(of) == [(1, member)]
    # Unless somebody is writing there.
    of.locked[1] = True
    assert _wrong(of) == []


def test_a_list_that_cannot_be_followed_says_nothing() -> None:
    of = _sound()._replace(listed=None)
    assert _wrong(of) == []
