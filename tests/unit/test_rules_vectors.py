# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can be wrong with the vectors of slabs: sound ones, and one damage each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drgn_slabtype.findings import Finding
from drgn_slabtype.rules.vectors import (
    SAID,
    Cgroups,
    Freed,
    Vectors,
    Wrong,
    judge_freed,
    judge_vectors,
    no_cgroups,
)

_COUNT = 40
_ENTRY, _OBJECTS, _SIZE, _SPAN = 16, 21, 192, 4096
_BASE = 0xFFFF888000000000


def _vectors(**columns: Any) -> Vectors:
    # All in objects of kmalloc(), but for the second in the slots and the third behind them.
    whole = np.ones(_COUNT, np.bool_)
    own = np.zeros(_COUNT, np.bool_)
    own[1:3] = True
    offset = np.full(_COUNT, 1 << 40, np.uint64)
    offset[1:3] = _SIZE - _ENTRY, _OBJECTS * _SIZE
    stride = np.full(_COUNT, _ENTRY, np.uint64)
    stride[1] = _SIZE
    known = {
        "word": np.array([_BASE + 1024 * row + 1 for row in range(_COUNT)], np.uint64),
        "extended": True,
        "kernel": whole,
        "in_slab": whole,
        "in_pool": ~whole,
        "own": own,
        "kmalloc": ~own,
        "fits": ~own,
        "small": whole,
        "objects": np.full(_COUNT, _OBJECTS, np.uint64),
        "room": np.full(_COUNT, _SPAN // _OBJECTS, np.uint64),
        "offset": offset,
        "entry": _ENTRY,
        "marked": own & (offset < _SIZE),
        "stride": stride,
    }
    return Vectors(**{**known, **columns})


def _changed(column: str, row: int, value: int) -> Vectors:
    vectors = _vectors()
    values = getattr(vectors, column).copy()
    values[row] = value
    return vectors._replace(**{column: values})


def test_sound_vectors_have_nothing_wrong() -> None:
    assert not judge_vectors(_vectors()).any()
    assert not judge_vectors(_vectors(marked=None, stride=None)).any()
    none = np.zeros(_COUNT, np.uint64)
    assert not judge_vectors(_vectors(word=none, marked=None, stride=None)).any()


@pytest.mark.parametrize(
    ("column", "row", "value", "wrong"),
    [
        ("word", 5, _BASE | 3, Wrong.BITS),
        ("word", 5, _BASE + 5 * 1024, Wrong.BITS),
        ("kernel", 5, False, Wrong.NO_ADDRESS),
        ("in_slab", 5, False, Wrong.IN_NO_SLAB),
        ("kmalloc", 5, False, Wrong.NOT_GIVEN_OUT),
        ("fits", 5, False, Wrong.NO_OBJECT),
        ("word", 1, 0, Wrong.MARKED_BUT_NONE),
        ("marked", 1, False, Wrong.MARK),
        ("marked", 2, True, Wrong.MARK),
        ("marked", 5, True, Wrong.MARK),
        ("stride", 1, _ENTRY, Wrong.STRIDE),
        ("stride", 1, _SIZE - 8, Wrong.STRIDE),
        ("stride", 1, _SIZE + 8, Wrong.STRIDE),
        ("stride", 2, _SIZE, Wrong.STRIDE),
        ("stride", 5, 0, Wrong.STRIDE),
    ],
)
def test_one_that_is_wrong_is_told(column: str, row: int, value: int, wrong: Wrong) -> None:
    found = judge_vectors(_changed(column, row, value))
    assert found.nonzero()[0].tolist() == [row]
    assert found[row] == wrong
    assert wrong in SAID


def test_two_slabs_with_one_vector() -> None:
    word = _vectors().word.copy()
    word[7] = word[6]
    found = judge_vectors(_vectors(word=word))
    assert found.nonzero()[0].tolist() == [6, 7]
    assert set(found[6:8].tolist()) == {Wrong.TWICE}


def test_until_obj_exts_nothing_but_bit_0_is_set() -> None:
    word = _vectors().word.copy()
    word[5] |= np.uint64(4)
    assert not judge_vectors(_vectors(word=word)).any()  # how it was allocated
    found = judge_vectors(_vectors(word=word, extended=False))
    assert found.nonzero()[0].tolist() == [5]


def test_what_lies_elsewhere_for_a_reason_is_sound() -> None:
    assert not judge_vectors(
        _changed("in_slab", 5, False)._replace(in_pool=_changed("in_pool", 5, True).in_pool)
    ).any()
    assert not judge_vectors(
        _changed("in_slab", 5, False)._replace(small=_changed("small", 5, False).small)
    ).any()


@pytest.mark.parametrize(
    ("column", "value"), [("kmalloc", False), ("fits", False), ("marked", True), ("stride", 8)]
)
def test_what_many_break_accuses_none(column: str, value: int) -> None:
    changed = getattr(_vectors(), column).copy()
    changed[5:30] = value
    assert not judge_vectors(_vectors(**{column: changed})).any()


def test_entries_lead_to_what_kmalloc_has_given_out() -> None:
    # None, one of kmalloc(), one of KFENCE's, one outside of the direct map; text, and
    # an object of another cache.
    of = Cgroups(
        address=np.array([0, _BASE, _BASE + 64, 1 << 63, 0x65746E69, _BASE + 128], np.uint64),
        kernel=np.array([0, 1, 1, 1, 0, 1], np.bool_),
        linear=np.array([0, 1, 1, 0, 0, 1], np.bool_),
        pool=np.array([0, 0, 1, 0, 0, 0], np.bool_),
        kmalloc=np.array([0, 1, 0, 0, 0, 0], np.bool_),
    )
    assert no_cgroups(of).tolist() == [False] * 4 + [True] * 2


def test_a_vector_with_such_an_entry() -> None:
    foreign = np.zeros(_COUNT, np.bool_)
    foreign[7] = True
    wrong = judge_vectors(_vectors(foreign=foreign))
    assert np.flatnonzero(wrong).tolist() == [7]
    assert wrong[7] == Wrong.ENTRIES
    # What most of them break is not understood.
    assert not judge_vectors(_vectors(foreign=~foreign)).any()


def test_what_a_freed_vector_holds_follows_from_it() -> None:
    ledger: Any = SimpleNamespace(
        places=[SimpleNamespace(name="cpu array")],
        claims=SimpleNamespace(place=[0]),
        facts=SimpleNamespace(name="kmalloc-32"),
    )
    freed = [Freed("dentry", 0x40, _BASE + 1, 0)]
    of_it = Finding("poison", "of the vector", id=1, object=_BASE)
    elsewhere = Finding("poison", "of another", id=2, object=_BASE + 32)
    assert [one.because for one in judge_freed(ledger, freed, [of_it])] == [2, None]
    # What is wrong elsewhere stays, and is the root of the cache.
    told = judge_freed(ledger, freed, [of_it, elsewhere])
    assert [(one.code, one.because) for one in told] == [
        ("poison", 3),
        ("poison", None),
        ("slab-vector-wrong", 2),
    ]
    assert judge_freed(ledger, [], [of_it, elsewhere]) == [of_it, elsewhere]
