# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to lists, and to what slabs say of themselves."""

from __future__ import annotations

from typing import List

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..writes import GARBAGE, value
from .machine import Machine, Slab
from .suite import ANY, NODE, partial, recipe, some_partial

LIST = frozenset({"list-missing", "list-twice", "list-wrong"}) | NODE
_POISON = 0xDEAD000000000100  # what list_del() leaves


def _list(machine: Machine, kind: str = "partial", least: int = 6) -> List[Slab]:
    # The first list of node 0 with so many slabs.
    for slabs in machine.slabs.values():
        found = [slab for slab in slabs if slab.kind == kind and slab.nid == 0]
        if len(found) >= least:
            return found
    raise NoVictim(f"no {kind} list of {least} slabs")


def _link(machine: Machine, slab: Slab, prev: int, target: int) -> Injury:
    # next is the first word of a struct list_head, prev the second.
    write = value(machine.link(slab) + 8 * prev, target)
    return on_slab(slab, "list-links", write, place=slab.kind, also=LIST)


@recipe
def next_link_poisoned(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[2], 0, _POISON)


@recipe
def next_link_null(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[2], 0, 0)


@recipe
def next_link_of_last_null(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[-1], 0, 0)


@recipe
def next_leads_to_itself(machine: Machine) -> Injury:
    slab = _list(machine)[2]
    return _link(machine, slab, 0, machine.link(slab))


