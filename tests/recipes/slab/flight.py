# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Work in progress
----------------

States in which a kernel can be stopped, put together by hand in a dump. None
of them is damage: a check may say that something is changing, and no more.
"""

from __future__ import annotations

from typing import Iterator, List, Sequence, Tuple

from drgn import offsetof, sizeof

from ..language import NoVictim
from ..overlay import Write
from ..writes import value
from .machine import Array, Cache, Machine, Slab
from .suite import state

POISON = 0xDEAD000000000100, 0xDEAD000000000122


def _full_array(machine: Machine) -> Iterator[Tuple[Cache, Array, List[int], List[int]]]:
    # Caches whose CPU arrays can be made full, with the entries of the full
    # array and objects that lie on freelists of the same node.
    for cache in machine.caches:
        free = [
            slab.slot(index)
            for slab in machine.slabs[cache.name]
            if slab.nid == 0 and slab.indexes
            for index in slab.free
        ]
        for array in machine.arrays[cache.name]:
            entries = list(array.entries)
            usable = array.kind == "cpu" and 2 * len(entries) > array.limit < len(free)
            if usable and machine.node_of(entries[0]) == 0:
                yield cache, array, entries, free


def _fill(machine: Machine, array: Array, entries: Sequence[int]) -> List[Write]:
    writes = [machine.array(array, "avail", len(entries))]
    return writes + [machine.entry(array, at, entry) for at, entry in enumerate(entries)]


@state
def array_given_back_before_count(machine: Machine) -> Sequence[Write]:
    for _, array, entries, free in _full_array(machine):
        if len(entries) == array.limit:
            batch = array.limit // 2
            return _fill(machine, array, free[:batch] + entries[batch:])
    raise NoVictim("no full array beside enough free objects")


@state
def array_given_back_some_taken(machine: Machine) -> Sequence[Write]:
    # Another CPU has handed out some of the batch meanwhile.
    for _, array, entries, free in _full_array(machine):
        if len(entries) == array.limit:
            batch = array.limit // 2
            kept = [free[at] if at % 3 else entries[at] for at in range(batch)]
            return _fill(machine, array, kept + entries[batch:])
    raise NoVictim("no full array beside enough free objects")


@state
def array_count_lowered_before_move(machine: Machine) -> Sequence[Write]:
    for _, array, _, free in _full_array(machine):
        return _fill(machine, array, free[: array.limit - array.limit // 2])
    raise NoVictim("no array beside enough free objects")


@state
def array_half_moved(machine: Machine) -> Sequence[Write]:
    for _, array, entries, free in _full_array(machine):
        batch = array.limit // 2
        moved = batch // 3
        return _fill(machine, array, entries[:moved] + free[moved:batch])
    raise NoVictim("no array beside enough free objects")


@state
def array_given_to_shared(machine: Machine) -> Sequence[Write]:
    for cache in machine.caches:
        for array in machine.arrays[cache.name]:
            shared = next((a for a in machine.arrays[cache.name] if a.kind == "shared"), None)
            if array.kind != "cpu" or shared is None or len(array.entries) != array.limit:
                continue
            room = min(array.limit // 2, shared.limit - len(shared.entries))
            if room and shared.owner == machine.node_of(array.entries[0]):
                return _fill(machine, shared, shared.entries + array.entries[:room])
    raise NoVictim("no full array beside a shared one with room")


@state
def array_drained(machine: Machine) -> Sequence[Write]:
    for cache in machine.caches:
        free = [
            slab.slot(index)
            for slab in machine.slabs[cache.name]
            if slab.nid == 0
            for index in slab.free
        ]
        for array in machine.arrays[cache.name]:
            usable = array.kind == "cpu" and 1 < len(array.entries) <= len(free)
            if usable and machine.node_of(array.entries[0]) == 0:
                return _fill(machine, array, free[: len(array.entries)])
    raise NoVictim("no array beside enough free objects")


def _off_list(machine: Machine, slab: Slab) -> List[Write]:
    # The slab leaves its list and all counters.
    node = machine.node(slab.cache, slab.nid)
    counters = {"total_slabs": 1, "free_objects": slab.cache.num - slab.active}
    if slab.kind == "free":
        counters["free_slabs"] = 1
    changes = [
        machine.node_member(slab.cache, slab.nid, name, node.member_(name).value_() - change)
        for name, change in counters.items()
    ]
    return machine.unlink(slab) + changes


def _links(machine: Machine, slab: Slab, after: int, before: int) -> List[Write]:
    at = machine.link(slab)
    return [value(at, after), value(at + 8, before)]


@state
def slab_made_and_filled_not_linked(machine: Machine) -> Sequence[Write]:
    slab = machine.slab(
        "slab with few objects in use", lambda slab: slab.kind == "partial" and slab.active < 10
    )
    at = machine.link(slab)
    return _off_list(machine, slab) + _links(machine, slab, at, at)


@state
def slab_made_full_not_linked(machine: Machine) -> Sequence[Write]:
    # An objfreelist slab keeps its array until it is linked.
    slab = machine.slab(
        "full slab of few objects that keeps its array in one",
        lambda slab: (
            slab.kind == "full" and 2 < slab.cache.num <= 8 and slab.cache.mode == "objfreelist"
        ),
    )
    last = slab.slot(slab.cache.num - 1) + slab.cache.obj_offset
    writes = _off_list(machine, slab) + _links(machine, slab, *POISON)
    return [*writes, machine.member(slab, "freelist", last)]


@state
def slab_made_array_not_written(machine: Machine) -> Sequence[Write]:
    slab = machine.slab("empty slab", lambda slab: slab.kind == "free")
    writes = _off_list(machine, slab) + _links(machine, slab, *POISON)
    return [*writes, machine.member(slab, "freelist", 0)]


@state
def slab_unlinked_to_be_freed(machine: Machine) -> Sequence[Write]:
    slab = machine.slab("empty slab", lambda slab: slab.kind == "free")
    return _off_list(machine, slab) + _links(machine, slab, *POISON)


@state
def slab_on_list_of_a_stack(machine: Machine) -> Sequence[Write]:
    slab = machine.slab("empty slab", lambda slab: slab.kind == "free")
    stack = 0xFFFFC90000013D50
    return _off_list(machine, slab) + _links(machine, slab, stack, stack)


@state
def slab_waits_for_rcu(machine: Machine) -> Sequence[Write]:
    def victim(slab: Slab) -> bool:
        rcu = bool(slab.cache.object.flags.value_() & 0x80000)
        return rcu and slab.kind == "full" and not machine.parked(slab)

    slab = machine.slab("full slab of a SLAB_TYPESAFE_BY_RCU cache", victim)
    function = machine.prog["kmem_rcu_free"].address_ or 0  # a capture has no functions
    writes = _off_list(machine, slab) + _links(machine, slab, 0, function)
    return [*writes, machine.active(slab, 0)]


def _locked(machine: Machine, cache: Cache) -> Write:
    return value(machine.node(cache).list_lock.address_of_().value_(), 1, 4)


@state
def free_objects_under_lock(machine: Machine) -> Sequence[Write]:
    cache = machine.cache("dentry")
    number = machine.node(cache).free_objects.value_() + 30
    return [_locked(machine, cache), machine.node_member(cache, 0, "free_objects", number)]


@state
def slab_moved_under_lock(machine: Machine) -> Sequence[Write]:
    slab = machine.slab(
        "partial slab of node 0", lambda slab: slab.kind == "partial" and slab.nid == 0
    )
    return [_locked(machine, slab.cache), *machine.unlink(slab)]


@state
def array_filled_under_lock(machine: Machine) -> Sequence[Write]:
    # Objects are in the array, and on the freelist of their slab as well.
    for cache, array, entries, free in _full_array(machine):
        some = [*entries[:-3], *free[:3]]
        return [_locked(machine, cache), *_fill(machine, array, some)]
    raise NoVictim("no array beside enough free objects")


@state
def alien_array_emptied_under_lock(machine: Machine) -> Sequence[Write]:
    for alien in machine.all_arrays(lambda array: array.kind == "alien"):
        shared = [a for a in machine.arrays[alien.cache.name] if a.kind == "shared"]
        if not alien.entries:
            continue
        home = machine.node_of(alien.entries[0])
        target = next((a for a in shared if a.owner == home), None)
        if target is None or target.limit - len(target.entries) < len(alien.entries):
            continue
        lock = alien.address - offsetof(machine.prog.type("struct alien_cache"), "ac")
        return [value(lock, 1, 4), *_fill(machine, target, target.entries + alien.entries)]
    raise NoVictim("no alien array beside a shared one with room")


@state
def page_marked_before_its_cache_is_set(machine: Machine) -> Sequence[Write]:
    page = _kernel_page(machine)
    if machine.layout == "plain":
        return [value(page, machine.flags(page) | (machine.slab_flag or 0))]
    return [machine.word(page, 0xFFEFFFFF)]


def _kernel_page(machine: Machine) -> int:
    # A page of order 0 that the kernel has taken for itself.
    page = machine.prog.type("struct page")
    size = sizeof(page)
    vmemmap = machine.prog["vmemmap"].value_()
    for pfn in range(1 << 12, 1 << 16):
        data = machine.prog.read(vmemmap + pfn * size, size)
        word = int.from_bytes(data[offsetof(page, "_mapcount") :][:4], "little")
        count = int.from_bytes(data[offsetof(page, "_refcount") :][:4], "little")
        flags = int.from_bytes(data[:8], "little") & 0xFFFFFFF
        alone = word == 0xFFFFFFFF and count == 1 and not flags and not data[8] & 1
        if alone and not any(data[24:32]):
            return int(vmemmap + pfn * size)
    raise NoVictim("no page of the kernel")
