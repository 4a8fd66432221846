# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to counts and to the word that holds them."""

from __future__ import annotations

from typing import Optional

from .recipe import Injury, recipe
from .slabmachine import Machine, Slab

NODE = frozenset({"node-free-objects", "node-list-length"})
COUNT = NODE | {"list-wrong", "freelist-array", "freelist-index", "freelist-duplicate"}
ANY = COUNT | {"count-range", "claim-twice", "claim-foreign", "count-mismatch"}


def partial(slab: Slab) -> bool:
    """Return whether a slab has several objects of both kinds."""
    return slab.kind == "partial" and 2 <= slab.active <= slab.cache.num - 3


def _count(machine: Machine, slab: Optional[Slab], value: int, code: str) -> Optional[Injury]:
    if slab is None:
        return None
    return Injury(
        [machine.active(slab, value)],
        code,
        slab.cache.name,
        slab.page,
        slab.nid,
        expected=slab.active if code == "count-mismatch" else None,
        also=ANY if code != "count-mismatch" else COUNT,
    )


@recipe
def active_one_too_high(machine: Machine) -> Optional[Injury]:
    # Nothing but the node's sum tells: the array has no entry for it.
    slab = next(machine.all_slabs(partial), None)
    if slab is None:
        return None
    write = machine.active(slab, slab.active + 1)
    return Injury([write], "node-free-objects", slab.cache.name, node=slab.nid)


@recipe
def active_says_full(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(lambda slab: slab.active == slab.cache.num - 1 > 0), None)
    return _count(machine, slab, slab.active + 1 if slab else 0, "count-mismatch")


@recipe
def active_one_too_low_in_full_slab(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(lambda slab: slab.kind == "full" and slab.cache.num > 4), None)
    return _count(machine, slab, slab.active - 1 if slab else 0, "count-mismatch")


@recipe
def active_one_too_low_in_full_on_slab(machine: Machine) -> Optional[Injury]:
    slab = next(
        machine.all_slabs(lambda slab: slab.kind == "full" and slab.cache.mode == "on-slab"), None
    )
    return _count(machine, slab, slab.active - 1 if slab else 0, "count-mismatch")


@recipe
def active_one_too_low_object_in_array(machine: Machine) -> Optional[Injury]:
    def victim(slab: Slab) -> bool:
        return partial(slab) and slab.indexes[slab.active - 1] in machine.parked(slab)

    slab = next(machine.all_slabs(victim), None)
    return _count(machine, slab, slab.active - 1 if slab else 0, "count-mismatch")


@recipe
def active_one_too_low_stale_entry(machine: Machine) -> Optional[Injury]:
    def victim(slab: Slab) -> bool:
        if not partial(slab):
            return False
        stale = slab.indexes[slab.active - 1]
        return stale >= slab.cache.num or stale in slab.free

    slab = next(machine.all_slabs(victim), None)
    return _count(machine, slab, slab.active - 1 if slab else 0, "count-mismatch")


@recipe
def active_one_too_low_object_in_use(machine: Machine) -> Optional[Injury]:
    def victim(slab: Slab) -> bool:
        if not partial(slab):
            return False
        stale = slab.indexes[slab.active - 1]
        taken = stale in slab.free or stale in machine.parked(slab)
        # Under debugging the bytes of the object tell.
        debug = slab.cache.object.flags.value_() & 0xC00
        return stale < slab.cache.num and not taken and not debug

    slab = next(machine.all_slabs(victim), None)
    if slab is None:
        return None
    write = machine.active(slab, slab.active - 1)
    return Injury([write], "node-free-objects", slab.cache.name, node=slab.nid)


