# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every input that was kept is read again; a process that dies of one fails the test."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest

from ...recipes.apart import apart
from .corpus import fewest, load, save
from .coverage import Edges, edges
from .loop import attempt, grow
from .readers import READERS


@pytest.mark.parametrize("name", READERS)
def test_inputs_that_were_kept(name: str) -> None:
    inputs = [*READERS[name].seeds(), *load(name)]
    assert len(inputs) > len(READERS[name].seeds())

    def replay() -> List[str]:
        return [attempt(READERS[name], data) for data in inputs]

    ((answer, trouble),) = apart([replay], 1)
    assert answer is not None, trouble
    assert [wrong for wrong in answer if wrong] == []


def test_inputs_lead_to_others() -> None:
    # Without a corpus, from the seeds alone.
    found = grow("elf", (), 1.5, seed=1)
    assert not found.wrong
    assert len(found.inputs) > len(READERS["elf"].seeds())


def test_corpus_is_kept(tmp_path: Path) -> None:
    inputs = [b"long" * 9, b"", b"short"]
    assert save("some", inputs, tmp_path) == 3
    assert load("some", tmp_path) == [b"", b"short", b"long" * 9]
    assert load("none", tmp_path) == []


def test_fewest_inputs_go_every_way() -> None:
    ways: List[Edges] = [edges(lambda: load("none")), frozenset()]
    assert ways[0] == frozenset()
    one, two, three = (("f", 1, n, n + 1, 1) for n in range(3))
    found = [(b"a", frozenset({one})), (b"bb", frozenset({one, two})), (b"c", frozenset({three}))]
    assert fewest(found) == [b"bb", b"c"]
