# SPDX-License-Identifier: LGPL-2.1-or-later
"""SLAB's index arrays, read for many caches at once, are those that are read one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drgn_slabtype.allocators.slab.indexahead import read_index_arrays, words_needed

from .test_memory import BASE, DATA, PAGES, Machine

_SIZES = (5, 21, 64)
_SOME: Any = [SimpleNamespace(number=at, num=size) for at, size in enumerate(_SIZES)]
_CACHES = st.sampled_from([-1, 0, 1, 2])
_POINTERS = st.one_of(
    st.integers(BASE, BASE + len(DATA) - 64),
    st.sampled_from([0, 1, 0x4141414141414141, (1 << 64) - 8, BASE + len(DATA) - 3]),
)


class _Index:
    def __init__(self, machine: Machine, pointers: List[int]) -> None:
        byte = SimpleNamespace(size=1)  # freelist_idx_t
        self.machine = SimpleNamespace(memory=machine.memory, structure=lambda name: byte)
        self._pointers = np.array(pointers, np.uint64)

    def __getitem__(self, member: str) -> Any:
        assert member == "freelist"
        return self._pointers


@pytest.fixture(scope="module", params=[False, True], ids=["virtual", "physical"])
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


@given(slabs=st.lists(st.tuples(_CACHES, _POINTERS), max_size=40))
@settings(max_examples=150)
def test_they_are_those_that_are_read_one_by_one(machine: Machine, slabs: List[Any]) -> None:
    owner = np.array([cache for cache, _ in slabs], np.int64)
    index: Any = _Index(machine, [pointer for _, pointer in slabs])
    ahead = read_index_arrays(index, owner, _SOME, 1)
    for cache, size in enumerate(_SIZES):
        rows = np.flatnonzero(owner == cache)
        pointers = index["freelist"][rows]
        some = np.flatnonzero(machine.memory.reachable(pointers & ~np.uint64(7), size + 8))
        plain = machine.gather(pointers[some], size)
        told = ahead.at(rows)(some, size)
        if told is None:
            # Nothing has been read, or not for all of them.
            assert not len(some)
            continue
        assert told.ok.tolist() == plain.ok.tolist()
        assert told.bytes[plain.ok].tobytes() == plain.bytes[plain.ok].tobytes()


def test_a_slab_whose_array_is_nowhere_is_not_told_of(machine: Machine) -> None:
    index: Any = _Index(machine, [BASE, 0x4141414141414141, BASE + 64])
    ahead = read_index_arrays(index, np.zeros(3, np.int64), _SOME, 1).at(np.arange(3))
    assert ahead(np.array([0, 2]), 5) is not None
    assert ahead(np.array([0, 1]), 5) is None
    # Nor of arrays of another size, and of caches that were left out.
    assert ahead(np.array([0, 2]), 6) is None
    left_out = read_index_arrays(index, np.zeros(3, np.int64), _SOME[1:], 1)
    assert left_out.at(np.arange(3))(np.array([0]), 5) is None


def test_arrays_are_read_in_the_order_of_memory(machine: Machine) -> None:
    pages = [page for page in range(PAGES) if page not in machine.holes]
    index: Any = _Index(machine, [BASE + page * 4096 + 4000 for page in pages[::-1]])
    owner = np.arange(len(pages), dtype=np.int64) % 3
    machine.counted.reads.clear()
    ahead = read_index_arrays(index, owner, _SOME, 1)
    assert ahead.teeth.ok.all()
    # One for each stretch between two holes, whichever caches the slabs are of.
    assert len(machine.counted.reads) < len(pages) / 3
    assert words_needed(index, owner, _SOME).tolist() == [
        np.count_nonzero(owner == cache) * (size // 8 + 2) for cache, size in enumerate(_SIZES)
    ]
