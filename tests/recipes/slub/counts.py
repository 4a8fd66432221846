# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to the counts of slabs and nodes, and to frozen and the partial mark."""

from __future__ import annotations

from ..language import Injury, NoVictim
from ..machine import on_slab
from ..overlay import Write
from ..writes import field, value
from .machine import Machine, Slab
from .suite import NODE, recipe


def _inuse(machine: Machine, slab: Slab, number: int) -> Injury:
    code = "count-range" if number > slab.objects else "count-mismatch"
    expected = slab.objects if code == "count-range" else slab.inuse
    write = machine.member(slab, "inuse", number)
    also = frozenset({"list-wrong", "list-missing", "slab-frozen", "count-mismatch"})
    return on_slab(slab, code, write, expected=expected, found=number, also=also)


@recipe
def inuse_one_too_high(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _inuse(machine, slab, slab.inuse + 1)


@recipe
def inuse_one_too_low(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _inuse(machine, slab, slab.inuse - 1)


@recipe
def inuse_zero(machine: Machine) -> Injury:
    return _inuse(machine, machine.quiet(), 0)


@recipe
def inuse_all(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _inuse(machine, slab, slab.objects)


@recipe
def inuse_more_than_objects(machine: Machine) -> Injury:
    slab = machine.quiet()
    return _inuse(machine, slab, slab.objects + 1)


@recipe
def inuse_65535(machine: Machine) -> Injury:
    """Below zero: one free too many in an empty slab."""
    slab = machine.slab("slab", lambda slab: slab.quiet and slab.objects < 0x7FFF)
    return _inuse(machine, slab, 0xFFFF)


def _full(machine: Machine) -> Slab:
    return machine.slab(
        "full slab",
        lambda slab: (
            slab.where in ("nowhere", "full") and slab.inuse == slab.objects > 2 and not slab.frozen
        ),
    )


@recipe
def inuse_of_full_slab_too_low(machine: Machine) -> Injury:
    slab = _full(machine)
    return _inuse(machine, slab, slab.inuse - 1)


@recipe
def inuse_of_cpu_slab_too_low(machine: Machine) -> Injury:
    slab = machine.slab("CPU slab", lambda slab: slab.where == "cpu" and slab.inuse > 1)
    return _inuse(machine, slab, slab.inuse - 1)


@recipe
def inuse_of_cpu_partial_too_high(machine: Machine) -> Injury:
    slab = machine.slab(
        "slab kept by a CPU", lambda slab: slab.where == "cpu partial" and len(slab.free) > 1
    )
    return _inuse(machine, slab, slab.inuse + 1)


@recipe
def inuse_of_empty_slab_one(machine: Machine) -> Injury:
    slab = machine.slab(
        "empty slab", lambda slab: slab.where == "partial" and not slab.inuse and slab.objects > 1
    )
    return _inuse(machine, slab, 1)


# Objects of a slab.


def _objects(machine: Machine, number: int) -> Injury:
    slab = machine.quiet()
    write = machine.member(slab, "objects", slab.objects + number if number else 0)
    return on_slab(slab, "slab-objects-wrong", write, expected=slab.objects)


@recipe
def objects_one_too_many(machine: Machine) -> Injury:
    return _objects(machine, 1)


@recipe
def objects_one_too_few(machine: Machine) -> Injury:
    return _objects(machine, -1)


@recipe
def objects_zero(machine: Machine) -> Injury:
    return _objects(machine, 0)


# Nodes.


def _node(machine: Machine, name: str, change: int, code: str) -> Injury:
    slab = machine.quiet()
    node = slab.cache.nodes[slab.nid]
    layout = "struct kmem_cache_node"
    path = name if name == "nr_partial" else f"{name}.counter"
    at = field(machine.prog, layout, node, path, 0).address
    kept = machine.prog.read_u64(at)
    return Injury(
        [value(at, kept + change)],
        code,
        slab.cache.name,
        node=slab.nid,
        place=name,
        expected=kept,
    )


@recipe
def nr_partial_too_high(machine: Machine) -> Injury:
    return _node(machine, "nr_partial", 1, "node-list-length")


@recipe
def nr_partial_too_low(machine: Machine) -> Injury:
    return _node(machine, "nr_partial", -1, "node-list-length")


@recipe
def nr_partial_below_zero(machine: Machine) -> Injury:
    return _node(machine, "nr_partial", -(1 << 20), "node-list-length")


@recipe
def nr_slabs_too_high(machine: Machine) -> Injury:
    return _node(machine, "nr_slabs", 1, "node-slabs")


@recipe
def nr_slabs_too_low(machine: Machine) -> Injury:
    return _node(machine, "nr_slabs", -1, "node-slabs")


@recipe
def total_objects_too_high(machine: Machine) -> Injury:
    return _node(machine, "total_objects", 1, "node-objects")


@recipe
def total_objects_too_low(machine: Machine) -> Injury:
    return _node(machine, "total_objects", -1, "node-objects")


# Frozen.


def _frozen(machine: Machine, slab: Slab, frozen: int, code: str, **more: bool) -> Injury:
    return on_slab(slab, code, machine.member(slab, "frozen", frozen), also=NODE, **more)


@recipe
def frozen_on_partial(machine: Machine) -> Injury:
    return _frozen(machine, machine.quiet(), 1, "slab-frozen")


@recipe
def frozen_and_full(machine: Machine) -> Injury:
    """It looks like a slab that a CPU is about to take, or has just given up."""
    slab = _full(machine)
    if slab.where == "full" or not machine.has_cpu_slabs:
        return _frozen(machine, slab, 1, "slab-frozen")
    return _frozen(machine, slab, 1, "slab-in-transit", changing=True)


@recipe
def cpu_slab_not_frozen(machine: Machine) -> Injury:
    slab = machine.slab("CPU slab", lambda slab: slab.where == "cpu" and slab.frozen)
    return _frozen(machine, slab, 0, "slab-frozen")


@recipe
def cpu_partial_not_frozen(machine: Machine) -> Injury:
    slab = machine.slab(
        "frozen slab kept by a CPU", lambda slab: slab.where == "cpu partial" and slab.frozen
    )
    return _frozen(machine, slab, 0, "slab-frozen")


@recipe
def cpu_partial_frozen(machine: Machine) -> Injury:
    slab = machine.slab(
        "slab kept by a CPU and not frozen",
        lambda slab: slab.where == "cpu partial" and not slab.frozen,
    )
    return _frozen(machine, slab, 1, "slab-frozen")


# The partial mark.


def _flip(machine: Machine, slab: Slab) -> Write:
    if not machine.mark:
        raise NoVictim("no mark on partial slabs before 6.8")
    return value(slab.page, machine.flags(slab.page) ^ machine.mark)


@recipe
def partial_mark_lost(machine: Machine) -> Injury:
    slab = machine.quiet()
    return on_slab(slab, "slab-frozen", _flip(machine, slab), also=NODE)


@recipe
def partial_mark_on_cpu_slab(machine: Machine) -> Injury:
    slab = machine.slab("CPU slab", lambda slab: slab.where == "cpu")
    return on_slab(slab, "slab-frozen", _flip(machine, slab))


@recipe
def partial_mark_on_cpu_partial(machine: Machine) -> Injury:
    slab = machine.slab("slab kept by a CPU", lambda slab: slab.where == "cpu partial")
    return on_slab(slab, "slab-frozen", _flip(machine, slab))


@recipe
def partial_mark_on_full_slab(machine: Machine) -> Injury:
    slab = _full(machine)
    return on_slab(slab, "slab-frozen", _flip(machine, slab))
