# SPDX-License-Identifier: LGPL-2.1-or-later
"""KFENCE's metadata: what its own code cannot have left."""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
import pytest

from drgn_slabtype.rules.guarded import Canaries, Guarded, judge_canaries, judge_guarded

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


def _pages() -> Canaries:
    # One object at the end of its page, one in the midst, one that fills it.
    found = np.tile(np.frombuffer(bytes(0xAA ^ n for n in range(8)), np.uint8), (3, 4))
    first, size = np.array([24, 8, 0]), np.array([8, 13, 32])
    for row in range(3):
        found[row, first[row] : first[row] + size[row]] = 0x41
    return Canaries(np.array([0x1000, 0x3000, 0x5000], np.uint64), found, first, size)


def test_objects_may_hold_anything_and_what_is_beside_them_may_not() -> None:
    assert list(judge_canaries(_pages())) == []
    for row in range(3):
        for at in range(32):
            of = _pages()
            of.found[row, at] = 0x10
            told = list(judge_canaries(of))
            if of.owned[row, at]:
                assert told == []
            else:
                ((damaged, ((address, size, expected, found),)),) = told
                assert (damaged, address, size) == (row, int(of.address[row]) + at, 1)
                assert (int(expected, 16), found) == (0xAA ^ at & 7, "10")


def test_a_page_of_zeroes_was_never_filled_or_is_not_there() -> None:
    of = _pages()
    of.found[1, ~of.owned[1]] = 0
    assert list(judge_canaries(of)) == []
    assert of.blank.tolist() == [False, True, False]
    # An object that fills its page has nothing beside it.
    of.found[2] = 0
    assert of.blank.tolist() == [False, True, False]
