# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found out once, and what again."""

from __future__ import annotations

from typing import List

from drgn_slabtype.machine.facts import Found


class Known(Found):
    """A machine that counts what is asked of it."""

    def __init__(self, live: bool) -> None:
        super().__init__()
        self._live = live
        self.asked: List[int] = []

    @property
    def is_live(self) -> bool:
        return self._live


def _find(known: Known, number: int) -> int:
    known.asked.append(number)
    return 10 * number


def test_what_does_not_move_is_found_once() -> None:
    known = Known(live=False)
    assert [known.settled(_find, 1), known.settled(_find, 1), known.settled(_find, 2)] == [
        10,
        10,
        20,
    ]
    assert known.asked == [1, 2]
    known.forget_facts()
    known.fact(_find, 1)
    assert known.asked == [1, 2, 1]


def test_what_moves_is_found_again() -> None:
    known = Known(live=True)
    assert [known.settled(_find, 1), known.settled(_find, 1)] == [10, 10]
    assert known.asked == [1, 1]
    known.fact(_find, 2)
    known.fact(_find, 2)
    assert known.asked == [1, 1, 2]


def test_in_one_moment_nothing_moves() -> None:
    known = Known(live=True)
    with known.moment():
        known.settled(_find, 1)
        with known.moment():
            known.settled(_find, 1)
        known.settled(_find, 1)
    assert known.asked == [1]
    known.settled(_find, 1)
    assert known.asked == [1, 1]
