# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to counts and to the word that holds them."""

from __future__ import annotations

from drgn import sizeof

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..writes import value
from .machine import Machine, Slab
from .suite import ANY, COUNT, partial, recipe, some_partial


def _count(machine: Machine, slab: Slab, number: int, code: str) -> Injury:
    mismatch = code == "count-mismatch"
    return on_slab(
        slab,
        code,
        machine.active(slab, number),
        expected=slab.active if mismatch else None,
        also=COUNT if mismatch else ANY,
    )


def _unseen(machine: Machine, slab: Slab, number: int) -> Injury:
    # Nothing but the node's sum tells: the array has no entry for it.
    write = machine.active(slab, number)
    return Injury([write], "node-free-objects", slab.cache.name, node=slab.nid)


@recipe
def active_one_too_high(machine: Machine) -> Injury:
    slab = some_partial(machine)
    return _unseen(machine, slab, slab.active + 1)


@recipe
def active_says_full(machine: Machine) -> Injury:
    slab = machine.slab(
        "slab with one free object", lambda slab: slab.active == slab.cache.num - 1 > 0
    )
    return _count(machine, slab, slab.active + 1, "count-mismatch")


@recipe
def active_one_too_low_in_full_slab(machine: Machine) -> Injury:
    slab = machine.slab("full slab", lambda slab: slab.kind == "full" and slab.cache.num > 4)
    return _count(machine, slab, slab.active - 1, "count-mismatch")


def _full_on_slab(machine: Machine) -> Slab:
    return machine.slab(
        "full slab with its array at its end",
        lambda slab: slab.kind == "full" and slab.cache.mode == "on-slab",
    )


@recipe
def active_one_too_low_in_full_on_slab(machine: Machine) -> Injury:
    slab = _full_on_slab(machine)
    return _count(machine, slab, slab.active - 1, "count-mismatch")


@recipe
def active_one_too_low_object_in_array(machine: Machine) -> Injury:
    slab = machine.slab(
        "slab whose last taken object is in an array",
        lambda slab: partial(slab) and slab.indexes[slab.active - 1] in machine.parked(slab),
    )
    return _count(machine, slab, slab.active - 1, "count-mismatch")


@recipe
def active_one_too_low_stale_entry(machine: Machine) -> Injury:
    def victim(slab: Slab) -> bool:
        if not partial(slab):
            return False
        stale = slab.indexes[slab.active - 1]
        return stale >= slab.cache.num or stale in slab.free

    slab = machine.slab("slab with such a stale entry", victim)
    return _count(machine, slab, slab.active - 1, "count-mismatch")


@recipe
def active_one_too_low_object_in_use(machine: Machine) -> Injury:
    def victim(slab: Slab) -> bool:
        if not partial(slab):
            return False
        stale = slab.indexes[slab.active - 1]
        taken = stale in slab.free or stale in machine.parked(slab)
        # Under debugging the bytes of the object tell.
        debug = slab.cache.object.flags.value_() & 0xC00
        return stale < slab.cache.num and not taken and not debug

    slab = machine.slab("slab whose last taken object is in use", victim)
    return _unseen(machine, slab, slab.active - 1)


@recipe
def active_zero(machine: Machine) -> Injury:
    return _count(machine, some_partial(machine), 0, "count-mismatch")


@recipe
def active_zero_in_full_slab(machine: Machine) -> Injury:
    return _count(machine, _full_on_slab(machine), 0, "count-mismatch")


@recipe
def active_one_over_num(machine: Machine) -> Injury:
    slab = some_partial(machine)
    return _count(machine, slab, slab.cache.num + 1, "count-range")


@recipe
def active_65535(machine: Machine) -> Injury:
    return _count(machine, some_partial(machine), 65535, "count-range")


def _beyond_16_bits(machine: Machine, number: int) -> Injury:
    if machine.layout == "alternative-2":
        raise NoVictim("the count has 16 bits")
    code = "active-overflow" if machine.layout == "rfc-v3" else "count-range"
    return _count(machine, some_partial(machine), number, code)


@recipe
def active_65536(machine: Machine) -> Injury:
    return _beyond_16_bits(machine, 65536)


