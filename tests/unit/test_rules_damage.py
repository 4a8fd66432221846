# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each damage is found, where it is, and once."""

from __future__ import annotations

from random import Random
from typing import Any, List, Type

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from drgn_slabtype.codes import CATALOGUE
from drgn_slabtype.findings import Finding
from drgn_slabtype.rules import judge
from tests import damages
from tests.ledgers import machines
from tests.machines import ArrayMachine, ChainMachine, Machine

KINDS: List[Type[Machine]] = [ArrayMachine, ChainMachine]
randoms = st.integers(0, 1 << 16).map(Random)
# Not every machine has what a damage needs.
some = settings(max_examples=25, suppress_health_check=[HealthCheck.filter_too_much])


def name(value: Any) -> str:
    return value.__name__


def findings_of(machine: Machine) -> List[Finding]:
    return judge(machine.ledger(), machine.encoding)


def roots(findings: List[Finding]) -> List[Finding]:
    aside = ("note", "unavailable")
    return [f for f in findings if f.because is None and not f.moving and f.rule not in aside]


def check(machine: Machine, *expected: damages.Expected) -> None:
    """Assert that there are these root findings, and that all others follow from one."""
    findings = findings_of(machine)
    found = roots(findings)
    assert sorted((f.code, f.slab or 0) for f in found) == sorted(
        (e.code, e.slab or 0) for e in expected
    ), findings
    for one in expected:
        root = next(f for f in found if (f.code, f.slab) == (one.code, one.slab))
        assert one.node is None or root.node == one.node
        assert one.cpu is None or root.cpu == one.cpu
    assert {f.because for f in findings if f.because is not None} <= {f.id for f in found}
    assert all(f.code in CATALOGUE and f.cache == "made-up" for f in findings)


@pytest.mark.parametrize("kind", KINDS, ids=name)
@given(st.data())
@settings(max_examples=100)
def test_healthy_ledger_gives_no_finding(kind: Type[Machine], data: st.DataObject) -> None:
    assert findings_of(data.draw(machines(kind))) == []


SLAB_CASES = [(kind, damage) for kind in KINDS for damage in damages.SLAB_DAMAGES[kind]]


@pytest.mark.parametrize(("kind", "damage"), SLAB_CASES, ids=name)
@given(st.data(), randoms)
@some
def test_damaged_slab_gives_one_root(
    kind: Type[Machine], damage: damages.SlabDamage, data: st.DataObject, rng: Random
) -> None:
    machine = data.draw(machines(kind))
    expected = damage(machine, rng.randrange(len(machine.slabs)), rng)
    assume(expected is not None)
    assert expected
    check(machine, expected)


MACHINE_CASES = [(kind, damage) for kind in KINDS for damage in damages.MACHINE_DAMAGES[kind]]


@pytest.mark.parametrize(("kind", "damage"), MACHINE_CASES, ids=name)
@given(st.data(), randoms)
@some
def test_damaged_place_or_node_gives_one_root(
    kind: Type[Machine], damage: damages.MachineDamage, data: st.DataObject, rng: Random
) -> None:
    machine = data.draw(machines(kind))
    expected = damage(machine, rng)
    assume(expected is not None)
    assert expected
    check(machine, expected)


@pytest.mark.parametrize("kind", KINDS, ids=name)
@given(st.data(), randoms)
@settings(max_examples=100)
def test_two_damaged_slabs_give_two_roots(
    kind: Type[Machine], data: st.DataObject, rng: Random
) -> None:
    machine = data.draw(machines(kind))
    assume(len(machine.slabs) > 1)
    rows = rng.sample(range(len(machine.slabs)), 2)
    both = [rng.choice(damages.SLAB_DAMAGES[kind]) for _ in rows]
    expected = [damage(machine, row, rng) for damage, row in zip(both, rows)]
    assume(all(e is not None and e.slab is not None for e in expected))
    # A slab that is on no list and a broken list on the same node are one damage.
    assume({damages.off_its_list, damages.link_wrong} - {*both})
    check(machine, *(e for e in expected if e))