@recipe
def active_zero(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    return _count(machine, slab, 0, "count-mismatch")


@recipe
def active_zero_in_full_slab(machine: Machine) -> Optional[Injury]:
    slab = next(
        machine.all_slabs(lambda slab: slab.kind == "full" and slab.cache.mode == "on-slab"), None
    )
    return _count(machine, slab, 0, "count-mismatch")


@recipe
def active_one_over_num(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    return _count(machine, slab, slab.cache.num + 1 if slab else 0, "count-range")


@recipe
def active_65535(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    return _count(machine, slab, 65535, "count-range")


@recipe
def active_65536(machine: Machine) -> Optional[Injury]:
    if machine.layout == "alternative-2":
        return None
    code = "active-overflow" if machine.layout == "rfc-v3" else "count-range"
    return _count(machine, next(machine.all_slabs(partial), None), 65536, code)


@recipe
def active_131072(machine: Machine) -> Optional[Injury]:
    if machine.layout == "alternative-2":
        return None
    code = "active-overflow" if machine.layout == "rfc-v3" else "count-range"
    return _count(machine, next(machine.all_slabs(partial), None), 131072, code)


@recipe
def active_below_zero(machine: Machine) -> Optional[Injury]:
    # A store to 16 bits leaves 65535.
    code = "active-underflow" if machine.layout == "rfc-v3" else "count-range"
    slab = next(machine.all_slabs(lambda slab: slab.kind == "free"), None)
    slab = slab or next(machine.all_slabs(partial), None)
    return _count(machine, slab, -1, code)


def _word(machine: Machine, value: int, code: str) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    if slab is None:
        return None
    also = ANY if machine.layout == "rfc-v3" else frozenset()
    write = machine.word(slab.page, value)
    return Injury([write], code, slab.cache.name, slab.page, slab.nid, also=also)


@recipe
def word_idle(machine: Machine) -> Optional[Injury]:
    if machine.layout == "plain":
        return None
    return _word(machine, 0xFFFFFFFF, "slab-mark-lost")


@recipe
def word_zero(machine: Machine) -> Optional[Injury]:
    if machine.layout == "plain":
        return None
    return _word(machine, 0, "slab-mark-lost")


@recipe
def word_of_another_type(machine: Machine) -> Optional[Injury]:
    if machine.layout == "plain":
        return None
    return _word(machine, 0xFFFBFFFF, "slab-mark-lost")


@recipe
def word_slab_and_guard(machine: Machine) -> Optional[Injury]:
    # With a count in the lower half this is what a count of 0x80000 looks like.
    if machine.layout == "plain":
        return None
    rfc = machine.layout == "rfc-v3"
    return _word(machine, 0xFFE7FFFF, "active-overflow" if rfc else "type-conflict")


@recipe
def word_reserved_bit(machine: Machine) -> Optional[Injury]:
    if machine.layout == "plain":
        return None
    slab = next(machine.all_slabs(partial), None)
    count = slab.active if slab and machine.layout == "rfc-v3" else 0
    return _word(machine, 0xFFCFFFFF - count, "type-conflict")


@recipe
def mark_lost(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    if slab is None:
        return None
    if machine.layout == "plain":
        flags = machine.prog.read_u64(slab.page)
        bit = 1 << machine.prog["PG_slab"].value_()
        write = machine.flags(slab.page, flags & ~bit)
        return Injury([write], "slab-mark-lost", slab.cache.name, slab.page, slab.nid)
    count = slab.active if machine.layout == "rfc-v3" else 0
    return _word(machine, 0xFFFFFFFF - count, "slab-mark-lost")


@recipe
def mark_stray(machine: Machine) -> Optional[Injury]:
    page = machine.user_page()
    if machine.layout == "plain":
        bit = 1 << machine.prog["PG_slab"].value_()
        write = machine.flags(page, machine.prog.read_u64(page) | bit)
    else:
        write = machine.word(page, 0xFFEFFFFF)
    return Injury([write], "slab-mark-stray", slab=page)


@recipe
def mark_stray_on_tail(machine: Machine) -> Optional[Injury]:
    # Where slab is a page flag, nobody asks a tail for it.
    slab = next(machine.all_slabs(lambda slab: slab.cache.order == 1), None)
    if slab is None or machine.layout == "plain":
        return None
    page = slab.page + 64
    return Injury([machine.word(page, 0xFFEFFFFF)], "slab-mark-stray", slab=page)


def _counter(machine: Machine, name: str, change: int, code: str) -> Optional[Injury]:
    for cache in machine.caches:
        node = cache.nodes[0]
        if node is not None and cache.name == "dentry":
            value = node.member_(name).value_() + change
            write = machine.node(node, name, value)
            return Injury([write], code, cache.name, node=0, place=name, expected=value - change)
    return None


@recipe
def total_slabs_too_high(machine: Machine) -> Optional[Injury]:
    return _counter(machine, "total_slabs", 1, "node-list-length")


@recipe
def free_slabs_too_high(machine: Machine) -> Optional[Injury]:
    return _counter(machine, "free_slabs", 1, "node-list-length")


@recipe
def free_objects_too_high(machine: Machine) -> Optional[Injury]:
    return _counter(machine, "free_objects", 1, "node-free-objects")


@recipe
def free_objects_too_low(machine: Machine) -> Optional[Injury]:
    return _counter(machine, "free_objects", -1, "node-free-objects")


@recipe
def free_objects_below_zero(machine: Machine) -> Optional[Injury]:
    return _counter(machine, "free_objects", -(1 << 40), "node-free-objects")
