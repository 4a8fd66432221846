# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Whose objects
-------------

The objects of a cache by the memory cgroup that they are charged to, by the NUMA
node whose memory they are in, and by the CPU that keeps free ones or has their slab.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, Program
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.cgroup import cgroup_path

from ..allocators.vectors import vectors
from ..arguments import CacheLike, at_least
from ..ledger import I64, U64, Bools, Ledger
from ..machine import Machine, has_contents, machine
from ..machine.columns import Rows
from ..records import Listing, Record
from ..shapes import Address, Bytes
from .caches import CpuUsage, cpus_of, sums
from .guarded import guarded_counts
from .lookup import lookup
from .missing import missing_of_cache, missing_of_machine
from .objects import is_damaged
from .states import ObjectState, object_states

_Told = Tuple[Optional[str], Optional[int], bool]  # path, struct mem_cgroup *, whether it dies
_Found = Dict[_Told, Tuple[int, int]]  # objects and their bytes


@dataclass(frozen=True)
class Owner(Record):
    """Objects in use that are charged to one memory cgroup."""

    path: Optional[str]
    """Of the cgroup; ``None`` if that is not in the target."""
    memcg: Optional[Address]
    """``struct mem_cgroup *``"""
    objects: int
    """How many."""
    bytes: Bytes
    """``size`` each: what they cost."""
    dying: bool = False
    """Whether the cgroup was removed and lives on for what is charged to it."""


@dataclass
class OwnersAnswer(Listing):
    """The objects of a cache by who has them."""

    LISTED = "owners"

    cache: str
    """Name of the slab cache."""
    objects: int
    """In use."""
    owners: List[Owner] = field(default_factory=list)
    """Most objects first."""
    uncharged: int = 0
    """Objects in use that are charged to no cgroup."""
    unknown: int = 0
    """Objects in use of which the record is not in the target."""
    nodes: Dict[int, int] = field(default_factory=dict)
    """Objects in use by NUMA node."""
    cpus: Dict[int, int] = field(default_factory=dict)
    """Objects that each CPU keeps for later, waiting ones included."""
    guarded: int = 0
    """Objects in KFENCE's pool, which are in none of the slabs, and not looked at."""
    found: Optional[int] = None
    """Owners, also those that are not told."""
    node_bytes: Dict[int, int] = field(default_factory=dict)
    """What the objects in use cost, in bytes, by NUMA node: ``size`` each."""
    per_cpu: List[CpuUsage] = field(default_factory=list)
    """What each CPU has: free and waiting objects in its places, its slabs, and what users hold
    in those."""
    unavailable: Tuple[str, ...] = ()
    """What is missing because it is not in the target, or cannot be reached."""
    contradicted: int = 0
    """Objects about which the structures contradict each other; they are nobody's."""
    damaged: bool = False
    """Whether there is a finding about the cache; never of a target that moves."""


def owners(prog: Program, cache: CacheLike, *, most: Optional[int] = None) -> OwnersAnswer:
    """
    Return who has the objects of a cache.

    >>> answer = owners(prog, "kmalloc-64")
    >>> answer.objects, answer.uncharged, answer.nodes
    (653, 653, {0: 653})
    >>> for owner in answer:
    ...     print(owner.objects, owner.path, owner.dying)

    :param cache: Its name, that of a cache merged into it, or ``struct kmem_cache *``.
    :param most: Tell no more than so many owners.
    :raises ArgumentError: if there is no such cache.
    """
    at_least("most", most)
    kernel = machine(prog)
    reading = lookup(kernel)
    whole = reading.whole.allocator
    number = reading.number(cache)
    answer = OwnersAnswer(whole.caches.names[number], 0)
    found: _Found = {}
    guarded = guarded_counts(kernel)
    missing = [*missing_of_machine(reading.whole)]
    for one, memcg in _with_those_of_cgroups(whole.caches.rows, number):
        answer.guarded += guarded[int(whole.caches.addresses[one])]
        ledger = whole.collect(one, reading.whole.index)
        missing += missing_of_cache(reading.whole, one, ledger)
        _count(kernel, ledger, memcg, answer, found)
    answer.unavailable = tuple(missing)
    answer.damaged = is_damaged(reading, number)
    answer.owners = _listed(found)
    answer.found = len(answer.owners)
    if most is not None:
        del answer.owners[most:]
    return answer


def _with_those_of_cgroups(rows: Rows, number: int) -> List[Tuple[int, int]]:
    # Until Linux kernel commit 9855609bde03 ("mm: memcg/slab: use a single set of
    # kmem_caches for all accounted allocations") (in v5.9), each memory cgroup has caches
    # of its own, "dentry(27:lab)". Their numbers beside that of a cache, each with the
    # struct mem_cgroup * that all of its objects are charged to, or 0.
    if not rows.structure.has("memcg_params.root_cache"):
        return [(number, 0)]
    roots, cgroups = rows["memcg_params.root_cache"], rows["memcg_params.memcg"]
    mine = [number, *np.flatnonzero(rows.ok & (roots == rows.addresses[number])).tolist()]
    return [(one, int(cgroups[one]) if roots[one] else 0) for one in mine]


