# SPDX-License-Identifier: LGPL-2.1-or-later
"""What findings say: the place, what was expected there and what was found."""

from __future__ import annotations

from typing import Any, Callable, Dict, NamedTuple, Tuple

import pytest

from drgn_slabtype.findings import Finding
from drgn_slabtype.ledger import Break, ListKind, State
from drgn_slabtype.pagetype.encoding import PAGE_FLAG_5_11, RFC_V3, TOP_BYTE, Encoding
from drgn_slabtype.rules import judge
from tests.ledgers import link
from tests.machines import CACHE, PAGE, SLAB_PAGES, ArrayMachine, Box, ChainMachine, Machine, Slab

HEAD = 0xFFFF888200000000


def slab_at(machine: Machine, row: int) -> Slab:
    slab = Slab((row + 1) * SLAB_PAGES, 0, row, 8, [5, 2, 7])
    if machine.encoding.has_slab_type:
        slab.word = machine.encoding.set(machine.encoding.idle, "slab")
    return slab


def array_machine(encoding: Encoding = RFC_V3) -> ArrayMachine:
    """Two slabs of eight objects on two nodes, free: 5, 2 and 7; 0 is in a CPU's array."""
    machine = ArrayMachine(512, 0, 2, encoding, [])
    for row in range(2):
        slab = slab_at(machine, row)
        machine.set_count(slab, 5)
        slab.array = [0, 1, 3, 4, 6, 5, 2, 7]
        slab.head = slab.base + PAGE * SLAB_PAGES - 8
        slab.stands = [(ListKind.PARTIAL, row)]
        machine.slabs.append(slab)
    machine.boxes = [
        Box(1, 3, [machine.address(0, 0)], limit=4),
        Box(2, 1, [machine.address(1, 0)], limit=4, nid=1),
        Box(3, -1, [machine.address(1, 1)], limit=-1, state=State.LIVE),
    ]
    machine.settle()
    return machine


def chain_machine() -> ChainMachine:
    """The same for SLUB."""
    machine = ChainMachine(512, 0, 2, TOP_BYTE, [])
    for row in range(2):
        slab = slab_at(machine, row)
        slab.array = [0x6B6B6B6B6B6B6B6B] * 8
        slab.head = link(machine, slab, slab.free)
        slab.count = 5
        slab.stands = [(ListKind.PARTIAL, row)]
        machine.slabs.append(slab)
    machine.boxes = [Box(2, 3, [machine.address(0, 0)], limit=4)]
    machine.settle()
    return machine


class Case(NamedTuple):
    """A damage, and the fields of the root finding it must give."""

    make: Callable[[], Machine]
    damage: Callable[[Machine], Any]
    expected: Dict[str, Any]


def setter(path: str, value: Any) -> Callable[[Machine], None]:
    def damage(machine: Machine) -> None:
        kind, number, name = path.split(".")
        setattr(getattr(machine, kind)[int(number)], name, value)

    return damage


def store(number: int, index: int, value: Any) -> Callable[[Machine], None]:
    def damage(machine: Machine) -> None:
        made = value(machine) if callable(value) else value
        machine.slabs[number].array[index] = made

    return damage


def entry(box: int, value: Callable[[Machine], int]) -> Callable[[Machine], None]:
    def damage(machine: Machine) -> None:
        machine.boxes[box].entries[0] = value(machine)

    return damage


def counter(name: str, by: int) -> Callable[[Machine], None]:
    def damage(machine: Machine) -> None:
        machine.counters[name, 1] += by

    return damage


def active(count: int) -> Callable[[Machine], None]:
    return lambda machine: machine.set_count(machine.slabs[1], count)


PAGE_1 = 0xFFFFEA0000000000 + 64 * 2 * SLAB_PAGES
BASE_1 = 0xFFFF888000000000 + PAGE * 2 * SLAB_PAGES
ON_1 = {"slab": PAGE_1, "node": 1}

