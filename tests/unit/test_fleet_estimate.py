# SPDX-License-Identifier: LGPL-2.1-or-later
"""How long it takes is said when it is known, and as exactly as it is known."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.fleet.estimate import Estimate, Left
from drgn_slabtype.fleet.run import State
from drgn_slabtype.report.output import _how_far, _span


def test_nothing_is_said_before_enough_is_known() -> None:
    estimate = Estimate(2)
    for _ in range(4):
        estimate.learn(1000, 1.0)
    assert estimate.left([1000]) is None
    assert estimate.left([]) == (0.0, 0.0)


@given(st.floats(0, 10), st.floats(1e-9, 1e-6), st.integers(1, 8))
def test_time_that_grows_with_size_is_found(each: float, slope: float, processes: int) -> None:
    estimate = Estimate(processes)
    sizes = [size << 20 for size in (1, 5, 10, 100, 1000, 2)]
    for size in sizes:
        estimate.learn(size, each + slope * size)
    left = estimate.left([512 << 20] * 40)
    assert left is not None
    will = 40 * (each + slope * (512 << 20)) / processes
    assert left.low <= will * 1.001
    assert will <= left.high * 1.001


def test_range_holds_what_it_takes() -> None:
    # Of runs with times that vary, most end in the range that was said at a quarter.
    chance, inside, runs = Random(1), 0, 200
    for _ in range(runs):
        seconds = [chance.lognormvariate(0, 0.5) for _ in range(100)]
        estimate = Estimate(1)
        for one in seconds[:25]:
            estimate.learn(1000, one)
        left = estimate.left([1000] * 75)
        assert left is not None
        inside += left.low <= sum(seconds[25:]) <= left.high
    assert inside >= 0.9 * runs


def test_last_dump_is_judged_by_one_process() -> None:
    estimate = Estimate(4)
    for size in (1, 2, 3, 4, 5):
        estimate.learn(size * 1000, size * 1.0)
    left = estimate.left([100_000])
    assert left is not None
    assert left.low >= 99


def test_time_never_grows_the_smaller_a_dump_is() -> None:
    estimate = Estimate(1)
    for size in (1, 2, 3, 4, 5):
        estimate.learn(size * 1000, 10.0 - size)
    left = estimate.left([10_000_000])
    assert left is not None
    assert 0 < left.high < 100


def test_span_is_as_exact_as_it_is_known() -> None:
    assert _span(10.2, 12.9) == "10 to 13 s"
    assert _span(59, 59) == "59 s"
    assert _span(70, 400) == "1 to 7 min"
    assert _span(3600, 7300) == "1 to 3 h"


def test_progress_says_what_is_known() -> None:
    assert _how_far(State(3, 10, 1, 0, None)) == "3 of 10 dumps, 1 damaged"
    told = _how_far(State(9, 10, 1, 2, Left(150.0, 400.0)))
    assert told == "9 of 10 dumps, 1 damaged, 2 not judged, 2 to 7 min left"
