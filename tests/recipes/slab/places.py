# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to freelists and array caches."""

from __future__ import annotations

from typing import Optional

from ..language import Injury, NoVictim
from ..machine import on_slab
from .machine import Array, Machine, Slab
from .suite import ANY, partial, recipe, some_partial

FREELIST = frozenset({"freelist-index", "freelist-duplicate", "claim-twice"})


def _freelist(machine: Machine, slab: Slab, position: int, target: int, code: str) -> Injury:
    return on_slab(
        slab,
        code,
        machine.index(slab, position, target),
        place="freelist" if code.startswith("freelist") else None,
        also=FREELIST | {"freelist-array"},
    )


@recipe
def index_twice(machine: Machine) -> Injury:
    slab = some_partial(machine)
    return _freelist(machine, slab, slab.active + 1, slab.free[0], "freelist-duplicate")


@recipe
def index_out_of_range(machine: Machine) -> Injury:
    slab = some_partial(machine)
    return _freelist(machine, slab, slab.active, slab.cache.num, "freelist-index")


@recipe
def index_ff(machine: Machine) -> Injury:
    slab = some_partial(machine)
    return _freelist(machine, slab, slab.active + 1, 0xFF, "freelist-index")


@recipe
def index_of_object_in_array(machine: Machine) -> Injury:
    # A double free: once to the slab, once to the CPU.
    for slab in machine.all_slabs(partial):
        parked = machine.parked(slab)
        for index, array in parked.items():
            if array.kind == "cpu" and not _explained(array, slab.slot(index)):
                return _freelist(machine, slab, slab.active, index, "claim-twice")
    raise NoVictim("no partial slab with objects in a CPU's array")


