# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What can happen to a slab cache
-------------------------------

Each function damages one thing in a :class:`~tests.machines.Machine` and
returns what must be found, or None where the machine has nothing to damage.
"""

from __future__ import annotations

from random import Random
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from drgn_slabtype.ledger import Break, ListKind, State
from drgn_slabtype.pagetype.encoding import RFC_V3, TOP_BYTE

from .machines import CACHE, PAGE, SLAB_PAGES, ArrayMachine, Box, ChainMachine, Machine, Slab

GARBAGE = (0x1, 0xDEAD000000000100, 0xFFFFFFFFFFFFFFFF, 0x6B6B6B6B6B6B6B6B)


class Expected(NamedTuple):
    """The one root finding that a damage must give."""

    code: str
    slab: Optional[int] = None
    """``struct slab *``."""
    node: Optional[int] = None
    cpu: Optional[int] = None


SlabDamage = Callable[[Machine, int, Random], Optional[Expected]]
"""Damages the slab of a row."""
MachineDamage = Callable[[Machine, Random], Optional[Expected]]


def at(code: str, slab: Slab) -> Expected:
    """Return the expectation of a root finding on a slab."""
    return Expected(code, slab=slab.page, node=slab.nid)


def pick(rng: Random, choices: Sequence[int]) -> Optional[int]:
    """Return one of some choices, or None where there are none."""
    return rng.choice(choices) if choices else None


# Counts.


def _trace(machine: Machine, slab: Slab, before: int) -> Expected:
    # A count that SLAB alone keeps shows in the list the slab stands on, or
    # else only in the sum of its node.
    if machine.allowed(slab) != before:
        return at("list-wrong", slab)
    return Expected("node-free-objects", node=slab.nid)


def active_one_too_high(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    before, count = machine.allowed(slab), machine.counted(slab)
    machine.set_count(slab, count + 1)
    if count == slab.objects:
        return at("count-range", slab)
    return _trace(machine, slab, before)


def active_one_too_low(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    before, count = machine.allowed(slab), machine.counted(slab)
    machine.set_count(slab, count - 1)
    if count == 0:
        return at("active-underflow" if machine.encoding is RFC_V3 else "count-range", slab)
    revealed = slab.array[count - 1]
    if revealed in slab.array[count:]:
        return at("freelist-duplicate", slab)
    return _claimed(machine, row, revealed) or _trace(machine, slab, before)


def _claimed(machine: Machine, row: int, index: int) -> Optional[Expected]:
    for box in machine.boxes:
        if machine.address(row, index) in box.entries:
            code = "claim-live" if box.state == State.LIVE else "claim-twice"
            return at(code, machine.slabs[row])
    return None


def active_overflows(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    if machine.encoding is not RFC_V3:
        return None
    slab = machine.slabs[row]
    machine.set_count(slab, 65536 + rng.randrange(slab.objects + 1))
    return at("active-overflow", slab)


def inuse_off(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    count = slab.count + rng.choice([-1, 1])
    machine.set_count(slab, count)
    return at("count-mismatch" if 0 <= count <= slab.objects else "count-range", slab)


# Index arrays.


def array_entry_twice(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if len(slab.free) < 2:
        return None
    first, second = rng.sample(range(slab.objects - len(slab.free), slab.objects), 2)
    slab.array[first] = slab.array[second]
    return at("freelist-duplicate", slab)


def array_entry_out_of_range(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if not slab.free:
        return None
    where = rng.randrange(slab.objects - len(slab.free), slab.objects)
    slab.array[where] = rng.randint(slab.objects, 255)
    return at("freelist-index", slab)


def array_entry_parked_elsewhere(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    parked = pick(rng, machine.parked(row))
    if not slab.free or parked is None:
        return None
    slab.array[rng.randrange(slab.objects - len(slab.free), slab.objects)] = parked
    return _claimed(machine, row, parked)


def array_misplaced(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if not slab.free:
        return None
    slab.head = rng.choice([*GARBAGE, 0, slab.head + 1])
    return at("freelist-array", slab)


# Chains.


def _bad_pointers(machine: Machine, row: int) -> List[int]:
    slab = machine.slabs[row]
    other = machine.slabs[row - 1]
    end = slab.base + machine.stride * slab.objects
    bad = [*GARBAGE, slab.base - machine.stride, end, slab.base + 8, end - 1]
    if other is not slab:
        bad.append(other.head or other.base)
    return bad


def head_leads_nowhere(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    slab.head = rng.choice(_bad_pointers(machine, row))
    return at("freelist-pointer", slab)


def head_lost(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if not slab.free:
        return None
    slab.head = 0
    return at("count-mismatch", slab)


def pointer_leads_nowhere(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    victim = pick(rng, slab.free)
    if victim is None:
        return None
    slab.array[victim] = rng.choice(_bad_pointers(machine, row))
    return at("freelist-pointer", slab)


def pointer_goes_back(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if not slab.free:
        return None
    position = rng.randrange(len(slab.free))
    back = slab.free[rng.randint(0, position)]
    slab.array[slab.free[position]] = machine.address(row, back)
    return at("freelist-cycle", slab)


def pointer_skips(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if len(slab.free) < 2:
        return None
    position = rng.randrange(len(slab.free) - 1)
    targets = [machine.address(row, index) for index in slab.free[position + 2 :]]
    slab.array[slab.free[position]] = rng.choice([*targets, 0])
    return at("count-mismatch", slab)


def pointer_leads_to_parked(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    # What a user left in the object is read as its free pointer.
    slab = machine.slabs[row]
    parked, victim = pick(rng, machine.parked(row)), pick(rng, slab.free)
    if parked is None or victim is None:
        return None
    slab.array[victim] = machine.address(row, parked)
    return at("freelist-pointer", slab)


def _cpu_chain(machine: Machine, row: int) -> List[int]:
    found = []
    for chain in machine.chains:
        where = chain.head if chain.slab == row else 0
        while where:
            found.append((where - machine.slabs[row].base) // machine.stride)
            where = machine.slabs[row].array[found[-1]]
    return found


def cpu_pointer_leads_nowhere(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    victim = pick(rng, _cpu_chain(machine, row))
    if victim is None:
        return None
    machine.slabs[row].array[victim] = rng.choice(_bad_pointers(machine, row))
    return at("freelist-pointer", machine.slabs[row])


def chains_run_together(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab, theirs = machine.slabs[row], _cpu_chain(machine, row)
    if not theirs or not slab.free:
        return None
    pair = (theirs, slab.free) if rng.random() < 0.5 else (slab.free, theirs)
    slab.array[pair[0][-1]] = machine.address(row, rng.choice(pair[1]))
    return at("claim-twice", slab)


# What any slab has.


def mark_lost(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab, encoding = machine.slabs[row], machine.encoding
    slab.flagged = False
    if encoding.has_slab_type:
        slab.word = encoding.clear(slab.word, "slab")
    return at("slab-mark-lost", slab)


def other_type(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if machine.encoding is not TOP_BYTE:
        return None
    slab.word = rng.choice([0xF0000000, 0xF2000000, 0x00000001, 0x80000000])
    return at("slab-mark-lost", slab)


def cache_pointer_wrong(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    slab.cache_pointer = rng.choice([0, *GARBAGE, CACHE + 256])
    return at("slab-cache-wrong", slab)


def order_wrong(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    slab.order = 3
    return at("slab-order-wrong", slab)


def off_its_list(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if not slab.stands:
        return None
    slab.stands = []
    return at("list-missing", slab)


def on_two_lists(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if not slab.stands:
        return None
    slab.stands = [*slab.stands, rng.choice(_lists(machine))]
    return at("list-twice", slab)


def on_the_wrong_list(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    kinds = [kind for kind, _ in _lists(machine) if not kind & machine.allowed(slab)]
    if not kinds:
        return None
    slab.stands = [(rng.choice(kinds), slab.nid)]
    return at("list-wrong", slab)


def on_another_nodes_list(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if machine.nodes < 2 or not slab.stands or slab.frozen:
        return None
    slab.stands = [(slab.stands[0][0], (slab.nid + 1) % machine.nodes)]
    return at("slab-node-wrong", slab)


def node_bits_wrong(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if machine.nodes < 2 or not slab.stands or slab.frozen:
        return None
    slab.nid = (slab.nid + 1) % machine.nodes
    return at("slab-node-wrong", slab)


def _lists(machine: Machine) -> List[Tuple[ListKind, int]]:
    kinds = [kind for kind in ListKind if kind & machine.node_lists]
    return [(kind, node) for kind in kinds for node in range(machine.nodes)]


def link_wrong(machine: Machine, row: int, rng: Random) -> Optional[Expected]:
    slab = machine.slabs[row]
    if not slab.stands or slab.frozen:
        return None
    kind, node = slab.stands[0]
    machine.breaks.append(Break(kind, node, slab.page, "next", None, rng.choice(GARBAGE)))
    return at("list-links", slab)


# Places, nodes and heads.


def _box(machine: Machine, rng: Random, filled: bool = True) -> Optional[Box]:
    boxes = [box for box in machine.boxes if box.place and (box.entries or not filled)]
    return rng.choice(boxes) if boxes else None


def _owner(machine: Machine, box: Box, code: str, slab: Optional[Slab] = None) -> Expected:
    per_cpu = machine.places[box.place].per_cpu
    page, node = (slab.page, slab.nid) if slab else (None, None)
    return Expected(code, page, node, box.owner if per_cpu else None)


def entry_in_no_slab(machine: Machine, rng: Random) -> Optional[Expected]:
    box = _box(machine, rng)
    if box is None:
        return None
    # Beyond the last slab is memory of someone else.
    beyond = machine.slabs[-1].base + PAGE * SLAB_PAGES
    box.entries[rng.randrange(len(box.entries))] = rng.choice([*GARBAGE, 0, beyond])
    return _owner(machine, box, "claim-foreign")


def entry_misaligned(machine: Machine, rng: Random) -> Optional[Expected]:
    box = _box(machine, rng)
    if box is None:
        return None
    which = rng.randrange(len(box.entries))
    slab = _home(machine, box.entries[which])
    box.entries[which] += rng.randrange(1, machine.stride)
    return _owner(machine, box, "claim-foreign", slab)


def entry_twice(machine: Machine, rng: Random) -> Optional[Expected]:
    box = _box(machine, rng)
    if box is None or len(box.entries) < 2:
        return None
    first, second = rng.sample(range(len(box.entries)), 2)
    box.entries[first] = box.entries[second]
    code = "claim-live" if box.state == State.LIVE else "claim-twice"
    return at(code, _home(machine, box.entries[first]))


def entry_on_a_freelist(machine: Machine, rng: Random) -> Optional[Expected]:
    box = _box(machine, rng)
    rows = [
        row
        for row, slab in enumerate(machine.slabs)
        if slab.free and box and box.nid in (-1, slab.nid)
    ]
    if box is None or not rows:
        return None
    row = rng.choice(rows)
    slab = machine.slabs[row]
    box.entries[rng.randrange(len(box.entries))] = machine.address(row, rng.choice(slab.free))
    return at("claim-live" if box.state == State.LIVE else "claim-twice", slab)


def entry_of_another_node(machine: Machine, rng: Random) -> Optional[Expected]:
    bound = [box for box in machine.boxes if box.nid >= 0 and box.entries]
    if not bound:
        return None
    box = rng.choice(bound)
    box.nid = (box.nid + 1) % machine.nodes
    del box.entries[1:]
    box.count = 1
    slab = _home(machine, box.entries[0])
    return at("claim-node", slab) if slab.nid != box.nid else None


def beyond_the_limit(machine: Machine, rng: Random) -> Optional[Expected]:
    boxes = [box for box in machine.boxes if box.limit >= 0]
    box = rng.choice(boxes)
    box.count = box.limit + rng.randint(1, 1000)
    return _owner(machine, box, "container-limit")


def counted_wrongly(machine: Machine, rng: Random) -> Optional[Expected]:
    boxes = [box for box in machine.boxes if box.limit >= 0]
    box = rng.choice(boxes)
    box.count += 1 if not box.count or (box.count < box.limit and rng.random() < 0.5) else -1
    return _owner(machine, box, "container-count")


def _home(machine: Machine, address: int) -> Slab:
    return next(
        slab
        for slab in machine.slabs
        if slab.base <= address < slab.base + machine.stride * slab.objects
    )


def counter_off(machine: Machine, rng: Random) -> Optional[Expected]:
    codes = {(c.name, c.node): c.code for c in machine.ledger().counters}
    key = rng.choice(sorted(codes))
    machine.counters[key] += rng.choice([-2, -1, 1, 1000])
    return Expected(codes[key], node=key[1])


def head_of_list_wrong(machine: Machine, rng: Random) -> Optional[Expected]:
    kind, node = rng.choice(_lists(machine))
    head = 0xFFFF888200000000
    machine.breaks.append(Break(kind, node, head, "prev", head, rng.choice(GARBAGE)))
    return Expected("list-broken", node=node)


COMMON: Tuple[SlabDamage, ...] = (
    mark_lost, cache_pointer_wrong, order_wrong, off_its_list, on_two_lists,
    on_the_wrong_list, on_another_nodes_list, node_bits_wrong, link_wrong,
)  # fmt: skip
SLAB_DAMAGES = {
    ArrayMachine: (
        *COMMON, active_one_too_high, active_one_too_low, active_overflows, array_entry_twice,
        array_entry_out_of_range, array_entry_parked_elsewhere, array_misplaced,
    ),
    ChainMachine: (
        *COMMON, other_type, inuse_off, head_leads_nowhere, head_lost, pointer_leads_nowhere,
        pointer_goes_back, pointer_skips, pointer_leads_to_parked, cpu_pointer_leads_nowhere,
        chains_run_together,
    ),
}  # fmt: skip
ANY_MACHINE: Tuple[MachineDamage, ...] = (
    entry_in_no_slab, entry_misaligned, entry_twice, entry_on_a_freelist, beyond_the_limit,
    counted_wrongly, counter_off, head_of_list_wrong,
)  # fmt: skip
MACHINE_DAMAGES = {
    ArrayMachine: (*ANY_MACHINE, entry_of_another_node),
    ChainMachine: ANY_MACHINE,
}
