# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to free pointers and to the heads of slabs' freelists."""

from __future__ import annotations

from typing import Dict

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..writes import GARBAGE, value
from .machine import Machine, Slab
from .suite import pointer, recipe


def _other_slab(machine: Machine, slab: Slab) -> Slab:
    # Another slab of the same cache.
    return machine.slab(
        "two slabs of a cache",
        lambda other: other.cache is slab.cache and other.page != slab.page,
    )


def _next(machine: Machine, code: str, slab: Slab, target: int, position: int = 1) -> Injury:
    write = pointer(machine, slab, slab.free[position], target)
    found = target if code != "count-mismatch" else slab.inuse
    return on_slab(slab, code, write, place="freelist", found=found)


def _lasting(machine: Machine) -> Slab:
    # A quiet slab of a cache that has other slabs too.
    many: Dict[int, int] = {}
    for slab in machine.slabs.values():
        many[slab.cache.address] = many.get(slab.cache.address, 0) + 1
    return machine.slab(
        "partial slab among others",
        lambda slab: slab.quiet and many[slab.cache.address] > 1,
    )


@recipe
def next_garbage(machine: Machine) -> Injury:
    """Something wrote over a free object."""
    slab = machine.quiet()
    write = value(slab.free[1] + slab.cache.offset, 0x4141414141414141)
    return on_slab(slab, "freelist-pointer", write, place="freelist")


@recipe
def next_garbage_in_cpu_partial(machine: Machine) -> Injury:
    slab = machine.slab(
        "slab kept by a CPU", lambda slab: slab.where == "cpu partial" and len(slab.free) > 2
    )
    return _next(machine, "freelist-pointer", slab, GARBAGE)


@recipe
def next_of_last_garbage(machine: Machine) -> Injury:
    return _next(machine, "freelist-pointer", machine.quiet(), GARBAGE, -1)


@recipe
def next_null(machine: Machine) -> Injury:
    """The chain is cut: the objects behind are on no list."""
    return _next(machine, "count-mismatch", machine.quiet(), 0)


@recipe
def next_null_in_cpu_partial(machine: Machine) -> Injury:
    slab = machine.slab(
        "slab kept by a CPU", lambda slab: slab.where == "cpu partial" and len(slab.free) > 2
    )
    return _next(machine, "count-mismatch", slab, 0)