def _count(
    kernel: Machine, ledger: Ledger, memcg: int, answer: OwnersAnswer, found: _Found
) -> None:
    objects = object_states(ledger)
    held = np.flatnonzero(objects.state == ObjectState.IN_USE)
    slab, index = objects.slab[held], objects.index[held]
    answer.objects += len(held)
    answer.contradicted += int(np.count_nonzero(objects.state == ObjectState.UNKNOWN))
    stride = ledger.facts.stride
    nodes, counts = np.unique(ledger.slabs.nid[slab], return_counts=True)
    for node, count in zip(nodes.tolist(), counts.tolist()):
        answer.nodes[node] = answer.nodes.get(node, 0) + count
        answer.node_bytes[node] = answer.node_bytes.get(node, 0) + count * stride
    _count_cpus(ledger, answer)
    if memcg:
        _add(found, _told(kernel, memcg), len(held), stride)
        return
    charged, known = charges(kernel, ledger.slabs.page, stride, slab, index)
    answer.unknown += int(np.count_nonzero(~known))
    answer.uncharged += int(np.count_nonzero(charged[known] == 0))
    _add_groups(kernel, charged[known], stride, found)


def _count_cpus(ledger: Ledger, answer: OwnersAnswer) -> None:
    known = {cpu.cpu: cpu for cpu in answer.per_cpu}
    for cpu in cpus_of(ledger):
        answer.cpus[cpu.cpu] = answer.cpus.get(cpu.cpu, 0) + sum(cpu.free.values())
        same = known.setdefault(cpu.cpu, cpu)
        if same is not cpu:
            same.lists, same.free = sums([same.lists, cpu.lists]), sums([same.free, cpu.free])
            same.waiting += cpu.waiting
            same.in_use += cpu.in_use
    answer.per_cpu = [known[cpu] for cpu in sorted(known)]


def _add(found: _Found, told: _Told, count: int, stride: int) -> None:
    if count:
        objects, size = found.get(told, (0, 0))
        found[told] = objects + count, size + count * stride


def _listed(found: _Found) -> List[Owner]:
    return sorted(
        (
            Owner(path, memcg, count, size, dying)
            for (path, memcg, dying), (count, size) in found.items()
        ),
        key=lambda owner: -owner.objects,
    )


def grouped(kernel: Machine, charged: U64, stride: int) -> List[Owner]:
    """
    Return who some objects are charged to, most objects first.

    A memory cgroup has had other object cgroups before it was removed, or on other
    nodes: those that lead to one are one owner.

    :param charged: ``struct obj_cgroup *`` of each object; 0 for none.
    :param stride: Bytes from one object to the next.
    """
    found: _Found = {}
    _add_groups(kernel, charged, stride, found)
    return _listed(found)


def _add_groups(kernel: Machine, charged: U64, stride: int, found: _Found) -> None:
    groups, counts = np.unique(charged[charged != 0], return_counts=True)
    for group, count in zip(groups.tolist(), counts.tolist()):
        _add(found, _memcg(kernel, group), count, stride)


def charges(kernel: Machine, pages: U64, stride: int, slab: I64, index: I64) -> Tuple[U64, Bools]:
    """
    Return the ``struct obj_cgroup *`` of objects, 0 for none; and of which it could be told.

    :param pages: ``struct slab *`` of slabs of one cache.
    :param stride: Bytes from one of its objects to the next.
    :param slab: Row of *pages* of each object.
    :param index: Position of each in its slab.
    """
    start, step = vectors(kernel, pages, stride)
    charged = np.zeros(len(slab), np.uint64)
    known = np.ones(len(slab), np.bool_)
    with_vector = np.flatnonzero(start[slab] != 0)
    rows = slab[with_vector]
    where = start[rows] + index[with_vector].astype(np.uint64) * step[rows]
    gathered = kernel.memory.gather(where, kernel.memory.word_size)
    charged[with_vector] = gathered.bytes.view(kernel.memory.word)[:, 0]
    # The vectors are objects of kmalloc(), or lie beside those of users.
    known[with_vector] = gathered.ok & has_contents(kernel)
    return charged, known


def _memcg(kernel: Machine, group: int) -> _Told:
    try:
        if not kernel.memory.is_kernel_address(np.array([group], np.uint64))[0]:
            return None, None, False
        memcg = Object(kernel.prog, "struct obj_cgroup *", group).memcg.value_()
    except (AttributeError, FaultError, LookupError):
        return None, None, False
    return _told(kernel, memcg) if memcg else (None, None, False)


def _told(kernel: Machine, address: int) -> _Told:
    try:
        memcg = Object(kernel.prog, "struct mem_cgroup *", address)
        path = escape_ascii_string(cgroup_path(memcg.css.cgroup), escape_backslash=True)
        online = kernel.prog.constant("CSS_ONLINE")
        return path, address, not memcg.css.flags.value_() & int(online)
    except (AttributeError, FaultError, LookupError):
        return None, address, False
