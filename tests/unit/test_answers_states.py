# SPDX-License-Identifier: LGPL-2.1-or-later
"""The state of every object follows from the ledger, and is unknown where it contradicts itself."""

from __future__ import annotations

from random import Random
from typing import Any, Dict, List, Tuple, Type

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from drgn_slabtype.answers.caches import cache_usage, slabinfo
from drgn_slabtype.answers.counts import count_objects
from drgn_slabtype.answers.states import ObjectState, SlabObject, object_states, places_of
from drgn_slabtype.ledger import Ledger, ListKind, State

from ..ledgers import machines
from ..machines import PAGE, ArrayMachine, ChainMachine, Machine

KINDS: List[Type[Machine]] = [ArrayMachine, ChainMachine]
STATES = {State.FREE: "free", State.WAITING: "waiting", State.LIVE: "in use"}


def name(value: Any) -> str:
    return str(value.__name__)


def expected(machine: Machine, ledger: Ledger) -> Dict[int, str]:
    # What the machine's own words say about each object.
    states = {}
    for row, slab in enumerate(machine.slabs):
        for index in range(slab.objects):
            states[machine.address(row, index)] = "free" if index in slab.free else "in use"
    for box in machine.boxes:
        for address in box.entries:
            states[address] = STATES[box.state]
    for address in ledger.claims_of("cpu freelist").address.tolist():
        states[address] = "free"
    return states


@pytest.mark.parametrize("kind", KINDS, ids=name)
@given(st.data())
def test_states_of_a_healthy_cache_are_those_of_its_words(
    kind: Type[Machine], data: st.DataObject
) -> None:
    machine = data.draw(machines(kind))
    ledger = machine.ledger()
    objects = object_states(ledger)
    assert {found.address: found.state for found in objects} == expected(machine, ledger)


@pytest.mark.parametrize("kind", KINDS, ids=name)
@given(st.data())
def test_states_add_up_to_what_the_check_counts(kind: Type[Machine], data: st.DataObject) -> None:
    ledger = data.draw(machines(kind)).ledger()
    objects, counts = object_states(ledger), count_objects(ledger)
    live = int((ledger.claims.state == State.LIVE).sum())
    by_state = {state: len(objects.in_states({state})) for state in ObjectState}
    assert by_state[ObjectState.IN_USE] == counts.in_use
    assert by_state[ObjectState.FREE] == sum(counts.free.values())
    assert by_state[ObjectState.WAITING] == counts.waiting
    assert by_state[ObjectState.UNKNOWN] == 0
    assert live <= counts.in_use


@given(st.data())
def test_count_too_low_makes_what_no_place_claims_unknown(data: st.DataObject) -> None:
    machine = data.draw(machines(ChainMachine))
    slab = machine.slabs[0]
    # Fewer in use than there are: some that no place claims must be free.
    assume(machine.counted(slab) > 0)
    claimed = set(machine.ledger().claims.address.tolist())
    machine.set_count(slab, machine.counted(slab) - 1)
    unclaimed = {
        machine.address(0, index)
        for index in range(slab.objects)
        if machine.address(0, index) not in claimed
    }
    objects = object_states(machine.ledger())
    assert {found.address for found in objects.in_states({ObjectState.UNKNOWN})} == unclaimed


@given(st.data())
def test_count_too_high_makes_the_freelist_unknown(data: st.DataObject) -> None:
    machine = data.draw(machines(ChainMachine))
    slab = machine.slabs[0]
    assume(slab.free)
    machine.set_count(slab, machine.counted(slab) + 1)
    unknown = object_states(machine.ledger()).in_states({ObjectState.UNKNOWN})
    assert {found.index for found in unknown if found.slab == slab.page} == set(slab.free)


@given(st.data())
def test_object_free_and_live_is_unknown_and_names_both_places(data: st.DataObject) -> None:
    machine = data.draw(machines(ArrayMachine))
    slab = machine.slabs[0]
    assume(slab.free)
    address = machine.address(0, slab.free[0])
    live = next(box for box in machine.boxes if box.state is State.LIVE)
    live.entries.append(address)
    objects = object_states(machine.ledger())
    row = objects.address.tolist().index(address)
    assert objects[row].state == "unknown"
    assert places_of(objects, row) == ["freelist, position 0", "index array"]


@pytest.mark.parametrize("kind", KINDS, ids=name)
@given(st.data(), st.integers(0, 1 << 16).map(Random))
def test_rows_are_the_same_one_by_one(
    kind: Type[Machine], data: st.DataObject, rng: Random
) -> None:
    objects = object_states(data.draw(machines(kind)).ledger())
    listed = list(objects)
    assert len(listed) == len(objects) == len(objects.addresses())
    row = rng.randrange(len(objects))
    assert objects[row] == listed[row]
    assert isinstance(listed[row], SlabObject)
    small: List[Tuple[Any, ...]] = [row for rows in objects.batches(7) for row in rows]
    assert small == [row for rows in objects.batches() for row in rows]


# Caches.


@pytest.mark.parametrize("kind", KINDS, ids=name)
@given(st.data())
def test_usage_of_a_healthy_cache_adds_up(kind: Type[Machine], data: st.DataObject) -> None:
    machine = data.draw(machines(kind))
    usage = cache_usage(machine.ledger(), PAGE)
    assert usage.consistent
    assert usage.in_use + sum(usage.free.values()) + usage.waiting == usage.objects
    assert sum(usage.lists.values()) == usage.slabs == len(machine.slabs)
    assert usage.memory == usage.objects * usage.object_size + usage.waste
    assert usage.occupancy is None or 0 <= usage.occupancy <= 1


@given(st.data())
def test_usage_tells_that_numbers_contradict_each_other(data: st.DataObject) -> None:
    machine = data.draw(machines(ChainMachine))
    machine.set_count(machine.slabs[0], machine.counted(machine.slabs[0]) + 1)
    assert not cache_usage(machine.ledger(), PAGE).consistent


@given(st.data())
def test_slabinfo_of_slub_counts_free_objects_of_partial_slabs_alone(data: st.DataObject) -> None:
    machine = data.draw(machines(ChainMachine))
    info = slabinfo(machine.ledger(), 1 << machine.order, "SLUB")
    partial = [
        slab for slab in machine.slabs if any(kind is ListKind.PARTIAL for kind, _ in slab.stands)
    ]
    inactive = sum(slab.objects - machine.counted(slab) for slab in partial)
    assert info.num_objs == sum(slab.objects for slab in machine.slabs)
    assert info.active_objs == info.num_objs - inactive
    assert info.active_slabs == info.num_slabs == len(machine.slabs)


@given(st.data())
def test_slabinfo_of_slab_counts_active_objects(data: st.DataObject) -> None:
    machine = data.draw(machines(ArrayMachine))
    info = slabinfo(machine.ledger(), 1 << machine.order, "SLAB")
    assert info.active_objs == sum(machine.counted(slab) for slab in machine.slabs)
    empty = sum(machine.counted(slab) == 0 for slab in machine.slabs)
    assert info.active_slabs == info.num_slabs - empty


@given(st.data())
def test_slab_that_waits_for_rcu_is_in_no_number_of_slabinfo(data: st.DataObject) -> None:
    ledger = data.draw(machines(ChainMachine)).ledger()
    ledger.slabs.excused = np.ones(len(ledger.slabs), np.bool_)
    info = slabinfo(ledger, 1, "SLAB")
    assert (info.active_objs, info.num_objs, info.num_slabs) == (0, 0, 0)