@recipe
def next_skips_one(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _next(machine, "count-mismatch", slab, slab.free[3])


@recipe
def next_itself(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _next(machine, "freelist-cycle", slab, slab.free[1])


@recipe
def next_first(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _next(machine, "freelist-cycle", slab, slab.free[0], -1)


@recipe
def next_misaligned(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _next(machine, "freelist-pointer", slab, slab.free[2] + 4)


@recipe
def next_behind_last_object(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _next(machine, "freelist-pointer", slab, slab.slot(slab.objects))


@recipe
def next_in_other_slab(machine: Machine) -> Injury:
    slab = _lasting(machine)
    return _next(machine, "freelist-pointer", slab, _other_slab(machine, slab).first)


@recipe
def next_in_other_cache(machine: Machine) -> Injury:
    slab = machine.quiet()
    other = machine.slab("slab of another cache", lambda other: other.cache is not slab.cache)
    return _next(machine, "freelist-pointer", slab, other.first)


@recipe
def next_plain(machine: Machine) -> Injury:
    """A pointer stored in the clear where the kernel hardens them."""
    slab = machine.slab("hardened cache", lambda slab: slab.quiet and slab.cache.random is not None)
    write = value(slab.free[1] + slab.cache.offset, slab.free[2])
    return on_slab(slab, "freelist-pointer", write, place="freelist")


@recipe
def next_hardened_as_before_5_7(machine: Machine) -> Injury:
    """A pointer stored with the address of its word not byte-swapped."""
    slab = machine.slab("hardened cache", lambda slab: slab.quiet and slab.cache.random is not None)
    where = slab.free[1] + slab.cache.offset
    assert slab.cache.random is not None
    write = value(where, slab.free[2] ^ slab.cache.random ^ where)
    return on_slab(slab, "freelist-pointer", write, place="freelist")


@recipe
def next_one_bit_flipped(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _next(machine, "freelist-pointer", slab, slab.free[2] ^ 1 << 40)


@recipe
def next_in_use(machine: Machine) -> Injury:
    """The chain leads into an object that somebody uses, and from there nowhere."""
    for slab in machine.slabs.values():
        if not slab.quiet:
            continue
        for used in machine.used(slab):
            word = machine.prog.read_u64(used + slab.cache.offset)
            after = machine.code(slab.cache, used, word)
            if after and not slab.start <= after < slab.start + (4096 << slab.order):
                write = pointer(machine, slab, slab.free[1], used)
                return on_slab(slab, "freelist-pointer", write, place="freelist", found=after)
    raise NoVictim("no object in use beside free ones")


@recipe
def freed_twice(machine: Machine) -> Injury:
    """A free object is freed again: it is linked in front of what already leads to it."""
    slab = machine.quiet()
    twice = slab.free[2]
    return on_slab(
        slab,
        "freelist-cycle",
        pointer(machine, slab, twice, slab.free[0]),
        machine.member(slab, "freelist", twice),
        machine.member(slab, "inuse", slab.inuse - 1),
        place="freelist",
        found=twice,
    )


# The head.


def _head(machine: Machine, code: str, slab: Slab, target: int, found: int) -> Injury:
    write = machine.member(slab, "freelist", target)
    return on_slab(slab, code, write, place="freelist", found=found)


@recipe
def head_garbage(machine: Machine) -> Injury:
    return _head(machine, "freelist-pointer", machine.quiet(), GARBAGE, GARBAGE)


@recipe
def head_small(machine: Machine) -> Injury:
    """An address that some dumps map onto physical memory."""
    return _head(machine, "freelist-pointer", machine.quiet(), 0x1000, 0x1000)


@recipe
def head_null(machine: Machine) -> Injury:
    slab = machine.quiet()
    injury = _head(machine, "count-mismatch", slab, 0, slab.inuse)
    return _with(injury, {"list-wrong"})


@recipe
def head_misaligned(machine: Machine) -> Injury:
    slab = machine.quiet()
    target = slab.free[0] + 1
    return _head(machine, "freelist-pointer", slab, target, target)


@recipe
def head_skips_one(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _head(machine, "count-mismatch", slab, slab.free[1], slab.inuse)


@recipe
def head_in_other_slab(machine: Machine) -> Injury:
    slab = _lasting(machine)
    target = _other_slab(machine, slab).first
    return _head(machine, "freelist-pointer", slab, target, target)


@recipe
def head_encoded(machine: Machine) -> Injury:
    """A head that was stored the way the pointers inside objects are."""
    slab = machine.slab("hardened cache", lambda slab: slab.quiet and slab.cache.random is not None)
    target = machine.code(slab.cache, slab.free[0], slab.free[0])
    return _head(machine, "freelist-pointer", slab, target, target)


@recipe
def head_of_full_slab_garbage(machine: Machine) -> Injury:
    slab = _full(machine)
    injury = _head(machine, "freelist-pointer", slab, GARBAGE, GARBAGE)
    return _with(injury, {"list-missing", "slab-in-transit", "list-wrong"})


@recipe
def head_of_full_slab_in_use(machine: Machine) -> Injury:
    """A full slab suddenly has something to give."""
    slab = _full(machine)
    used = slab.slot(1)
    injury = on_slab(
        slab,
        "count-mismatch",
        machine.member(slab, "freelist", used),
        pointer(machine, slab, used, 0),
        place="freelist",
        found=slab.inuse,
    )
    return _with(injury, {"list-missing", "slab-in-transit", "list-wrong", "claim-twice"})


def _full(machine: Machine) -> Slab:
    return machine.slab(
        "full slab",
        lambda slab: (
            slab.where in ("nowhere", "full")
            and slab.inuse == slab.objects > 4
            and not slab.frozen
            and not slab.cache.name.startswith("kmalloc")  # the allocator lives there
            and not set(machine.used(slab)) ^ set(map(slab.slot, range(slab.objects)))
        ),
    )


def _with(injury: Injury, also: set[str]) -> Injury:
    # The same with more that may follow.
    return Injury(**{**vars(injury), "also": injury.also | also})
