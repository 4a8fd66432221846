# SPDX-License-Identifier: LGPL-2.1-or-later
"""Random healthy ledgers: machines of random slabs, to be damaged by the tests."""

from __future__ import annotations

from random import Random
from typing import List, Sequence, Type

from hypothesis import strategies as st

from drgn_slabtype.ledger import ListKind, State
from drgn_slabtype.pagetype.encoding import PAGE_FLAG_5_11, RFC_V3, TOP_BYTE

from .machines import PAGE, SLAB_PAGES, ArrayMachine, Box, CpuChain, Machine, Slab


def _fills(draw: st.DrawFn, objects: int) -> int:
    # How many objects of a slab are on its freelist; the edges matter most.
    edges = st.sampled_from([0, objects, 1, objects - 1])
    return draw(st.one_of(edges, st.integers(0, objects)))


def _in_use(rng: Random, slab: Slab) -> List[int]:
    used = [index for index in range(slab.objects) if index not in slab.free]
    rng.shuffle(used)
    return used


@st.composite
def machines(draw: st.DrawFn, kind: Type[Machine]) -> Machine:
    """Return a healthy machine: random slabs, with objects parked in random places."""
    rng = Random(draw(st.integers(0, 1 << 16)))
    array = kind is ArrayMachine
    stride = draw(st.sampled_from([128, 192, 256, 328, 512, 1024, 2048, 4096]))
    order = draw(st.integers(0, 2))
    encoding = draw(st.sampled_from([RFC_V3, PAGE_FLAG_5_11] if array else [TOP_BYTE]))
    machine = kind(stride, order, draw(st.integers(1, 3)), encoding, [])
    for number in range(draw(st.integers(1, 5))):
        of_order = order if array else draw(st.sampled_from([order, 0]))
        objects = (PAGE << of_order) // stride
        slab = Slab(
            pfn=(number + 1) * SLAB_PAGES,
            order=of_order,
            nid=draw(st.integers(0, machine.nodes - 1)),
            objects=objects,
            free=rng.sample(range(objects), _fills(draw, objects)),
        )
        slab.word = encoding.set(encoding.idle, "slab") if encoding.has_slab_type else 0
        machine.slabs.append(slab)
        _lay_out(machine, slab, rng)
    cpus = draw(st.integers(1, 3))
    if not array:
        _take_cpu_slabs(machine, cpus, rng)
    _park(machine, cpus, rng)
    for slab in machine.slabs:
        if not slab.stands:
            allowed = ListKind(machine.allowed(slab))
            slab.stands = [] if allowed is ListKind.NOWHERE else [(allowed, slab.nid)]
    machine.settle()
    return machine


def _lay_out(machine: Machine, slab: Slab, rng: Random) -> None:
    # Write the freelist into memory, and the count that goes with it.
    machine.set_count(slab, slab.objects - len(slab.free))
    if isinstance(machine, ArrayMachine):
        stale = [rng.randrange(slab.objects) for _ in range(slab.objects - len(slab.free))]
        slab.array = stale + slab.free
        slab.head = slab.base + PAGE * SLAB_PAGES - slab.objects
        return
    # Objects in use hold whatever their users put there.
    slab.array = [rng.getrandbits(64) | 1 for _ in range(slab.objects)]
    slab.head = link(machine, slab, slab.free)


def link(machine: Machine, slab: Slab, chain: Sequence[int]) -> int:
    """Write a chain of free pointers; return the address of its first object."""
    addresses = [slab.base + index * machine.stride for index in chain] + [0]
    for index, after in zip(chain, addresses[1:]):
        slab.array[index] = after
    return addresses[0]


def _take_cpu_slabs(machine: Machine, cpus: int, rng: Random) -> None:
    for row, slab in enumerate(machine.slabs[: cpus + 2]):
        if rng.random() < 0.5:
            continue
        slab.frozen = True
        slab.stands = [(ListKind.CPU_SLAB if row < cpus else ListKind.CPU_PARTIAL, row % cpus)]
        used = _in_use(rng, slab)
        chain = used[: rng.randint(0, len(used))]
        if row < cpus and chain:
            machine.chains.append(CpuChain(row, row, link(machine, slab, chain)))


def _park(machine: Machine, cpus: int, rng: Random) -> None:
    # Put some of the objects in use into the places the allocator keeps.
    array = isinstance(machine, ArrayMachine)
    machine.boxes = [Box(2 if not array else 1, cpu, []) for cpu in range(cpus)]
    if array:
        machine.boxes += [Box(2, node, [], nid=node) for node in range(machine.nodes)]
        machine.boxes.append(Box(3, -1, [], limit=-1, state=State.LIVE))
    else:
        machine.boxes += [Box(3, cpu, [], state=State.WAITING) for cpu in range(cpus)]
    taken = set()
    for chain in machine.chains:
        at = chain.head
        while at:
            taken.add(at)
            index = (at - machine.slabs[chain.slab].base) // machine.stride
            at = machine.slabs[chain.slab].array[index]
    for row, slab in enumerate(machine.slabs):
        addresses = [machine.address(row, index) for index in _in_use(rng, slab)]
        addresses = [address for address in addresses if address not in taken]
        for address in addresses[: rng.randint(0, len(addresses))]:
            box = rng.choice([b for b in machine.boxes if b.nid in (-1, slab.nid)])
            if len(box.entries) != box.limit:
                box.entries.append(address)
