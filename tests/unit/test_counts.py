# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever a ledger says, its objects add up, each counted once."""

from __future__ import annotations

from typing import Any, List

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.answers.counts import count_objects
from drgn_slabtype.answers.states import ObjectState, object_states, tally
from drgn_slabtype.findings import CacheResult
from drgn_slabtype.ledger import Claims, Containers, Facts, Ledger, Place, Slabs, State, Walk

_PLACES = (Place("freelist", False), Place("cpu freelist", True, True), Place("array", True))


def _ledger(slabs: Any, claims: Any, boxes: Any = ()) -> Ledger:
    counts = np.array(slabs, np.int64).reshape(-1, 2)
    said = np.array(claims, np.int64).reshape(-1, 4)
    held = np.array(boxes, np.int64).reshape(-1, 5)
    return Ledger(
        Facts("some", 0, 8, 8, 8),
        _PLACES,
        Slabs.build(len(counts), objects=counts[:, 0], counted=counts[:, 1], order=0),
        Claims.build(
            len(said), place=said[:, 0], slab=said[:, 1], index=said[:, 2], state=said[:, 3]
        ),
        Containers.build(
            len(held),
            place=held[:, 0],
            slab=held[:, 1],
            state=held[:, 2],
            counted=held[:, 3],
            walked=held[:, 4],
        ),
    )


def _freelist(slab: int, walked: int) -> List[int]:
    return [0, slab, Walk.WHOLE, walked, walked]


def _sums(result: CacheResult) -> List[int]:
    return [result.in_use, sum(result.free.values()), result.waiting, result.unknown]


def test_sound_slab() -> None:
    claims = [[0, 0, 0, State.FREE], [0, 0, 1, State.FREE], [2, 0, 2, State.FREE]]
    claims += [[2, 0, 3, State.WAITING], [0, 0, 4, State.LIVE]]
    result = count_objects(_ledger([[8, 6]], claims, [_freelist(0, 2)]))
    assert _sums(result) == [4, 3, 1, 0]
    assert result.free == {"freelist": 2, "array": 1}


def test_list_that_ends_early() -> None:
    # The count says that five are free, the list has two of them: any other may be free.
    claims = [[0, 0, 0, State.FREE], [0, 0, 1, State.FREE]]
    ledger = _ledger([[8, 3]], claims, [_freelist(0, 2)])
    assert _sums(count_objects(ledger)) == [0, 2, 0, 6]


def test_loop_in_the_list_of_a_cpu() -> None:
    # All of the slab count as in use; what stood behind the loop is anybody's guess.
    claims = [[1, 0, 0, State.FREE], [1, 0, 1, State.FREE]]
    box = [[1, 0, Walk.CYCLE, -1, 2]]
    assert _sums(count_objects(_ledger([[8, 8], [8, 8]], claims, box))) == [8, 2, 0, 6]


def test_object_that_is_free_and_live_is_neither() -> None:
    claims = [[0, 0, 0, State.FREE], [2, 0, 0, State.LIVE], [2, 0, 1, State.LIVE]]
    ledger = _ledger([[8, 7]], claims, [_freelist(0, 1)])
    assert _sums(count_objects(ledger)) == [7, 0, 0, 1]


def test_array_that_cannot_be_read_to_its_end() -> None:
    box = [[2, -1, Walk.UNREADABLE, 5, 1]]
    claims = [[2, 0, 0, State.FREE]]
    assert _sums(count_objects(_ledger([[8, 8]], claims, box))) == [3, 1, 0, 4]


def test_object_that_stands_twice_is_one() -> None:
    claims = [[0, 0, 0, State.FREE], [0, 0, 0, State.FREE], [2, 0, 0, State.FREE]]
    claims.append([2, -1, -1, State.FREE])
    ledger = _ledger([[8, 7]], claims, [_freelist(0, 1)])
    assert _sums(count_objects(ledger)) == [7, 1, 0, 0]


_NUMBERS = st.sampled_from([-(1 << 62), -5, -1, 0, 1, 3, 8, 9, 1 << 40])


@given(
    st.lists(st.tuples(st.integers(-2, 9), _NUMBERS), max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(-1, 9), st.integers(0, 2)),
        max_size=12,
    ),
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(-1, 2), st.integers(0, 4), _NUMBERS, _NUMBERS),
        max_size=4,
    ),
)
def test_they_add_up(slabs: Any, claims: Any, boxes: Any) -> None:
    claims = [one for one in claims if one[1] < len(slabs)]
    boxes = [one for one in boxes if one[1] < len(slabs)]
    ledger = _ledger([(max(objects, 0), counted) for objects, counted in slabs], claims, boxes)
    result = count_objects(ledger)
    assert sum(_sums(result)) == result.objects
    states = np.bincount(object_states(ledger).state, minlength=len(ObjectState))
    assert tally(ledger).by_state.sum(axis=0).tolist() == states.tolist()
    assert min(_sums(result)) >= 0
    assert result.counted >= 0
