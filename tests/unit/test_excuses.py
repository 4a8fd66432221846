# SPDX-License-Identifier: LGPL-2.1-or-later
"""An excuse is kept with its witness, turned down without one, or left open."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence

import pytest

from drgn_slabtype.codes import CATALOGUE
from drgn_slabtype.findings import Finding
from drgn_slabtype.machine import activities
from drgn_slabtype.machine.activities import ACTIVITIES, Presence, base_name
from drgn_slabtype.machine.stacks import Call
from drgn_slabtype.machine.witness import Witnesses, from_json
from drgn_slabtype.rules.excuses import settle, work_of

_SLAB = 0xFFFFEA0000123400


def _finding(code: str = "count-mismatch", id: int = 1, **more: object) -> Finding:
    return Finding(code, f"{code} of a slab", slab=_SLAB, moving=True, id=id, **more)  # type: ignore[arg-type]


def _settle(
    findings: Sequence[Finding],
    seen: Sequence[str] = (),
    gap: Optional[str] = None,
    asked: Optional[List[str]] = None,
) -> List[Finding]:
    def ask(work: str) -> Presence:
        if asked is not None:
            asked.append(work)
        return Presence(ACTIVITIES[work].title, tuple(seen), gap)

    return settle(findings, "SLUB", ask)


def test_excuse_names_its_witness() -> None:
    (found,) = _settle([_finding()], ["CPU 2, pid 123 (name): __slab_free+0x1b3"])
    assert found.moving
    assert found.details == ("at work: CPU 2, pid 123 (name): __slab_free+0x1b3",)


def test_witness_counts_though_not_everything_was_seen() -> None:
    (found,) = _settle([_finding()], ["CPU 2: __slab_free+0x1b3"], "no registers of CPU 3")
    assert found.details == ("at work: CPU 2: __slab_free+0x1b3",)


def test_excuse_without_witness_is_a_finding() -> None:
    (found,) = _settle([_finding()])
    assert not found.moving
    assert found.message == (
        "count-mismatch of a slab; no CPU and no task is making, moving or giving back a slab"
    )


def test_excuse_that_cannot_be_decided_stays_and_says_why() -> None:
    (found,) = _settle([_finding()], gap="the registers of CPU 3 are not there")
    assert found.moving
    assert found.message == "count-mismatch of a slab"
    assert found.details[0].endswith("cannot be told: the registers of CPU 3 are not there")


def test_slab_that_nobody_moves_is_missing_on_its_list() -> None:
    assert [f.code for f in _settle([_finding("slab-in-transit")])] == ["list-missing"]
    assert [f.code for f in _settle([_finding("slab-in-transit")], ["CPU 1: x"])] == [
        "slab-in-transit"
    ]


def test_what_follows_from_an_excuse_shares_its_fate() -> None:
    findings = [_finding(), _finding("node-objects", 2, because=1)]
    assert [f.moving for f in _settle(findings, ["CPU 1: x"])] == [True, True]
    assert [f.moving for f in _settle(findings)] == [False, False]
    assert [f.moving for f in _settle(findings, gap="?")] == [True, True]


def test_nobody_is_asked_where_nothing_is_excused() -> None:
    asked: List[str] = []
    calm = Finding("count-mismatch", "damage", id=1)
    assert _settle([calm], asked=asked) == [calm]
    assert asked == []


def test_what_was_not_judged_needs_no_witness() -> None:
    finding = _finding("not-judged")
    assert _settle([finding]) == [finding]


@pytest.mark.parametrize(
    ("seen", "gap", "codes"),
    [([], None, ["lock-kept"]), (["CPU 1: x"], None, []), ([], "?", []), (["CPU 1: x"], "?", [])],
)
def test_held_lock_is_told_only_if_nobody_holds_it(
    seen: List[str], gap: Optional[str], codes: List[str]
) -> None:
    finding = _finding("lock-kept", activity="locks")
    assert [f.code for f in _settle([finding], seen, gap)] == codes


def test_every_code_has_its_work_on_either_allocator() -> None:
    for code in CATALOGUE:
        for allocator in ("SLAB", "SLUB"):
            assert work_of(Finding(code, ""), allocator) in ACTIVITIES


@pytest.mark.parametrize(
    ("code", "place", "allocator", "work"),
    [
        ("slab-in-transit", None, "SLUB", "slub-slabs"),
        ("container-state", "main sheaf of CPU 1", "SLUB", "slub-sheaves"),
        ("list-broken", "full barn of node 0", "SLUB", "slub-sheaves"),
        ("list-broken", "partial", "SLUB", "slub-slabs"),
        ("poison", None, "SLUB", "objects"),
        ("page-free-count", "zone DMA", "SLAB", "pages"),
        ("claim-twice", None, "SLAB", "slab-slabs"),
    ],
)
def test_work_follows_from_the_code(
    code: str, place: Optional[str], allocator: str, work: str
) -> None:
    assert work_of(Finding(code, "", place=place), allocator) == work


# Witnesses.


def _witnesses(*calls: Call, gap: Optional[str] = None) -> Witnesses:
    return Witnesses(calls, gap)


def test_innermost_function_of_each_is_named() -> None:
    who = "CPU 2, pid 123 (name)"
    found = _witnesses(
        Call(who, "get_partial_node", "___slab_alloc+0x2f0", True),
        Call(who, "___slab_alloc", "___slab_alloc+0x2f0", True),
        Call("pid 7 (kworker/0:1)", "__unfreeze_partials", "__unfreeze_partials.cold+0x7", True),
    ).of(activities.SLUB_SLABS)
    assert found.seen == (
        f"{who}: get_partial_node in ___slab_alloc+0x2f0",
        "pid 7 (kworker/0:1): __unfreeze_partials.cold+0x7",
    )
    assert found.gap is None


def test_work_on_objects_is_no_work_on_slabs() -> None:
    call = Call("CPU 1", "slab_alloc_node", "kmem_cache_alloc+0x20", True)
    assert _witnesses(call).of(activities.SLUB_SLABS).seen == ()
    assert _witnesses(call).of(activities.OBJECTS).seen != ()


def test_without_debug_info_a_caller_may_contain_the_work() -> None:
    call = Call("CPU 1", "kmem_cache_alloc", "kmem_cache_alloc+0x20", False)
    assert _witnesses(call).of(activities.SLUB_SLABS).seen != ()
    assert _witnesses(call).of(activities.PAGES).seen == ()


def test_giving_back_a_lock_counts_while_a_cpu_does_it() -> None:
    for who, seen in (("CPU 1, pid 7 (x)", 1), ("pid 7 (x)", 0)):
        call = Call(who, "_raw_spin_unlock_irqrestore", "_raw_spin_unlock_irqrestore+0x5", True)
        assert len(_witnesses(call).of(activities.LOCKS).seen) == seen
        assert _witnesses(call).of(activities.SLUB_SLABS).seen == ()


def test_capture_keeps_witnesses() -> None:
    first = _witnesses(Call("CPU 1", "free_block", "free_block+0x20", True), gap="some")
    again = from_json(first.to_json())
    assert (again.calls, again.gap) == (first.calls, first.gap)
    assert not again.complete


@pytest.mark.parametrize(
    "kept",
    [
        {},
        {"calls": None, "gap": None},
        {"calls": [], "gap": 3},
        {"calls": [["CPU 1", "f", "f+0x1"]], "gap": None},
        {"calls": [["CPU 1", "f", 3, True]], "gap": None},
        {"calls": ["CPU 1"], "gap": None},
    ],
)
def test_damaged_witnesses_are_refused(kept: Dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no witnesses"):
        from_json(kept)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("__slab_free", "__slab_free"),
        ("__slab_free.cold", "__slab_free"),
        ("get_partial_node.part.0", "get_partial_node"),
        ("expand.isra.0.cold", "expand"),
        (".Ltext", ".Ltext"),
    ],
)
def test_split_functions_have_one_name(symbol: str, name: str) -> None:
    assert base_name(symbol) == name


def test_activities_name_no_function_that_is_everywhere() -> None:
    every = activities.EVERY_FUNCTION
    assert not every & {"schedule", "__schedule", "do_syscall_64", "panic", "kthread"}
    assert not every & activities.DEAD_ENDS
