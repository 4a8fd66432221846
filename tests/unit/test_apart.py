# SPDX-License-Identifier: LGPL-2.1-or-later
"""Functions in processes of their own: answers in order, whatever happens to one."""

from __future__ import annotations

import os
import time
from typing import Callable, List

import pytest

from ..recipes import apart as apart_module
from ..recipes.apart import apart


def _after(seconds: float, answer: int) -> Callable[[], int]:
    def work() -> int:
        time.sleep(seconds)
        return answer

    return work


def _dies() -> int:
    os._exit(1)


def _fails() -> int:
    raise ValueError("as it must")


def test_answers_come_in_the_order_of_the_functions() -> None:
    works = [_after(0.3, 1), _after(0, 2), _after(0.1, 3)]
    assert list(apart(works, 2)) == [(1, ""), (2, ""), (3, "")]


def test_a_function_that_fails_or_dies_is_told_and_the_others_go_on() -> None:
    works: List[Callable[[], int]] = [_fails, _dies, _after(0, 7)]
    (none, trouble), died, last = apart(works, 3)
    assert none is None
    assert "ValueError: as it must" in trouble
    assert died == (None, "the check died")
    assert last == (7, "")


def _goes_on() -> int:
    while True:
        pass


def test_a_function_without_end_is_ended_by_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart_module, "_PROCESSOR_SECONDS", 1)
    endless, last = apart([_goes_on, _after(0, 7)], 1)
    assert endless == (None, "no answer in 1 s of the processor")
    assert last == (7, "")


def test_nothing_of_one_function_is_left_for_the_next() -> None:
    seen: List[int] = []

    def work() -> int:
        seen.append(1)
        return len(seen)

    assert list(apart([work, work], 1)) == [(1, ""), (1, "")]
