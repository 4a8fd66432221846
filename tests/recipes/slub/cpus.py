# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to CPU slabs and to the chains of slabs that CPUs keep (to Linux 6.19)."""

from __future__ import annotations

from typing import Tuple

from drgn.helpers.linux.percpu import per_cpu_ptr

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..overlay import Write
from ..writes import GARBAGE, field, value
from .machine import Cache, Chain, CpuSlab, Machine, Slab
from .suite import NODE, pointer, recipe

_TWICE = frozenset({"claim-twice"})
_LOST = NODE | {"slab-in-transit", "list-missing"}


def _cpu(machine: Machine, least: int = 3) -> CpuSlab:
    # A CPU slab with so many objects on the CPU's own freelist.
    for found in machine.cpu_slabs:
        if len(found.free) >= least and found.slab.inuse > least:
            return found
    raise NoVictim("no CPU slab with free objects")


def _write(machine: Machine, address: int, name: str, number: int) -> Write:
    name = machine.cpu_member if name == "slab" else name
    return field(machine.prog, "struct kmem_cache_cpu", address, name, number)


def _idle(machine: Machine, cache: Cache) -> Tuple[int, int]:
    # A CPU that has no slab of a cache, and its structure.
    for cpu in machine.cpus:
        if not any(c.cache is cache and c.cpu == cpu for c in machine.cpu_slabs):
            return cpu, per_cpu_ptr(cache.object.cpu_slab, cpu).value_()
    raise NoVictim("no CPU without a slab")


def _freelist(machine: Machine, code: str, target: int) -> Injury:
    found = _cpu(machine)
    write = _write(machine, found.address, "freelist", target)
    return on_slab(found.slab, code, write, cpu=found.cpu, place="cpu freelist", found=target)


@recipe
def cpu_freelist_garbage(machine: Machine) -> Injury:
    return _freelist(machine, "freelist-pointer", GARBAGE)


@recipe
def cpu_freelist_misaligned(machine: Machine) -> Injury:
    return _freelist(machine, "freelist-pointer", _cpu(machine).free[0] + 4)


@recipe
def cpu_freelist_in_other_slab(machine: Machine) -> Injury:
    slab = _cpu(machine).slab
    other = machine.slab(
        "second slab of a cache",
        lambda other: other.cache is slab.cache and other.page != slab.page,
    )
    return _freelist(machine, "freelist-pointer", other.first)


@recipe
def cpu_freelist_next_garbage(machine: Machine) -> Injury:
    found = _cpu(machine)
    write = pointer(machine, found.slab, found.free[1], GARBAGE)
    return on_slab(
        found.slab, "freelist-pointer", write, cpu=found.cpu, place="cpu freelist", found=GARBAGE
    )


@recipe
def cpu_freelist_cycle(machine: Machine) -> Injury:
    found = _cpu(machine)
    first = found.free[0]
    write = pointer(machine, found.slab, found.free[-1], first)
    return on_slab(
        found.slab, "freelist-cycle", write, cpu=found.cpu, place="cpu freelist", found=first
    )


@recipe
def cpu_object_also_on_slab_freelist(machine: Machine) -> Injury:
    """An object freed twice: to its CPU, and from another one to the slab."""
    for found in machine.cpu_slabs:
        slab = found.slab
        if len(found.free) > 1 and slab.inuse > len(found.free) and not slab.free:
            return on_slab(
                slab,
                "claim-twice",
                machine.member(slab, "freelist", found.free[-1]),
                machine.member(slab, "inuse", slab.inuse - 1),
                object=found.free[-1],
            )
    raise NoVictim("no CPU slab with free objects")


@recipe
def cpu_freelist_leads_into_slab_freelist(machine: Machine) -> Injury:
    for found in machine.cpu_slabs:
        if found.free and found.slab.free:
            write = pointer(machine, found.slab, found.free[-1], found.slab.free[0])
            return on_slab(found.slab, "claim-twice", write, also=_TWICE)
    raise NoVictim("no CPU slab with objects freed by other CPUs")


@recipe
def cpu_slab_forgotten(machine: Machine) -> Injury:
    """The slab is gone and its freelist is not, as for a moment when a slab is given back."""
    found = _cpu(machine)
    write = _write(machine, found.address, "slab", 0)
    return Injury(
        [write],
        "container-state",
        found.cache.name,
        cpu=found.cpu,
        place="cpu slab",
        found=found.free[0],
        also=_LOST,
        changing=True,
    )


@recipe
def cpu_slab_garbage(machine: Machine) -> Injury:
    found = _cpu(machine)
    write = _write(machine, found.address, "slab", GARBAGE)
    return Injury(
        [write],
        "container-state",
        found.cache.name,
        cpu=found.cpu,
        place="cpu slab",
        found=GARBAGE,
        also=_LOST,
    )


