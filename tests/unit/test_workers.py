# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work in several processes: every answer comes, in order, whatever becomes of the processes."""

from __future__ import annotations

import os
import signal
from typing import Any, Callable, List

import pytest

from drgn_slabtype.workers import spread

HERE = os.getpid()
TASKS = list(range(40))


def _square(number: int) -> int:
    return number * number


@pytest.mark.parametrize("jobs", [1, 2, 5, 100])
@pytest.mark.parametrize("weights", [(), [number % 7 for number in TASKS]])
def test_answers_come_in_order(jobs: int, weights: List[float]) -> None:
    assert list(spread(_square, TASKS, jobs, weights)) == [number**2 for number in TASKS]


def test_others_do_the_work() -> None:
    found = list(spread(lambda _: os.getpid(), TASKS, 2))
    assert HERE not in found
    assert len(set(found)) <= 2


def test_answers_can_be_larger_than_a_pipe() -> None:
    found = list(spread(lambda number: bytes([number]) * 300_000, TASKS, 3))
    assert [(len(one), one[0]) for one in found] == [(300_000, number) for number in TASKS]


def test_what_a_killed_worker_had_is_done_here() -> None:
    def work(number: int) -> int:
        if number % 10 == 3 and os.getpid() != HERE:
            os.kill(os.getpid(), signal.SIGKILL)
        return number * number

    assert list(spread(work, TASKS, 2)) == [number**2 for number in TASKS]


def test_error_of_a_worker_is_raised_where_its_answer_is_due() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise ZeroDivisionError(str(number))
        return number

    answers = spread(work, TASKS, 2)
    assert [next(answers) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError, match="5"):
        next(answers)


def test_answer_that_cannot_be_sent_is_made_here() -> None:
    def later(number: int) -> Callable[[], int]:
        return lambda: number

    found = list(spread(later, [1, 2, 3], 2))
    assert [one() for one in found] == [1, 2, 3]


def test_whoever_stops_asking_leaves_no_process() -> None:
    answers: Any = spread(lambda number: (number, os.getpid()), [*range(1000)], 2)
    _, process = next(answers)
    answers.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_no_more_processes_than_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> int:
        raise BlockingIOError("no more processes")

    monkeypatch.setattr(os, "fork", none)
    assert list(spread(_square, TASKS, 3)) == [number**2 for number in TASKS]
