# SPDX-License-Identifier: LGPL-2.1-or-later
"""States in which a CPU is stopped that makes slabs, gives them back or takes many off a list."""

from __future__ import annotations

from typing import Any, Callable, Iterator, List

from ..changes import Change, Edit, Spot, add, put, unlink
from ..things import SlabList
from ..victims import first, given, quiet, slab
from .machine import Machine
from .suite import SUITE

_STALE = 0xFFFFFFFF00000000
"""What a page held before it became a slab."""


def _fills_sheaves(machine: Machine) -> bool:
    return machine.prog.type("struct kmem_cache").has_member("sheaf_capacity") and not (
        machine.prog.type("struct kmem_cache").has_member("cpu_slab")
    )


def _plain(what: Any) -> bool:
    cache = what.cache
    return not cache.debug and cache.object.sheaf_capacity.value_() > 0


def _node(member: str) -> Callable[[Any], Spot]:
    return lambda slab: slab.node.spot(member)


# Objects were handed out of it, and its freelist is not written; no node counts it.
for _name, _freelist in (("", _STALE), ("-null", 0)):
    SUITE.state(
        f"slab-handed-out-freelist-not-written{_name}",
        given(
            _fills_sheaves,
            "CPUs take whole slabs",
            slab("partial slab without debugging", quiet, _plain),
        ),
        unlink()
        + put("flags", lambda slab: slab.kept("flags") & ~slab.machine.mark)
        + put("freelist", _freelist)
        + add(_node("nr_partial"), -1)
        + add(_node("nr_slabs.counter"), -1)
        + add(_node("total_objects.counter"), lambda slab: -slab.objects),
    )


# All objects were handed out of it, and no node counts it.
SUITE.state(
    "slab-handed-out-whole-not-counted",
    given(
        _fills_sheaves,
        "CPUs take whole slabs",
        slab("full slab without debugging", lambda s: s.counted == s.objects, _plain),
    ),
    add(_node("nr_slabs.counter"), -1)
    + add(_node("total_objects.counter"), lambda slab: -slab.objects),
)


def _emptied(slabs: List[Any]) -> List[Any]:
    # So many from the front of a list as a sheaf has room for.
    room = slabs[0].cache.object.sheaf_capacity.value_()
    taken: List[Any] = []
    for one in slabs:
        room -= one.objects - one.counted
        if room < 0:
            break
        taken.append(one)
    return taken


def _long_lists(machine: Machine) -> Iterator[SlabList]:
    for cache in machine.caches:
        slabs = machine.standing(cache, "partial")
        # Of a list that is taken whole no slab leads to the head any more; here they are left
        # as they are, so one must stay.
        if slabs and _plain(slabs[0]) and len(machine.cpus) < len(_emptied(slabs)) < len(slabs):
            yield SlabList(cache.node(), "partial", slabs)


def _take(victim: SlabList) -> List[Edit]:
    prog, taken = victim.machine.prog, _emptied(victim.slabs)
    last = prog.read_u64(taken[-1].link)
    edits = [Edit(Spot(prog, victim.address), last), Edit(Spot(prog, last + 8), victim.address)]
    for one in taken:
        edits.append(Edit(one.spot("flags"), one.kept("flags") & ~one.machine.mark))
    count = taken[0].node.spot("nr_partial")
    return [*edits, Edit(count, count.number - len(taken))]


SUITE.state(
    "slabs-taken-to-fill-a-sheaf",
    given(
        _fills_sheaves,
        "CPUs take whole slabs",
        first("list of more slabs than CPUs that fill one sheaf", _long_lists),
    ),
    Change(_take),
)


def _given_back(machine: Machine) -> Iterator[Any]:
    # CPU slabs with two free objects of the CPU's own and some of the slab's.
    for found in machine.cpu_slabs:
        if len(found.entries) > 1 and found.slab.free:
            yield found


def _slab(member: str) -> Callable[[Any], Spot]:
    return lambda cpu: cpu.slab.spot(member)


# Through Linux 5.14 a CPU has its freelist until all of it is the slab's again: two are.
SUITE.state(
    "cpu-slab-given-back-one-by-one",
    given(
        lambda m: not m.prog.type("struct kmem_cache_cpu").has_member("lock"),
        "CPUs have no freelist by then",
        first("CPU slab with objects freed by other CPUs", _given_back),
    ),
    put(lambda cpu: cpu.cache.pointer(cpu.entries[0]), lambda cpu: cpu.slab.free[0])
    + put(lambda cpu: cpu.cache.pointer(cpu.entries[1]), lambda cpu: cpu.entries[0])
    + put(_slab("freelist"), lambda cpu: cpu.entries[1])
    + add(_slab("inuse"), -2),
)