@recipe
def next_leads_back(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _link(machine, slabs[3], 0, machine.link(slabs[1]))


@recipe
def next_skips(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _link(machine, slabs[1], 0, machine.link(slabs[3]))


@recipe
def next_leads_to_another_list(machine: Machine) -> Injury:
    slabs = _list(machine)
    full = [slab for slab in machine.slabs[slabs[0].cache.name] if slab.kind == "full"]
    if len(full) < 2:
        raise NoVictim("no two full slabs beside them")
    return _link(machine, slabs[2], 0, machine.link(full[1]))


@recipe
def next_leads_to_another_cache(machine: Machine) -> Injury:
    slab = _list(machine)[2]
    other = machine.slab("slab of another cache", lambda other: other.cache.name != slab.cache.name)
    return _link(machine, slab, 0, machine.link(other))


@recipe
def prev_link_null(machine: Machine) -> Injury:
    return _link(machine, _list(machine)[2], 1, 0)


@recipe
def prev_of_first_wrong(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _link(machine, slabs[0], 1, machine.link(slabs[2]))


# The head.


def _head(machine: Machine, slab: Slab, **links: int) -> Injury:
    at = machine.head(slab.cache, slab.nid, slab.kind)
    writes = [value(at + 8 * ("next", "prev").index(name), to) for name, to in links.items()]
    cache = slab.cache.name
    return Injury(writes, "list-broken", cache, node=slab.nid, place=slab.kind, also=LIST)


@recipe
def list_head_next_null(machine: Machine) -> Injury:
    return _head(machine, _list(machine)[0], next=0)


@recipe
def list_head_prev_wrong(machine: Machine) -> Injury:
    slabs = _list(machine)
    return _head(machine, slabs[0], prev=machine.link(slabs[1]))


@recipe
def list_head_emptied(machine: Machine) -> Injury:
    """INIT_LIST_HEAD() of a list that is not empty: the first slab still leads back to it."""
    slab = _list(machine)[0]
    at = machine.head(slab.cache, slab.nid, slab.kind)
    return _head(machine, slab, next=at, prev=at)


# Membership.


def _moved(machine: Machine, slab: Slab, kind: str) -> Injury:
    head = machine.head(slab.cache, slab.nid, kind)
    writes = [*machine.unlink(slab), *machine.push(slab, head)]
    return on_slab(slab, "list-wrong", *writes, place=kind, also=NODE)


@recipe
def full_slab_on_partial(machine: Machine) -> Injury:
    return _moved(machine, _list(machine, "full")[2], "partial")


@recipe
def full_slab_on_free(machine: Machine) -> Injury:
    return _moved(machine, _list(machine, "full")[2], "free")


@recipe
def partial_slab_on_full(machine: Machine) -> Injury:
    return _moved(machine, _list(machine)[2], "full")


@recipe
def partial_slab_on_free(machine: Machine) -> Injury:
    return _moved(machine, _list(machine)[2], "free")


@recipe
def free_slab_on_full(machine: Machine) -> Injury:
    return _moved(machine, _list(machine, "free", 2)[1], "full")


def _lost(machine: Machine, slab: Slab) -> Injury:
    return on_slab(slab, "list-missing", *machine.unlink(slab), also=NODE)


@recipe
def partial_slab_lost(machine: Machine) -> Injury:
    return _lost(machine, _list(machine)[2])


@recipe
def full_slab_lost(machine: Machine) -> Injury:
    return _lost(machine, _list(machine, "full")[2])


# What a slab says of itself.


def _says(machine: Machine, slab: Slab, target: int) -> Injury:
    return on_slab(slab, "slab-cache-wrong", machine.member(slab, "slab_cache", target), also=ANY)


@recipe
def cache_pointer_null(machine: Machine) -> Injury:
    return _says(machine, some_partial(machine), 0)


@recipe
def cache_pointer_of_another_cache(machine: Machine) -> Injury:
    slab = some_partial(machine)
    other = next(cache for cache in machine.caches if cache.name != slab.cache.name)
    return _says(machine, slab, other.address)


@recipe
def cache_pointer_shifted(machine: Machine) -> Injury:
    slab = some_partial(machine)
    return _says(machine, slab, slab.cache.address + 8)


def _base(machine: Machine, slab: Slab, shift: int) -> Injury:
    write = machine.first_object(slab, slab.first + shift)
    return on_slab(slab, "slab-base-wrong", write, also=ANY)


@recipe
def first_object_shifted_by_8(machine: Machine) -> Injury:
    return _base(machine, some_partial(machine), 8)


@recipe
def first_object_shifted_by_a_slot(machine: Machine) -> Injury:
    slab = machine.slab(
        "partial slab of a cache with one colour, with objects in arrays",
        lambda slab: partial(slab) and bool(machine.parked(slab)) and slab.cache.colours == 1,
    )
    return _base(machine, slab, slab.cache.size)


@recipe
def first_object_beyond_the_colours(machine: Machine) -> Injury:
    slab = machine.slab(
        "partial slab of the first colour",
        lambda slab: partial(slab) and slab.first == slab.start,
    )
    return _base(machine, slab, 64 * slab.cache.colours)


def _order(machine: Machine, order: int) -> Injury:
    slab = machine.slab("slab of two pages", lambda slab: slab.cache.order == 1 and slab.active > 0)
    write = value(machine.order_at(slab.page), order, 1)
    return on_slab(slab, "slab-order-wrong", write)


@recipe
def order_zero(machine: Machine) -> Injury:
    return _order(machine, 0)


@recipe
def order_200(machine: Machine) -> Injury:
    return _order(machine, 200)


@recipe
def node_of_page_wrong(machine: Machine) -> Injury:
    slab = machine.slab("partial slab of node 0", lambda slab: partial(slab) and slab.nid == 0)
    flags = machine.flags(slab.page) | 3 << (64 - machine.nodes_shift)
    also = NODE | {"claim-node"}
    return on_slab(slab, "slab-node-wrong", value(slab.page, flags), node=None, also=also)


@recipe
def node_pointer_wild(machine: Machine) -> Injury:
    cache = machine.cache("dentry")
    return Injury(
        [machine.node_pointer(cache, 0, GARBAGE)],
        "container-state",
        cache.name,
        node=0,
        also=LIST,
        others=frozenset("*"),
    )


# Two nodes.


@recipe
def slab_on_list_of_another_node(machine: Machine) -> Injury:
    slab = _list(machine, "full")[2]
    head = machine.head(slab.cache, 1, slab.kind)
    writes = [*machine.unlink(slab), *machine.push(slab, head)]
    return on_slab(slab, "slab-node-wrong", *writes, node=None, also=NODE)


@recipe
def entry_of_another_node(machine: Machine) -> Injury:
    for cache in machine.caches:
        try:
            array = machine.spare_array(cache, 0)
        except NoVictim:
            continue
        for slab in machine.slabs[cache.name]:
            if slab.nid == 1 and slab.kind == "full":
                parked = machine.parked(slab)
                used = next((i for i in range(cache.num) if i not in parked), None)
                if used is not None:
                    write = machine.entry(array, 1, slab.slot(used))
                    return Injury([write], "claim-node", cache.name, slab.page, cpu=array.owner)
    raise NoVictim("no full slab of a second node")


@recipe
def alien_entry_of_own_node(machine: Machine) -> Injury:
    for array in machine.all_arrays(lambda array: array.kind == "alien"):
        for slab in machine.slabs[array.cache.name]:
            if slab.nid == array.owner and slab.kind == "full" and array.entries:
                parked = machine.parked(slab)
                used = next((i for i in range(array.cache.num) if i not in parked), None)
                if used is not None:
                    write = machine.entry(array, 0, slab.slot(used))
                    return Injury([write], "claim-node", array.cache.name, slab.page)
    raise NoVictim("no alien array with entries")