@recipe
def active_131072(machine: Machine) -> Injury:
    return _beyond_16_bits(machine, 131072)


@recipe
def active_below_zero(machine: Machine) -> Injury:
    """A store to 16 bits leaves 65535."""
    code = "active-underflow" if machine.layout == "rfc-v3" else "count-range"
    try:
        slab = machine.slab("empty slab", lambda slab: slab.kind == "free")
    except NoVictim:
        slab = some_partial(machine)
    return _count(machine, slab, -1, code)


# The page_type word.


def _word(machine: Machine, number: int, code: str) -> Injury:
    if machine.layout == "plain":
        raise NoVictim("slab is no page type")
    slab = some_partial(machine)
    also = ANY if machine.layout == "rfc-v3" else frozenset()
    return on_slab(slab, code, machine.word(slab.page, number), also=also)


def _in_word(machine: Machine, slab: Slab) -> int:
    # What the word holds of the count.
    return slab.active if machine.layout == "rfc-v3" else 0


@recipe
def word_idle(machine: Machine) -> Injury:
    return _word(machine, 0xFFFFFFFF, "slab-mark-lost")


@recipe
def word_zero(machine: Machine) -> Injury:
    return _word(machine, 0, "slab-mark-lost")


@recipe
def word_of_another_type(machine: Machine) -> Injury:
    return _word(machine, 0xFFFBFFFF, "slab-mark-lost")


@recipe
def word_slab_and_guard(machine: Machine) -> Injury:
    """With a count in the lower half this is what a count of 0x80000 looks like."""
    rfc = machine.layout == "rfc-v3"
    return _word(machine, 0xFFE7FFFF, "active-overflow" if rfc else "type-conflict")


@recipe
def word_reserved_bit(machine: Machine) -> Injury:
    count = _in_word(machine, some_partial(machine))
    return _word(machine, 0xFFCFFFFF - count, "type-conflict")


@recipe
def mark_lost_on_partial(machine: Machine) -> Injury:
    slab = some_partial(machine)
    if machine.layout != "plain":
        return _word(machine, 0xFFFFFFFF - _in_word(machine, slab), "slab-mark-lost")
    flags = machine.flags(slab.page) & ~(machine.slab_flag or 0)
    return on_slab(slab, "slab-mark-lost", value(slab.page, flags))


@recipe
def mark_on_page_of_user(machine: Machine) -> Injury:
    page = machine.user_page()
    if machine.layout == "plain":
        write = value(page, machine.flags(page) | (machine.slab_flag or 0))
    else:
        write = machine.word(page, 0xFFEFFFFF)
    return Injury([write], "slab-mark-stray", slab=page)


@recipe
def mark_on_tail(machine: Machine) -> Injury:
    if machine.layout == "plain":
        raise NoVictim("nobody asks a tail for its flags")
    slab = machine.slab("slab of two pages", lambda slab: slab.cache.order == 1)
    page = slab.page + sizeof(machine.prog.type("struct page"))
    return Injury([machine.word(page, 0xFFEFFFFF)], "slab-mark-stray", slab=page)


# Nodes.


def _counter(machine: Machine, name: str, change: int, code: str) -> Injury:
    cache = machine.cache("dentry")
    kept = machine.node(cache).member_(name).value_()
    write = machine.node_member(cache, 0, name, kept + change)
    return Injury([write], code, cache.name, node=0, place=name, expected=kept)


@recipe
def total_slabs_too_high(machine: Machine) -> Injury:
    return _counter(machine, "total_slabs", 1, "node-list-length")


@recipe
def free_slabs_too_high(machine: Machine) -> Injury:
    return _counter(machine, "free_slabs", 1, "node-list-length")


@recipe
def free_objects_too_high(machine: Machine) -> Injury:
    return _counter(machine, "free_objects", 1, "node-free-objects")


@recipe
def free_objects_too_low(machine: Machine) -> Injury:
    return _counter(machine, "free_objects", -1, "node-free-objects")


@recipe
def free_objects_below_zero(machine: Machine) -> Injury:
    return _counter(machine, "free_objects", -(1 << 40), "node-free-objects")
