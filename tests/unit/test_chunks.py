# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which per-CPU memory has been given out."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List

import numpy as np
import pytest

from drgn_slabtype.machine import chunks
from drgn_slabtype.machine.chunks import Chunk, never_given_out

PAGE = 4096
BASE = 0xFFFF88800F800000
OFFSET = 0xFFFF88800F7C0000  # of the first CPU
FIRST = BASE - OFFSET


def _chunk(*given: range, base: int = BASE, pages: int = 3) -> Chunk:
    # A chunk whose last page is not there, with what lies in some ranges of bytes.
    each = PAGE // 4
    taken, begins = np.zeros(pages * each, np.bool_), np.zeros(pages * each, np.bool_)
    for piece in given:
        taken[piece.start // 4 : piece.stop // 4] = True
        begins[[piece.start // 4, piece.stop // 4]] = True
    there = np.arange(pages) < pages - 1
    return Chunk(base, taken, begins, np.ones(pages, np.bool_), there)


def _machine(*chunks: Chunk, live: bool = False) -> Any:
    return SimpleNamespace(
        is_live=live,
        fact=lambda find: list(chunks) or None,
        per_cpu=SimpleNamespace(lost=np.zeros(2, np.bool_)),
        cpu_offsets=np.array([OFFSET + 0x40000, OFFSET], np.uint64),
        memory=SimpleNamespace(page_size=PAGE),
    )


def _wrong(machine: Any, *pointers: int) -> List[bool]:
    found: List[bool] = never_given_out(machine, np.array(pointers, np.uint64), 32).tolist()
    return found


CHUNK = _chunk(range(64, 96), range(96, 128), range(256, 272), range(PAGE, PAGE + 64))


@pytest.mark.parametrize("offset", [64, 96, PAGE])
def test_what_was_given_out_is_as_it_should_be(offset: int) -> None:
    assert _wrong(_machine(CHUNK), FIRST + offset) == [False]


@pytest.mark.parametrize(
    "offset",
    [
        pytest.param(72, id="inside of a piece"),
        pytest.param(128, id="behind a piece"),
        pytest.param(256, id="of a piece that is too small"),
        pytest.param(66, id="between two steps"),
        pytest.param(2 * PAGE, id="in a page that is not there"),
        pytest.param(3 * PAGE, id="behind the chunk"),
        pytest.param(-PAGE, id="before it"),
    ],
)
def test_what_was_not_given_out_is_told(offset: int) -> None:
    assert _wrong(_machine(CHUNK), FIRST + offset) == [True]


def test_any_chunk_can_have_it() -> None:
    second = _chunk(range(0, 32), base=BASE + (1 << 30))
    assert _wrong(_machine(CHUNK, second), FIRST + (1 << 30), FIRST + 64) == [False, False]


def test_a_part_of_the_map_that_is_all_zeroes_tells_nothing() -> None:
    unknown = CHUNK._replace(told=np.zeros(3, np.bool_))
    assert _wrong(_machine(unknown), FIRST + 72, FIRST + 2 * PAGE) == [False, True]


def test_a_null_pointer_and_a_running_kernel_are_not_judged() -> None:
    assert _wrong(_machine(CHUNK), 0) == [False]
    assert _wrong(_machine(CHUNK, live=True), FIRST + 72) == [False]
    assert _wrong(_machine(), FIRST + 72) == [False]


def test_while_somebody_has_the_lock_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    lock = object()
    prog = SimpleNamespace(variable={"pcpu_lock": lock}.__getitem__)
    machine: Any = SimpleNamespace(prog=prog)
    held = {lock: SimpleNamespace(held=[True])}
    monkeypatch.setattr(chunks, "lock_state", held.__getitem__)
    # Nothing is read either.
    assert chunks._chunks(machine) is None