@recipe
def cpu_slab_also_on_partial_list(machine: Machine) -> Injury:
    for slab in machine.slabs.values():
        if not slab.quiet or not machine.has_cpu_slabs or slab.cache.debug:
            continue
        try:
            _, c = _idle(machine, slab.cache)
        except NoVictim:
            continue
        write = _write(machine, c, "slab", slab.page)
        return on_slab(slab, "list-twice", write, also=NODE)
    raise NoVictim("no CPU without a slab of a cache with a partial list")


@recipe
def cpu_slab_of_two_cpus(machine: Machine) -> Injury:
    for found in machine.cpu_slabs:
        try:
            _, c = _idle(machine, found.cache)
        except NoVictim:
            continue
        write = _write(machine, c, "slab", found.slab.page)
        return on_slab(found.slab, "list-twice", write, also=_TWICE)
    raise NoVictim("no CPU slabs")


@recipe
def cpu_slab_and_freelist_of_two_cpus(machine: Machine) -> Injury:
    for found in machine.cpu_slabs:
        try:
            _, c = _idle(machine, found.cache)
        except NoVictim:
            continue
        if found.free:
            writes = [
                _write(machine, c, "slab", found.slab.page),
                _write(machine, c, "freelist", found.free[0]),
            ]
            also = _TWICE | {"list-twice"}
            return on_slab(found.slab, "claim-twice", *writes, also=also)
    raise NoVictim("no CPU slabs")


@recipe
def cpu_slab_of_another_cache(machine: Machine) -> Injury:
    slab = machine.quiet()
    for cache in machine.caches:
        if machine.has_cpu_slabs and cache.size != slab.cache.size and not cache.debug:
            try:
                cpu, c = _idle(machine, cache)
            except NoVictim:
                continue
            write = _write(machine, c, "slab", slab.page)
            return Injury([write], "list-wrong", cache.name, slab.page, cpu=cpu, place="cpu slab")
    raise NoVictim("no CPU slabs")


# Chains of partial slabs.


def _chain(machine: Machine, least: int) -> Chain:
    for chain in machine.chains:
        if len(chain.slabs) >= least:
            return chain
    raise NoVictim(f"no CPU keeps {least} slabs")


def _broken(machine: Machine, chain: Chain, at: int, target: int) -> Injury:
    slab = chain.slabs[at]
    write = machine.member(slab, "next", target)
    return on_slab(
        slab,
        "list-broken",
        write,
        cpu=chain.cpu,
        place="cpu partial",
        found=target,
        also=_LOST,
    )


@recipe
def cpu_partial_next_garbage(machine: Machine) -> Injury:
    return _broken(machine, _chain(machine, 3), 1, GARBAGE)


@recipe
def cpu_partial_cycle(machine: Machine) -> Injury:
    chain = _chain(machine, 3)
    return _broken(machine, chain, -1, chain.slabs[0].page)


@recipe
def cpu_partial_head_garbage(machine: Machine) -> Injury:
    chain = _chain(machine, 2)
    return Injury(
        [value(chain.head, GARBAGE)],
        "list-broken",
        chain.cache.name,
        cpu=chain.cpu,
        place="cpu partial",
        found=GARBAGE,
        also=_LOST,
    )


@recipe
def cpu_partial_cut(machine: Machine) -> Injury:
    """The count in the slab before the cut tells that more should follow."""
    chain = _chain(machine, 3)
    slab = chain.slabs[1]
    return on_slab(
        chain.slabs[0],
        "container-count",
        machine.member(slab, "next", 0),
        cpu=chain.cpu,
        place="cpu partial",
        expected=2,
        found=len(chain.slabs),
        also=_LOST,
    )


def _count(machine: Machine, change: int) -> Injury:
    chain = _chain(machine, 2)
    slab = chain.slabs[0]
    name = "pages" if machine.descriptor == "struct page" else "slabs"
    kept = len(chain.slabs)
    return on_slab(
        slab,
        "container-count",
        machine.member(slab, name, kept + change),
        cpu=chain.cpu,
        place="cpu partial",
        expected=kept,
        found=kept + change,
    )


@recipe
def cpu_partial_counts_too_many(machine: Machine) -> Injury:
    return _count(machine, 1)


@recipe
def cpu_partial_counts_too_few(machine: Machine) -> Injury:
    return _count(machine, -1)


def _into(machine: Machine, chain: Chain, slab: Slab) -> Injury:
    last = chain.slabs[-1]
    write = machine.member(last, "next", slab.page)
    return on_slab(last, "list-broken", write, cpu=chain.cpu, place="cpu partial", found=slab.page)


@recipe
def cpu_partial_leads_to_partial_list(machine: Machine) -> Injury:
    for chain in machine.chains:
        for slab in machine.slabs.values():
            if slab.quiet and slab.cache is chain.cache:
                return _into(machine, chain, slab)
    raise NoVictim("no CPU keeps slabs of a cache with a partial list")


@recipe
def cpu_partial_leads_to_another_cache(machine: Machine) -> Injury:
    chain = _chain(machine, 2)
    for slab in machine.slabs.values():
        full = slab.where == "nowhere" and slab.inuse == slab.objects
        if full and slab.cache.size != chain.cache.size:
            return _into(machine, chain, slab)
    raise NoVictim("no slab of another cache")
