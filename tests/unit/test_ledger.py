# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tables of the ledger."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, List, Type

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.ledger import Claims, Containers, Memberships, Slabs, State, all_differ
from tests.ledgers import machines
from tests.machines import ArrayMachine, ChainMachine, Machine

TABLES: List[Type[Any]] = [Slabs, Claims, Containers, Memberships]
SIGNED = {"I64": np.int64, "I32": np.int32, "U64": np.uint64, "U8": np.uint8, "Bools": np.bool_}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_columns_left_out_have_their_default(table: Type[Any]) -> None:
    built = table.build(3)
    assert len(built) == 3
    for column in fields(table):
        values = getattr(built, column.name)
        assert values.dtype == SIGNED[str(column.type)]
        assert values.tolist() == [-1 if values.dtype.kind == "i" else 0] * 3


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_empty_tables_have_all_columns(table: Type[Any]) -> None:
    for built in (table.empty(), table.join([]), table.build(0)):
        assert len(built) == 0
        assert all(len(getattr(built, column.name)) == 0 for column in fields(table))


def test_one_value_is_for_all_rows_and_arrays_are_converted() -> None:
    built = Claims.build(
        3, place=2, slab=np.array([0, 1, 2], np.int64), address=1 << 63, state=State.WAITING
    )
    assert built.place.tolist() == [2, 2, 2]
    assert built.slab.dtype == np.int32
    assert built.slab.tolist() == [0, 1, 2]
    assert built.address.tolist() == [1 << 63] * 3
    assert built.state.tolist() == [State.WAITING] * 3


def test_unknown_column_is_refused() -> None:
    with pytest.raises(TypeError, match="no such columns: colour"):
        Slabs.build(1, colour=1)


def test_column_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="page has 2 rows, not 3"):
        Slabs.build(3, page=np.zeros(2, np.uint64))


def test_tables_do_not_share_defaults() -> None:
    first, second = Slabs.build(2), Slabs.build(2)
    first.excused[0] = True
    assert not second.excused.any()


@given(st.lists(st.integers(0, 5), max_size=5))
def test_join_keeps_rows_in_order(lengths: List[int]) -> None:
    parts = [
        Memberships.build(length, slab=number, position=np.arange(length))
        for number, length in enumerate(lengths)
    ]
    joined = Memberships.join(parts)
    assert len(joined) == sum(lengths)
    assert joined.slab.tolist() == [n for n, length in enumerate(lengths) for _ in range(length)]
    assert joined.position.tolist() == [at for length in lengths for at in range(length)]


def test_melted_parts_are_gone() -> None:
    parts = [Claims.build(2, index=7), Claims.build(1, index=8)]
    melted = Claims.melt(list(parts))
    assert melted.index.tolist() == [7, 7, 8]
    assert [vars(part) for part in parts] == [{}, {}]
    # One alone is the table itself.
    assert Claims.melt([melted]) is melted
    assert len(Claims.melt([])) == 0


def test_a_free_object_costs_few_bytes() -> None:
    built = Claims.build(1000)
    assert sum(column.nbytes for column in vars(built).values()) <= 30 * 1000


def test_take_by_mask_and_by_position() -> None:
    built = Memberships.build(4, slab=np.arange(4), page=np.arange(4) * 64)
    assert built.take(built.slab > 1).page.tolist() == [128, 192]
    assert built.take(np.array([3, 0, 3])).slab.tolist() == [3, 0, 3]
    assert len(built.take(np.zeros(4, np.bool_))) == 0


@pytest.mark.parametrize("kind", [ArrayMachine, ChainMachine], ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_claims_of_a_place_are_those_of_its_containers(
    kind: Type[Machine], data: st.DataObject
) -> None:
    ledger = data.draw(machines(kind)).ledger()
    total = 0
    for number, place in enumerate(ledger.places):
        found = ledger.claims_of(place.name)
        total += len(found)
        here = ledger.containers.place == number
        assert len(found) == int(ledger.containers.walked[here].sum())
    assert total == len(ledger.claims)
    assert len(ledger.claims_of("nowhere")) == 0


@given(
    numbers=st.lists(st.integers(0, 40), max_size=30),
    limit=st.sampled_from([1, 41, 1 << 12, 1 << 40]),
)
def test_all_differ_if_none_comes_twice(numbers: List[int], limit: int) -> None:
    found = all_differ(np.array(numbers, np.int64), limit)
    assert found is (len(set(numbers)) == len(numbers))