CASES: Dict[str, Case] = {
    "active=65536": Case(
        array_machine, active(65536),
        {**ON_1, "code": "active-overflow", "expected": "slab", "found": "0xffeeffff"},
    ),
    "active=-1": Case(
        array_machine, active(-1),
        {**ON_1, "code": "active-underflow", "expected": "slab", "found": "0xfff00000"},
    ),
    "active=num+1": Case(
        array_machine, active(9), {**ON_1, "code": "count-range", "expected": 8, "found": 9}
    ),
    "active=num": Case(
        array_machine, active(8),
        {**ON_1, "code": "list-wrong", "expected": "full", "found": "partial"},
    ),
    "active+1": Case(
        array_machine, active(6),
        {"code": "node-free-objects", "node": 1, "expected": 2, "found": 3, "slab": None},
    ),
    "slab flag lost": Case(
        lambda: array_machine(PAGE_FLAG_5_11), setter("slabs.1.flagged", False),
        {**ON_1, "code": "slab-mark-lost", "expected": "slab", "found": "0x00000005"},
    ),
    "page_type=table": Case(
        chain_machine, setter("slabs.1.word", 0xF2000000),
        {**ON_1, "code": "slab-mark-lost", "found": "0xf2000000"},
    ),
    "index twice": Case(
        array_machine, store(1, 7, 5),
        {**ON_1, "code": "freelist-duplicate", "found": 5, "index": 7, "place": "freelist"},
    ),
    "index out of range": Case(
        array_machine, store(1, 6, 200),
        {**ON_1, "code": "freelist-index", "expected": 8, "found": 200, "index": 6},
    ),
    "array elsewhere": Case(
        array_machine, setter("slabs.1.head", 0x1234),
        {**ON_1, "code": "freelist-array", "found": 0x1234},
    ),
    "slab_cache=NULL": Case(
        chain_machine, setter("slabs.1.cache_pointer", 0),
        {**ON_1, "code": "slab-cache-wrong", "expected": CACHE, "found": 0},
    ),
    "inuse+1": Case(
        chain_machine, setter("slabs.1.count", 6),
        {**ON_1, "code": "count-mismatch", "expected": 5, "found": 6, "place": "freelist"},
    ),
    "inuse=65535": Case(
        chain_machine, setter("slabs.1.count", 65535),
        {**ON_1, "code": "count-range", "expected": 8, "found": 65535},
    ),
    "free pointer garbage": Case(
        chain_machine, store(1, 2, 0xDEAD000000000100),
        {**ON_1, "code": "freelist-pointer", "index": 2, "found": 0xDEAD000000000100},
    ),
    "free pointer at itself": Case(
        chain_machine, store(1, 2, lambda m: m.address(1, 2)),
        {**ON_1, "code": "freelist-cycle", "index": 2, "found": BASE_1 + 2 * 512},
    ),
    "freelist=user address": Case(
        chain_machine, setter("slabs.1.head", 0x1000),
        {**ON_1, "code": "freelist-pointer", "index": None, "found": 0x1000},
    ),
    "entry of no slab": Case(
        array_machine, entry(0, lambda m: 0x1234),
        {"code": "claim-foreign", "cpu": 3, "object": 0x1234, "place": "cpu array of CPU 3"},
    ),
    "entry inside an object": Case(
        array_machine, entry(0, lambda m: m.address(1, 0) + 8),
        {**ON_1, "code": "claim-foreign", "cpu": 3, "object": BASE_1 + 8, "index": 0},
    ),
    "entry free already": Case(
        array_machine, entry(0, lambda m: m.address(1, 5)),
        {**ON_1, "code": "claim-twice", "object": BASE_1 + 5 * 512, "index": 5,
         "expected": "freelist", "found": "cpu array of CPU 3"},
    ),
    "entry where an array lives": Case(
        array_machine, entry(0, lambda m: m.address(1, 1)),
        {**ON_1, "code": "claim-live", "object": BASE_1 + 512, "index": 1},
    ),
    "entry of another node": Case(
        array_machine, entry(1, lambda m: m.address(0, 4)),
        {"code": "claim-node", "node": 0, "expected": 1, "found": 0,
         "place": "shared array of node 1"},
    ),
    "avail beyond limit": Case(
        array_machine, setter("boxes.0.count", 5),
        {"code": "container-limit", "cpu": 3, "expected": 4, "found": 5},
    ),
    "sheaf size wrong": Case(
        chain_machine, setter("boxes.0.count", 2),
        {"code": "container-count", "cpu": 3, "expected": 1, "found": 2},
    ),
    "nr_partial-1": Case(
        chain_machine, counter("nr_partial", -1),
        {"code": "node-list-length", "node": 1, "expected": 1, "found": 0, "place": "nr_partial"},
    ),
    "nr_slabs+2": Case(
        chain_machine, counter("nr_slabs", 2),
        {"code": "node-slabs", "node": 1, "expected": 1, "found": 3, "place": "nr_slabs"},
    ),
    "total_objects-8": Case(
        chain_machine, counter("total_objects", -8),
        {"code": "node-objects", "node": 1, "expected": 8, "found": 0},
    ),
    "on another node's list": Case(
        chain_machine, setter("slabs.1.stands", [(ListKind.PARTIAL, 0)]),
        {**ON_1, "code": "slab-node-wrong", "expected": "node 1", "found": "node 0"},
    ),
    "on no list": Case(
        chain_machine, setter("slabs.1.stands", []),
        {**ON_1, "code": "list-missing", "expected": "partial", "found": "no list"},
    ),
    "on two lists": Case(
        array_machine,
        setter("slabs.1.stands", [(ListKind.PARTIAL, 1), (ListKind.FULL, 1)]),
        {**ON_1, "code": "list-twice", "expected": "partial",
         "found": "2 times on partial or full"},
    ),
    "next=NULL": Case(
        chain_machine,
        lambda m: m.breaks.append(Break(ListKind.PARTIAL, 1, PAGE_1, "next", HEAD, 0)),
        {**ON_1, "code": "list-links", "expected": HEAD, "found": 0, "place": "partial"},
    ),
    "head's prev wrong": Case(
        chain_machine,
        lambda m: m.breaks.append(Break(ListKind.PARTIAL, 1, HEAD, "prev", PAGE_1 + 16, HEAD)),
        {"code": "list-broken", "slab": None, "node": 1, "expected": PAGE_1 + 16, "found": HEAD},
    ),
}  # fmt: skip


