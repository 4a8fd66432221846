# SPDX-License-Identifier: LGPL-2.1-or-later
"""Some damaged captures; ``python -m tests.fuzz`` tries as many as one likes, CI a thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from .case import Subject
from .run import captures, run

_CASES = 4  # of each capture
_FIRST = {0: 6, 1: 14}  # every eighth damages the file: its description, or what is compressed


@pytest.mark.parametrize(
    ("number", "path"), list(enumerate(captures())), ids=[path.parent.name for path in captures()]
)
def test_damage_never_ends_the_check(number: int, path: Path) -> None:
    verdicts = list(run([path], seed=_FIRST[number % 2], cases=_CASES, jobs=1))
    assert len(verdicts) == _CASES
    wrong = [verdict for verdict in verdicts if verdict.wrong]
    assert not wrong, "\n".join(f"{one.seed}: {one.wrong} {one.damage}" for one in wrong)


def test_the_same_number_is_the_same_damage() -> None:
    (path,) = captures(["slub-6.12-tiny-plain"])
    first, second = Subject(path), Subject(path)
    assert [first.damage(seed) for seed in range(9)] == [second.damage(seed) for seed in range(9)]
