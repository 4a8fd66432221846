# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to lists, and to what slabs say of themselves."""

from __future__ import annotations

from typing import List, Optional

from drgn import offsetof

from .recipe import Injury, recipe
from .slabcounts import ANY, NODE, partial
from .slabmachine import Machine, Slab, pointer

LIST = frozenset({"list-missing", "list-twice", "list-wrong"}) | NODE


def _long_list(machine: Machine, kind: str = "partial", least: int = 6) -> List[Slab]:
    for slabs in machine.slabs.values():
        found = [slab for slab in slabs if slab.kind == kind and slab.nid == 0]
        if len(found) >= least:
            return found
    return []


def _link(machine: Machine, slab: Slab, member: int, value: int) -> Injury:
    return Injury(
        [pointer(machine.link(slab) + 8 * member, value)],
        "list-links",
        slab.cache.name,
        slab.page,
        slab.nid,
        place=slab.kind,
        also=LIST,
    )


@recipe
def next_poisoned(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _link(machine, slabs[2], 0, 0xDEAD000000000100) if slabs else None


@recipe
def next_null(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _link(machine, slabs[2], 0, 0) if slabs else None


@recipe
def next_of_last_null(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _link(machine, slabs[-1], 0, 0) if slabs else None


@recipe
def next_leads_to_itself(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _link(machine, slabs[2], 0, machine.link(slabs[2])) if slabs else None


@recipe
def next_leads_back(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _link(machine, slabs[3], 0, machine.link(slabs[1])) if slabs else None


@recipe
def next_skips(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _link(machine, slabs[1], 0, machine.link(slabs[3])) if slabs else None


@recipe
def next_leads_to_another_list(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    if not slabs:
        return None
    full = [slab for slab in machine.slabs[slabs[0].cache.name] if slab.kind == "full"]
    return _link(machine, slabs[2], 0, machine.link(full[1])) if len(full) > 1 else None


@recipe
def next_leads_to_another_cache(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    if not slabs:
        return None
    other = next(machine.all_slabs(lambda slab: slab.cache.name != slabs[0].cache.name))
    return _link(machine, slabs[2], 0, machine.link(other))


@recipe
def prev_null(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _link(machine, slabs[2], 1, 0) if slabs else None


@recipe
def prev_of_first_wrong(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _link(machine, slabs[0], 1, machine.link(slabs[2])) if slabs else None


@recipe
def head_next_null(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    if not slabs:
        return None
    head = machine.head(slabs[0].cache, 0, "partial")
    write = pointer(head, 0)
    cache = slabs[0].cache.name
    return Injury([write], "list-broken", cache, node=0, place="partial", also=LIST)


@recipe
def head_prev_wrong(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    if not slabs:
        return None
    head = machine.head(slabs[0].cache, 0, "partial")
    write = pointer(head + 8, machine.link(slabs[1]))
    cache = slabs[0].cache.name
    return Injury([write], "list-broken", cache, node=0, place="partial", also=LIST)


def _moved(machine: Machine, slab: Slab, kind: str) -> Injury:
    head = machine.head(slab.cache, slab.nid, kind)
    return Injury(
        [*machine.unlink(slab), *machine.push(slab, head)],
        "list-wrong",
        slab.cache.name,
        slab.page,
        slab.nid,
        place=kind,
        also=NODE,
    )


@recipe
def full_slab_on_partial(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine, "full")
    return _moved(machine, slabs[2], "partial") if slabs else None


@recipe
def full_slab_on_free(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine, "full")
    return _moved(machine, slabs[2], "free") if slabs else None


@recipe
def partial_slab_on_full(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _moved(machine, slabs[2], "full") if slabs else None


@recipe
def partial_slab_on_free(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine)
    return _moved(machine, slabs[2], "free") if slabs else None


@recipe
def free_slab_on_full(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine, "free", 2)
    return _moved(machine, slabs[1], "full") if slabs else None


def _lost(machine: Machine, slabs: List[Slab]) -> Optional[Injury]:
    if not slabs:
        return None
    slab = slabs[2]
    writes = machine.unlink(slab)
    return Injury(writes, "list-missing", slab.cache.name, slab.page, slab.nid, also=NODE)


@recipe
def partial_slab_lost(machine: Machine) -> Optional[Injury]:
    return _lost(machine, _long_list(machine))


@recipe
def full_slab_lost(machine: Machine) -> Optional[Injury]:
    return _lost(machine, _long_list(machine, "full"))


@recipe
def list_emptied(machine: Machine) -> Optional[Injury]:
    # INIT_LIST_HEAD() of a list that is not empty: the first of the lost
    # slabs still leads back to its head.
    slabs = _long_list(machine)
    if not slabs:
        return None
    head = machine.head(slabs[0].cache, 0, "partial")
    cache = slabs[0].cache.name
    writes = [pointer(head, head), pointer(head + 8, head)]
    return Injury(writes, "list-broken", cache, node=0, place="partial", also=LIST)


# What a slab says of itself.


def _said(machine: Machine, member: str, value: int, code: str) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    if slab is None:
        return None
    write = machine.member(slab.page, member, value)
    return Injury([write], code, slab.cache.name, slab.page, slab.nid, also=ANY)


@recipe
def cache_pointer_null(machine: Machine) -> Optional[Injury]:
    return _said(machine, "slab_cache", 0, "slab-cache-wrong")


@recipe
def cache_pointer_of_another_cache(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    other = next(cache for cache in machine.caches if slab and cache.name != slab.cache.name)
    return _said(machine, "slab_cache", other.address, "slab-cache-wrong")


@recipe
def cache_pointer_shifted(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    return _said(machine, "slab_cache", slab.cache.address + 8 if slab else 0, "slab-cache-wrong")


def _base(machine: Machine, slab: Optional[Slab], shift: int) -> Optional[Injury]:
    if slab is None:
        return None
    write = machine.first_object(slab, slab.first + shift)
    cache = slab.cache.name
    return Injury([write], "slab-base-wrong", cache, slab.page, slab.nid, also=ANY)


@recipe
def first_object_shifted_by_8(machine: Machine) -> Optional[Injury]:
    return _base(machine, next(machine.all_slabs(partial), None), 8)


@recipe
def first_object_shifted_by_a_slot(machine: Machine) -> Optional[Injury]:
    def victim(slab: Slab) -> bool:
        return partial(slab) and bool(machine.parked(slab)) and slab.cache.colours == 1

    slab = next(machine.all_slabs(victim), None)
    return _base(machine, slab, slab.cache.size if slab else 0)


@recipe
def first_object_beyond_the_colours(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(lambda slab: partial(slab) and slab.first == slab.start), None)
    return _base(machine, slab, 64 * slab.cache.colours if slab else 0)


@recipe
def order_zero(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(lambda slab: slab.cache.order == 1 and slab.active > 0), None)
    if slab is None:
        return None
    at = slab.page + 64 + machine.order_offset
    write = machine.byte(at, 0)
    return Injury([write], "slab-order-wrong", slab.cache.name, slab.page, slab.nid)


@recipe
def order_too_great(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(lambda slab: slab.cache.order == 1 and slab.active > 0), None)
    if slab is None:
        return None
    at = slab.page + 64 + machine.order_offset
    write = machine.byte(at, 200)
    return Injury([write], "slab-order-wrong", slab.cache.name, slab.page, slab.nid)


@recipe
def node_of_page_wrong(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(lambda slab: partial(slab) and slab.nid == 0), None)
    if slab is None:
        return None
    shift = 64 - (machine.caches[0].object.type_.type.member("node").type.length - 1).bit_length()
    flags = machine.prog.read_u64(slab.page) | 3 << shift
    also = frozenset({"claim-node"}) | NODE
    write = machine.flags(slab.page, flags)
    return Injury([write], "slab-node-wrong", slab.cache.name, slab.page, also=also)


@recipe
def node_pointer_wild(machine: Machine) -> Optional[Injury]:
    cache = next(cache for cache in machine.caches if cache.name == "dentry")
    at = cache.address + offsetof(machine.prog.type("struct kmem_cache"), "node")
    others = frozenset(cache.name for cache in machine.caches)
    return Injury(
        [pointer(at, 0x6B6B6B6B6B6B6B6B)],
        "container-state",
        cache.name,
        node=0,
        also=LIST,
        others=others,
    )


# Two nodes.


@recipe
def slab_on_list_of_another_node(machine: Machine) -> Optional[Injury]:
    slabs = _long_list(machine, "full")
    if not slabs or len(slabs[0].cache.nodes) < 2 or slabs[0].cache.nodes[1] is None:
        return None
    slab = slabs[2]
    head = machine.head(slab.cache, 1, slab.kind)
    writes = [*machine.unlink(slab), *machine.push(slab, head)]
    return Injury(writes, "slab-node-wrong", slab.cache.name, slab.page, also=NODE)


@recipe
def entry_of_another_node(machine: Machine) -> Optional[Injury]:
    for cache in machine.caches:
        array = machine.spare_array(cache, 0)
        for slab in machine.slabs[cache.name] if array else ():
            if slab.nid == 1 and slab.kind == "full":
                parked = machine.parked(slab)
                used = next((i for i in range(cache.num) if i not in parked), None)
                if array is not None and used is not None:
                    write = machine.entry(array, 1, slab.slot(used))
                    return Injury([write], "claim-node", cache.name, slab.page, cpu=array.owner)
    return None


@recipe
def alien_entry_of_own_node(machine: Machine) -> Optional[Injury]:
    for array in machine.all_arrays(lambda array: array.kind == "alien"):
        for slab in machine.slabs[array.cache.name]:
            if slab.nid == array.owner and slab.kind == "full" and array.entries:
                parked = machine.parked(slab)
                used = next((i for i in range(array.cache.num) if i not in parked), None)
                if used is not None:
                    write = machine.entry(array, 0, slab.slot(used))
                    return Injury([write], "claim-node", array.cache.name, slab.page)
    return None