def root_of(case: Case) -> Tuple[Machine, Finding]:
    machine = case.make()
    assert judge(machine.ledger(), machine.encoding) == []
    case.damage(machine)
    found = judge(machine.ledger(), machine.encoding)
    (root,) = (finding for finding in found if finding.because is None)
    return machine, root


@pytest.mark.parametrize("name", CASES, ids=lambda name: name.replace(" ", "-"))
def test_finding_names_place_expected_and_found(name: str) -> None:
    _, root = root_of(CASES[name])
    expected = CASES[name].expected
    assert {field: getattr(root, field) for field in expected} == expected
    assert root.cache == "made-up"
    assert not root.moving


@pytest.mark.parametrize("name", CASES, ids=lambda name: name.replace(" ", "-"))
def test_message_is_one_sentence_that_names_the_place(name: str) -> None:
    _, root = root_of(CASES[name])
    assert root.message.startswith("made-up ")
    assert "\n" not in root.message
    assert not root.message.endswith(".")
    if root.object is not None:
        assert f"0x{root.object:x}" in root.message
    elif root.slab is not None:
        assert f"slab 0x{root.slab:x}" in root.message
    for value in (root.found, root.expected):
        if isinstance(value, int) and value > 1 << 32 and root.code != "slab-cache-wrong":
            assert f"0x{value:x}" in root.message
