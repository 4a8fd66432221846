# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to the lists of nodes, and to the list of caches."""

from __future__ import annotations

from typing import List

from drgn import offsetof

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..writes import GARBAGE, value
from .machine import Machine, Slab
from .suite import LISTS, NODE, recipe

_POISON = 0xDEAD000000000100  # what list_del() leaves


def _link(machine: Machine, slab: Slab, prev: int, target: int, kind: str = "partial") -> Injury:
    # next is the first word of a struct list_head, prev the second.
    write = value(machine.link(slab) + 8 * prev, target)
    return on_slab(slab, "list-links", write, place=kind, found=target, also=LISTS)


def _list(machine: Machine) -> List[Slab]:
    return machine.listed(4)


@recipe
def next_link_of_first_garbage(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[0], 0, GARBAGE)


@recipe
def next_link_poisoned(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[1], 0, _POISON)


@recipe
def next_link_null(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[1], 0, 0)


@recipe
def next_link_of_last_garbage(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[-1], 0, GARBAGE)


@recipe
def next_leads_to_itself(machine: Machine) -> Injury:
    slab = _list(machine)[1]
    return _link(machine, slab, 0, machine.link(slab))


@recipe
def next_leads_back(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _link(machine, slabs[2], 0, machine.link(slabs[0]))


@recipe
def next_skips(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _link(machine, slabs[0], 0, machine.link(slabs[2]))


@recipe
def next_leads_to_head_too_early(machine: Machine) -> Injury:
    slab = _list(machine)[1]
    return _link(machine, slab, 0, machine.head(slab.cache, slab.nid))


@recipe
def next_leads_to_another_cache(machine: Machine) -> Injury:
    slab = _list(machine)[1]
    other = machine.slab(
        "list of another cache",
        lambda other: other.where == "partial" and other.cache is not slab.cache,
    )
    return _link(machine, slab, 0, machine.link(other))


@recipe
def next_link_misaligned(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _link(machine, slabs[1], 0, machine.link(slabs[2]) + 8)


@recipe
def prev_link_null(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[1], 1, 0)


@recipe
def prev_of_first_wrong(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _link(machine, slabs[0], 1, machine.link(slabs[2]))


@recipe
def prev_of_last_garbage(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[-1], 1, GARBAGE)


@recipe
def next_on_full_list_garbage(machine: Machine) -> Injury:
    return _link(machine, machine.listed(4, "full")[1], 0, GARBAGE, "full")


# The head.


def _head(machine: Machine, slab: Slab, *numbers: int) -> Injury:
    at = machine.head(slab.cache, slab.nid)
    old = machine.prog.read_u64(at), machine.prog.read_u64(at + 8)
    writes = [value(at + 8 * i, new) for i, new in enumerate(numbers) if new != old[i]]
    cache = slab.cache.name
    return Injury(writes, "list-broken", cache, node=slab.nid, place="partial", also=LISTS)


@recipe
def list_head_next_null(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _head(machine, slabs[0], 0)


@recipe
def list_head_next_garbage(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _head(machine, slabs[0], GARBAGE)


@recipe
def list_head_prev_wrong(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _head(machine, slabs[0], machine.link(slabs[0]), machine.link(slabs[1]))


@recipe
def list_head_emptied(machine: Machine) -> Injury:
    """INIT_LIST_HEAD() of a list that is not empty."""
    slab = _list(machine)[0]
    at = machine.head(slab.cache, slab.nid)
    return _head(machine, slab, at, at)


# Membership.


@recipe
def partial_slab_lost(machine: Machine) -> Injury:
    slab = _list(machine)[1]
    writes = machine.unlink(slab)
    return on_slab(slab, "list-missing", *writes, also=NODE)


@recipe
def partial_slab_lost_without_mark(machine: Machine) -> Injury:
    """It looks like a slab that was just taken off its list."""
    if not machine.mark:
        raise NoVictim("no mark on partial slabs before 6.8")
    slab = next((slab for slab in _list(machine) if slab.free), None)
    if slab is None:
        raise NoVictim("no slab with free objects on a list")
    flags = machine.flags(slab.page) & ~machine.mark
    writes = [*machine.unlink(slab), value(slab.page, flags)]
    return on_slab(slab, "slab-in-transit", *writes, also=NODE, changing=True)


@recipe
def full_slab_lost(machine: Machine) -> Injury:
    slab = machine.listed(4, "full")[1]
    writes = machine.unlink(slab)
    return on_slab(slab, "list-missing", *writes, also=NODE)


@recipe
def full_slab_on_partial(machine: Machine) -> Injury:
    slab = machine.slab(
        "full slab",
        lambda slab: slab.where in ("nowhere", "full") and slab.inuse == slab.objects,
    )
    writes = machine.unlink(slab) if slab.where == "full" else []
    writes += machine.push(slab, machine.head(slab.cache, slab.nid))
    return on_slab(slab, "list-wrong", *writes, also=NODE, place="partial")


@recipe
def partial_slab_on_full(machine: Machine) -> Injury:
    full = {slab.cache.address for slab in machine.slabs.values() if slab.where == "full"}
    slab = machine.slab(
        "slab of a cache with full slabs on a list",
        lambda slab: slab.quiet and slab.cache.address in full,
    )
    at = machine.head(slab.cache, slab.nid, "full")
    writes = [
        *machine.unlink(slab),
        *machine.push(slab, at),
    ]
    return on_slab(slab, "list-wrong", *writes, also=NODE, place="full")


@recipe
def slab_on_list_of_another_cache(machine: Machine) -> Injury:
    slab = _list(machine)[1]
    other = machine.slab(
        "list of another cache",
        lambda other: other.where == "partial" and other.cache.size != slab.cache.size,
    )
    at = machine.head(other.cache, other.nid)
    writes = [
        *machine.unlink(slab),
        *machine.push(slab, at),
    ]
    return Injury(
        writes,
        "list-wrong",
        other.cache.name,
        slab.page,
        other.nid,
        place="partial",
        also=NODE | {"list-missing"},
        others=frozenset({slab.cache.name}),
    )


@recipe
def slab_on_list_of_another_node(machine: Machine) -> Injury:
    slab = _list(machine)[1]
    if len(slab.cache.nodes) < 2 or not slab.cache.nodes[1]:
        raise NoVictim("no second node")
    at = machine.head(slab.cache, 1)
    writes = [
        *machine.unlink(slab),
        *machine.push(slab, at),
    ]
    return on_slab(slab, "slab-node-wrong", *writes, also=NODE)


# The list of caches.


def _caches(machine: Machine, prev: int, target: int) -> Injury:
    cache = machine.caches[2]
    at = cache.address + offsetof(machine.prog.type("struct kmem_cache"), "list") + 8 * prev
    return Injury([value(at, target)], "cache-list", place="slab_caches", found=target)


@recipe
def next_cache_garbage(machine: Machine) -> Injury:
    return _caches(machine, 0, GARBAGE)


@recipe
def next_cache_itself(machine: Machine) -> Injury:
    cache = machine.caches[2]
    at = cache.address + offsetof(machine.prog.type("struct kmem_cache"), "list")
    return _caches(machine, 0, at)


@recipe
def previous_cache_garbage(machine: Machine) -> Injury:
    return _caches(machine, 1, GARBAGE)