def _explained(array: Array, entry: int) -> bool:
    # Whether a CPU giving back a batch could have left the entry there.
    full = len(array.entries) in (array.limit, array.limit // 2)
    return full or len(array.entries) < 2


@recipe
def last_index_names_object_in_use(machine: Machine) -> Injury:
    for slab in machine.all_slabs(lambda slab: slab.cache.mode == "objfreelist" and partial(slab)):
        taken = set(slab.free) | set(machine.parked(slab))
        used = [index for index in range(slab.cache.num) if index not in taken]
        if used:
            last = slab.cache.num - 1
            return _freelist(machine, slab, last, used[0], "freelist-array")
    raise NoVictim("no index array in an object of a slab with objects in use")


def _pointer(machine: Machine, slab: Slab, target: int) -> Injury:
    return on_slab(
        slab,
        "freelist-array",
        machine.member(slab, "freelist", target),
        also=ANY,
        others=frozenset("*"),
    )


def _of_mode(machine: Machine, mode: str) -> Slab:
    return machine.slab(
        f"partial slab whose array is {mode}",
        lambda slab: slab.cache.mode == mode and 0 < slab.active < slab.cache.num,
    )


@recipe
def on_slab_array_shifted(machine: Machine) -> Injury:
    slab = _of_mode(machine, "on-slab")
    return _pointer(machine, slab, slab.freelist + 8)


@recipe
def on_slab_array_null(machine: Machine) -> Injury:
    return _pointer(machine, _of_mode(machine, "on-slab"), 0)


@recipe
def off_slab_array_shifted(machine: Machine) -> Injury:
    slab = _of_mode(machine, "off-slab")
    return _pointer(machine, slab, slab.freelist + 8)


@recipe
def off_slab_array_in_the_slab(machine: Machine) -> Injury:
    slab = _of_mode(machine, "off-slab")
    return _pointer(machine, slab, slab.first)


@recipe
def off_slab_array_of_another_slab(machine: Machine) -> Injury:
    for slab in machine.all_slabs(lambda slab: slab.cache.mode == "off-slab"):
        for other in machine.slabs[slab.cache.name]:
            if other.page != slab.page and other.active != slab.active:
                return _pointer(machine, slab, other.freelist)
    raise NoVictim("no two slabs with arrays of their own")


@recipe
def objfreelist_array_in_another_object(machine: Machine) -> Injury:
    slab = machine.slab(
        "partial slab with its array in an object",
        lambda slab: slab.cache.mode == "objfreelist" and partial(slab) and len(slab.free) > 3,
    )
    # Not object 0: its zeroes would name it as the host.
    host = next(index for index in slab.free if index not in (0, slab.free[-1]))
    return _pointer(machine, slab, slab.slot(host) + slab.cache.obj_offset)


@recipe
def objfreelist_array_in_another_slab(machine: Machine) -> Injury:
    slab = _of_mode(machine, "objfreelist")
    return _pointer(machine, slab, slab.freelist + (4096 << slab.cache.order))


@recipe
def objfreelist_array_misaligned(machine: Machine) -> Injury:
    slab = _of_mode(machine, "objfreelist")
    return _pointer(machine, slab, slab.freelist + 8)


@recipe
def objfreelist_array_null(machine: Machine) -> Injury:
    return _pointer(machine, _of_mode(machine, "objfreelist"), 0)


@recipe
def objfreelist_array_in_full_slab(machine: Machine) -> Injury:
    slab = machine.slab(
        "full slab that keeps its array in an object",
        lambda slab: (
            slab.cache.mode == "objfreelist" and slab.kind == "full" and slab.cache.num > 4
        ),
    )
    return _pointer(machine, slab, slab.slot(1) + slab.cache.obj_offset)


# Array caches.


def _spare(machine: Machine) -> Array:
    for cache in machine.caches:
        try:
            return machine.spare_array(cache)
        except NoVictim:
            continue
    raise NoVictim("no array with entries and room")


def _entry(machine: Machine, target: int, code: str, slab: Optional[Slab] = None) -> Injury:
    array = _spare(machine)
    return Injury(
        [machine.entry(array, 1, target)],
        code,
        array.cache.name,
        slab.page if slab else None,
        slab.nid if slab else None,
        array.owner,
    )


@recipe
def entry_null(machine: Machine) -> Injury:
    return _entry(machine, 0, "claim-foreign")


@recipe
def entry_poison(machine: Machine) -> Injury:
    return _entry(machine, 0xDEAD000000000100, "claim-foreign")


@recipe
def entry_not_the_kernels(machine: Machine) -> Injury:
    return _entry(machine, 0x6B6B6B6B6B6B6B6B, "claim-foreign")


@recipe
def entry_in_page_of_no_slab(machine: Machine) -> Injury:
    return _entry(machine, machine.address_of(machine.user_page()), "claim-foreign")


@recipe
def entry_misaligned(machine: Machine) -> Injury:
    entry = _spare(machine).entries[1]
    home = machine.home(entry)
    return _entry(machine, entry + 8, "claim-foreign", home[0] if home else None)


@recipe
def entry_behind_last_object(machine: Machine) -> Injury:
    for cache in machine.caches:
        if (4096 << cache.order) - cache.num * cache.size <= cache.size:
            continue
        try:
            array = machine.spare_array(cache)
        except NoVictim:
            continue
        home = machine.home(array.entries[1])
        assert home is not None
        return Injury(
            [machine.entry(array, 1, home[0].slot(cache.num))],
            "claim-foreign",
            cache.name,
            home[0].page,
            cpu=array.owner,
        )
    raise NoVictim("no slab with room behind its last object")


@recipe
def entry_of_another_cache(machine: Machine) -> Injury:
    own = _spare(machine).cache.name
    slab = machine.slab("slab of another cache", lambda slab: slab.cache.name != own)
    return _entry(machine, slab.slot(0), "claim-foreign")


@recipe
def entry_twice_in_one_array(machine: Machine) -> Injury:
    array = _spare(machine)
    home = machine.home(array.entries[2])
    assert home is not None
    return Injury(
        [machine.entry(array, 1, array.entries[2])],
        "claim-twice",
        array.cache.name,
        home[0].page,
        object=array.entries[2] + array.cache.obj_offset,
    )


def _from_another(machine: Machine, kind: str) -> Injury:
    for cache in machine.caches:
        try:
            array = machine.spare_array(cache)
        except NoVictim:
            continue
        for other in machine.arrays[cache.name]:
            if other.kind == kind and other.address != array.address and len(other.entries) > 4:
                entry = other.entries[1]
                home = machine.home(entry)
                if home is None or home[0].nid != machine.node_of(array.entries[2]):
                    continue
                return Injury(
                    [machine.entry(array, 2, entry)],
                    "claim-twice",
                    cache.name,
                    home[0].page,
                    object=entry + cache.obj_offset,
                )
    raise NoVictim(f"no second array of the same node: {kind}")


@recipe
def entry_also_on_another_cpu(machine: Machine) -> Injury:
    return _from_another(machine, "cpu")


@recipe
def entry_also_in_shared_array(machine: Machine) -> Injury:
    return _from_another(machine, "shared")


@recipe
def entry_also_in_freelist(machine: Machine) -> Injury:
    for slab in machine.all_slabs(partial):
        try:
            array = machine.spare_array(slab.cache, slab.nid)
        except NoVictim:
            continue
        free = slab.slot(slab.free[1])
        write = machine.entry(array, 1, free)
        return on_slab(slab, "claim-twice", write, object=free + slab.cache.obj_offset)
    raise NoVictim("no array with entries and room beside a partial slab")


def _array_member(machine: Machine, kind: str, member: str, number: int, code: str) -> Injury:
    array = machine.some_array(kind)
    return Injury(
        [machine.array(array, member, number)],
        code,
        array.cache.name,
        cpu=array.owner if kind == "cpu" else None,
        node=None if kind == "cpu" else array.owner,
        also=frozenset({"not-judged"}),
    )


@recipe
def avail_over_limit(machine: Machine) -> Injury:
    return _array_member(machine, "cpu", "avail", 121, "container-limit")


@recipe
def avail_below_zero(machine: Machine) -> Injury:
    return _array_member(machine, "cpu", "avail", 0xFFFFFFFF, "container-limit")


@recipe
def shared_avail_over_limit(machine: Machine) -> Injury:
    return _array_member(machine, "shared", "avail", 0x10000, "container-limit")


@recipe
def limit_wrong(machine: Machine) -> Injury:
    return _array_member(machine, "cpu", "limit", 0x7FFFFFFF, "container-state")


@recipe
def limit_zero(machine: Machine) -> Injury:
    return _array_member(machine, "cpu", "limit", 0, "container-state")


@recipe
def shared_array_overwritten(machine: Machine) -> Injury:
    return _array_member(machine, "shared", "batchcount", 0x6B6B6B6B, "container-state")


@recipe
def shared_array_elsewhere(machine: Machine) -> Injury:
    array = machine.some_array("shared", 0)
    return Injury(
        [machine.node_member(array.cache, array.owner, "shared", array.address + 8)],
        "container-state",
        array.cache.name,
        node=array.owner,
        others=frozenset("*"),
    )


# Objects the allocator lives in.


def _freed(machine: Machine, address: int) -> Injury:
    home = machine.home(address)
    if home is None:
        raise NoVictim("it is in no slab")
    slab, index = home
    several = sum(map(bool, slab.cache.nodes)) > 1
    for array in machine.arrays[slab.cache.name]:
        count = len(array.entries)
        if array.kind != "cpu" or count in (array.limit, array.limit // 2):
            continue
        if machine.node_of(array.entries[0]) != slab.nid if count else several:
            continue
        writes = [machine.entry(array, min(1, max(count - 1, 0)), slab.slot(index))]
        if not count:
            writes.append(machine.array(array, "avail", 1))
        return on_slab(slab, "claim-live", *writes, object=address)
    raise NoVictim("no array of its cache that no work explains")


@recipe
def node_freed(machine: Machine) -> Injury:
    return _freed(machine, machine.cache("dentry").nodes[0])


@recipe
def cache_freed(machine: Machine) -> Injury:
    return _freed(machine, machine.caches[0].address)


@recipe
def shared_array_freed(machine: Machine) -> Injury:
    for array in machine.all_arrays(lambda array: array.kind == "shared"):
        try:
            return _freed(machine, array.address)
        except NoVictim:
            continue
    raise NoVictim("no shared array from a cache with a CPU's array that no work explains")


@recipe
def index_array_freed(machine: Machine) -> Injury:
    return _freed(machine, _of_mode(machine, "off-slab").freelist)
