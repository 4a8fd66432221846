# SPDX-License-Identifier: LGPL-2.1-or-later
"""Work in progress, states that are no damage, and what follows from what."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import List, Optional, Set, Type

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from drgn_slabtype.findings import Finding
from drgn_slabtype.ledger import Break, Ledger, ListKind, Suspect, Walk
from drgn_slabtype.pagetype.encoding import TOP_BYTE
from drgn_slabtype.rules import judge
from drgn_slabtype.rules.blame import renumber
from tests import damages
from tests.ledgers import link, machines
from tests.machines import (
    PAGE,
    SLAB_PAGES,
    ArrayMachine,
    Box,
    ChainMachine,
    CpuChain,
    Machine,
    Slab,
)

KINDS: List[Type[Machine]] = [ArrayMachine, ChainMachine]


def chain_machine(*free: int, nids: Optional[List[int]] = None, stride: int = 512) -> ChainMachine:
    """Slabs of eight objects on partial lists, each with so many of them free."""
    machine = ChainMachine(stride, 0, 2, TOP_BYTE, [])
    for row, number in enumerate(free):
        slab = Slab((row + 1) * SLAB_PAGES, 0, nids[row] if nids else 0, PAGE // stride, [])
        slab.word = 0xF5000000
        slab.free = list(range(number))
        slab.array = [Random(row).getrandbits(64) | 1] * slab.objects
        slab.head = link(machine, slab, slab.free)
        slab.count = slab.objects - number
        slab.stands = [(ListKind.PARTIAL, slab.nid)] if number else []
        machine.slabs.append(slab)
    machine.settle()
    return machine


def findings_of(machine: Machine) -> List[Finding]:
    return judge(machine.ledger(), machine.encoding)


def codes(findings: List[Finding]) -> List[str]:
    return [finding.code for finding in findings]


# Work in progress.


def test_count_of_a_busy_slab_is_moving() -> None:
    machine = chain_machine(3, 2)
    machine.slabs[0].count += 1
    machine.slabs[0].busy = True
    (found,) = findings_of(machine)
    assert (found.code, found.moving) == ("count-mismatch", True)


def test_busy_slab_excuses_no_other() -> None:
    machine = chain_machine(3, 2)
    machine.slabs[0].busy = True
    machine.slabs[1].count += 1
    (found,) = findings_of(machine)
    assert (found.slab, found.moving) == (machine.slabs[1].page, False)


def test_list_of_a_busy_slab_is_moving() -> None:
    machine = chain_machine(3)
    machine.slabs[0].stands = []
    machine.slabs[0].busy = True
    assert [(f.code, f.moving) for f in findings_of(machine)] == [
        ("list-missing", True),
        ("node-list-length", True),
    ]


def test_entries_of_a_busy_place_are_moving_and_its_count_is_not() -> None:
    machine = chain_machine(3)
    machine.boxes = [Box(2, 1, [], count=4, busy=True), Box(2, 0, [0x1], count=1, busy=True)]
    moving = {finding.code: finding.moving for finding in findings_of(machine)}
    assert moving == {"claim-foreign": True, "container-count": False}


def test_object_of_two_cpus_is_damage_though_both_are_busy() -> None:
    machine = chain_machine(3)
    taken = machine.address(0, 7)
    machine.boxes = [Box(2, cpu, [taken], count=1, busy=True) for cpu in (0, 1)]
    (found,) = findings_of(machine)
    assert (found.code, found.moving, found.slot, found.position) == ("claim-twice", False, 7, 0)


def test_freelist_of_a_busy_slab_is_damage_and_that_of_a_fresh_one_is_not() -> None:
    for fresh in (False, True):
        machine = chain_machine(3)
        machine.slabs[0].busy, machine.slabs[0].fresh = True, fresh
        machine.slabs[0].array[1] = 0x62696C2F7273752F
        found = next(one for one in findings_of(machine) if one.code == "freelist-pointer")
        assert found.moving is fresh


def test_object_in_a_busy_and_a_quiet_place_is_moving() -> None:
    machine = chain_machine(3)
    machine.boxes = [Box(2, 0, [machine.address(0, 1)], count=1, busy=True)]
    (found,) = findings_of(machine)
    assert (found.code, found.moving) == ("claim-twice", True)


def test_double_free_names_the_object_that_both_lists_hold_first() -> None:
    # Object 5 is free twice: what follows it on one list follows it on the other.
    machine = chain_machine(0)
    slab = machine.slabs[0]
    slab.free = [5, 1, 2]
    slab.head = link(machine, slab, slab.free)
    slab.count, slab.stands = slab.objects - 3, [(ListKind.PARTIAL, 0)]
    machine.chains = [CpuChain(1, 0, machine.address(0, 5))]
    machine.settle()
    root, *rest = findings_of(machine)
    assert codes([root, *rest]) == ["claim-twice"] * 3
    assert (root.object, root.slot, root.position) == (machine.address(0, 5), 5, 0)
    assert {finding.because for finding in rest} == {root.id}


def test_bad_free_pointer_names_its_object_word_position_and_slot() -> None:
    machine = chain_machine(3)
    machine.slabs[0].array[1] = 0x62696C2F7273752F
    found = next(one for one in findings_of(machine) if one.code == "freelist-pointer")
    assert (found.object, found.slot, found.position) == (machine.address(0, 1), 1, 1)
    assert (found.index, found.expected, found.found) == (1, None, 0x62696C2F7273752F)


def test_marks_that_fit_nowhere_are_told_in_words() -> None:
    machine = chain_machine(3)
    ledger = machine.ledger()
    ledger.slabs.allowed[0] = 0
    (found,) = judge(ledger, machine.encoding)
    assert found.expected == "nowhere"
    assert "its marks contradict its freelist; it is on partial" in found.message


def test_list_under_a_held_lock_is_moving() -> None:
    machine = chain_machine(3)
    page = machine.slabs[0].page
    machine.breaks = [Break(ListKind.PARTIAL, 0, page, "next", None, 0, busy=True)]
    (found,) = findings_of(machine)
    assert (found.code, found.moving) == ("list-links", True)


@pytest.mark.parametrize(
    ("difference", "slack", "moves", "moving"),
    [
        (1, 0, 0, False),
        (1, 1, 0, True),
        (-2, 1, 0, False),
        (9, 0, 9, True),
        (10, 0, 9, False),
        (10**18, 0, 9, False),
    ],
)
def test_counter_moves_within_its_slack_or_what_its_lock_lets_move(
    difference: int, slack: int, moves: int, moving: bool
) -> None:
    machine = chain_machine(3)
    ledger = machine.ledger()
    ledger.counters = [
        counter._replace(kept=counter.summed + difference, slack=slack, moves=moves)
        for counter in ledger.counters[:1]
    ]
    (found,) = judge(ledger, machine.encoding)
    assert (found.code, found.moving) == ("node-list-length", moving)
    assert found.found == found.expected + difference if isinstance(found.expected, int) else False


@pytest.mark.parametrize(("lost", "moving"), [(1, True), (2, True), (3, False)])
def test_slabs_in_transit_are_moving_up_to_what_can_be_in_flight(lost: int, moving: bool) -> None:
    machine = chain_machine(3, 3, 3, 3)
    machine.in_flight = 2
    for slab in machine.slabs[:lost]:
        slab.frozen = slab.transit = True
        slab.stands = []
    machine.settle()
    found = findings_of(machine)
    assert codes(found) == ["slab-in-transit" if moving else "list-missing"] * lost
    assert all(finding.moving is moving for finding in found)


@pytest.mark.parametrize(("room", "moving"), [(0, False), (1, True)])
def test_slabs_that_fill_a_sheaf_are_moving_up_to_its_room(room: int, moving: bool) -> None:
    machine = chain_machine(3, 3, 3, 3)
    machine.in_flight = 1
    machine.settle()
    taken = machine.slabs[:3]
    free = sum(slab.objects - machine.counted(slab) for slab in taken)
    assert free > 3
    machine.refill = free - 1 + room
    for slab in taken:
        slab.frozen = slab.transit = True
        slab.stands = []
    machine.settle()
    found = findings_of(machine)
    assert codes(found) == ["slab-in-transit" if moving else "list-missing"] * 3


@pytest.mark.parametrize(
    ("difference", "moving"), [(1, True), (2, True), (3, False), (-1000, False)]
)
def test_work_in_progress_explains_no_more_than_can_be_in_flight(
    difference: int, moving: bool
) -> None:
    machine = chain_machine(3, 3)
    machine.in_flight = 2
    machine.slabs[0].count += 1
    machine.slabs[0].busy = True
    machine.counters["nr_slabs", 0] += difference
    found = {finding.code: finding for finding in findings_of(machine)}
    assert found["count-mismatch"].moving
    assert found["node-slabs"].moving is moving
    assert found["node-slabs"].because == (found["count-mismatch"].id if moving else None)


# What is no damage, and what cannot be known.


def test_absence_means_nothing_while_a_list_is_unknown() -> None:
    machine = chain_machine(3)
    machine.slabs[0].stands = []
    machine.settle()
    ledger = machine.ledger()
    assert codes(judge(ledger, machine.encoding)) == ["list-missing"]
    ledger.lists_known = False
    assert judge(ledger, machine.encoding) == []


EXCUSABLE: List[damages.SlabDamage] = [
    damages.mark_lost,
    damages.cache_pointer_wrong,
    damages.off_its_list,
    damages.on_the_wrong_list,
    damages.on_two_lists,
    damages.inuse_off,
    damages.head_leads_nowhere,
    damages.pointer_leads_nowhere,
]


@pytest.mark.parametrize("damage", EXCUSABLE, ids=lambda damage: damage.__name__)
@given(st.data(), st.integers(0, 1 << 16).map(Random))
@settings(max_examples=20)
def test_slab_outside_the_accounting_is_not_judged(
    damage: damages.SlabDamage, data: st.DataObject, rng: Random
) -> None:
    machine = data.draw(machines(ChainMachine))
    row = rng.randrange(len(machine.slabs))
    assume(damage(machine, row, rng) is not None)
    machine.slabs[row].excused = True
    machine.settle()
    assert findings_of(machine) == []


def test_unreadable_freelist_is_unavailable_and_its_count_not_judged() -> None:
    machine = chain_machine(3, 2)
    machine.slabs[0].count += 1
    ledger = machine.ledger()
    ledger.containers.state[0] = Walk.UNREADABLE
    (found,) = judge(ledger, machine.encoding)
    assert (found.code, found.rule) == ("unreadable", "unavailable")
    assert found.slab == machine.slabs[0].page


def test_zeroed_memory_of_a_slab_that_is_being_made_is_not_missing() -> None:
    machine = chain_machine(3, 2)
    machine.slabs[0].fresh = True
    ledger = machine.ledger()
    ledger.containers.state[0] = Walk.UNREADABLE
    assert [one.code for one in judge(ledger, machine.encoding) if not one.moving] == []


def test_notes_are_no_roots_of_findings() -> None:
    machine = chain_machine(3)
    machine.slabs[0].count += 1
    ledger = machine.ledger()
    ledger.notes.append(Suspect("slab-detached", "waits for RCU", 0))
    found = judge(ledger, machine.encoding)
    by_code = {finding.code: finding for finding in found}
    assert by_code["count-mismatch"].because is None
    assert by_code["slab-detached"].rule == "note"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_empty_ledger_gives_no_finding(kind: Type[Machine]) -> None:
    machine = chain_machine(1)
    ledger = replace(
        Ledger(machine.ledger().facts, kind.places, machine.ledger().slabs.take(slice(0, 0)))
    )
    assert judge(ledger, machine.encoding) == []


# Root and consequence.


def test_slabs_behind_a_broken_list_follow_from_it() -> None:
    # Two damaged links hide what is between them.
    machine = chain_machine(3, 3, 3, 3, nids=[0, 0, 0, 1])
    machine.breaks = [Break(ListKind.PARTIAL, 0, machine.slabs[0].page, "next", None, 0)]
    machine.slabs[1].stands = machine.slabs[3].stands = []
    first, *rest = findings_of(machine)
    assert first.code == "list-links"
    because = {finding.slab or finding.node: finding.because for finding in rest}
    assert because[machine.slabs[1].page] == first.id
    # The other node's list is whole: its slab is missing for another reason.
    assert because[machine.slabs[3].page] is None
    assert because[0] == first.id


def test_list_broken_at_its_head_explains_what_is_missing() -> None:
    machine = chain_machine(3, 3)
    machine.breaks = [Break(ListKind.PARTIAL, 0, 0xFFFF888000001000, "next", None, 0)]
    for slab in machine.slabs:
        slab.stands = []
    first, *rest = findings_of(machine)
    assert first.code == "list-broken"
    assert {finding.because for finding in rest} == {first.id}


def test_list_of_another_kind_explains_nothing() -> None:
    machine = chain_machine(3, 3)
    machine.breaks = [Break(ListKind.FULL, 0, 0xFFFF888000001000, "next", None, 0)]
    machine.slabs[0].stands = []
    found = findings_of(machine)
    assert [f.code for f in found if f.because is None] == ["list-broken", "list-missing"]


def test_counter_of_another_node_does_not_follow() -> None:
    machine = chain_machine(3, 3, nids=[0, 1])
    machine.slabs[0].count += 1
    machine.counters["nr_slabs", 1] += 1
    found = findings_of(machine)
    assert [(f.code, f.because) for f in found] == [("count-mismatch", None), ("node-slabs", None)]


def test_duplicates_in_two_slabs_are_two_roots() -> None:
    machine = chain_machine(3, 3)
    machine.boxes = [Box(2, 0, [machine.address(0, 0), machine.address(1, 0)], count=2)]
    found = findings_of(machine)
    assert [(f.code, f.slab, f.because) for f in found] == [
        ("claim-twice", slab.page, None) for slab in machine.slabs
    ]


def test_object_in_three_places_is_one_root() -> None:
    machine = chain_machine(3)
    address = machine.address(0, 0)
    machine.boxes = [Box(2, 0, [address], count=1), Box(2, 1, [address], count=1)]
    found = findings_of(machine)
    assert [(f.code, f.because) for f in found] == [("claim-twice", None), ("claim-twice", 1)]


def finding(number: int, because: Optional[int] = None) -> Finding:
    return Finding("count-mismatch", f"finding {number}", id=number, because=because)


def test_renumber_puts_roots_first_and_keeps_bonds() -> None:
    groups = [[finding(1), finding(2, because=1)], [], [finding(1), finding(2, because=1)]]
    merged = renumber(groups)
    assert [(f.id, f.because) for f in merged] == [(1, None), (2, None), (3, 1), (4, 2)]


def test_renumber_tells_groups_apart_that_have_lost_findings() -> None:
    # What has settled on a moving target is taken out; the others keep their ids.
    groups = [[finding(5), finding(6, because=5)], [finding(4), finding(5, because=4)]]
    merged = renumber(groups)
    assert [(f.id, f.message, f.because) for f in merged] == [
        (1, "finding 5", None),
        (2, "finding 4", None),
        (3, "finding 6", 1),
        (4, "finding 5", 2),
    ]


@given(st.lists(st.sets(st.integers(1, 99), max_size=6), max_size=6), st.integers(0, 1 << 16))
def test_renumbered_bonds_lead_to_the_same_finding(sets: List[Set[int]], seed: int) -> None:
    rng = Random(seed)
    groups: List[List[Finding]] = []
    for number, ids in enumerate(map(sorted, sets)):
        group = [replace(finding(i), cache=str(number), index=i) for i in ids]
        bound = [one for one in group[1:] if rng.random() < 0.5]
        groups.append([replace(one, because=ids[0]) if one in bound else one for one in group])
    merged = renumber(groups)
    assert [one.id for one in merged] == list(range(1, len(merged) + 1))
    before = {(one.cache, one.index): one.because for group in groups for one in group}
    for one in merged:
        root = merged[one.because - 1] if one.because is not None else None
        assert before[one.cache, one.index] == (root.index if root else None)
        assert root is None or root.cache == one.cache


def test_whole_ledger_is_not_changed_by_judging() -> None:
    machine = chain_machine(3, 0, 2)
    ledger, twin = machine.ledger(), machine.ledger()
    judge(ledger, machine.encoding)
    for table in ("slabs", "claims", "containers", "memberships"):
        before, after = getattr(twin, table), getattr(ledger, table)
        for name, column in vars(before).items():
            assert np.array_equal(column, getattr(after, name))
