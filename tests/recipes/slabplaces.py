# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to freelists and array caches."""

from __future__ import annotations

from typing import Optional, Tuple

from .recipe import Injury, recipe
from .slabcounts import ANY, partial
from .slabmachine import Array, Cache, Machine, Slab

FREELIST = frozenset({"freelist-index", "freelist-duplicate", "claim-twice"})


def _freelist(machine: Machine, slab: Slab, position: int, value: int, code: str) -> Injury:
    return Injury(
        [machine.index(slab, position, value)],
        code,
        slab.cache.name,
        slab.page,
        slab.nid,
        place="freelist" if code.startswith("freelist") else None,
        also=FREELIST | {"freelist-array"},
    )


@recipe
def index_twice(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    if slab is None:
        return None
    return _freelist(machine, slab, slab.active + 1, slab.free[0], "freelist-duplicate")


@recipe
def index_out_of_range(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    if slab is None:
        return None
    return _freelist(machine, slab, slab.active, slab.cache.num, "freelist-index")


@recipe
def index_ff(machine: Machine) -> Optional[Injury]:
    slab = next(machine.all_slabs(partial), None)
    if slab is None:
        return None
    return _freelist(machine, slab, slab.active + 1, 0xFF, "freelist-index")


@recipe
def index_of_object_in_array(machine: Machine) -> Optional[Injury]:
    # A double free: once to the slab, once to the CPU.
    for slab in machine.all_slabs(partial):
        parked = machine.parked(slab)
        for index, array in parked.items():
            if array.kind == "cpu" and not _explained(array, slab.slot(index)):
                return _freelist(machine, slab, slab.active, index, "claim-twice")
    return None


def _explained(array: Array, entry: int) -> bool:
    # Whether a CPU giving back a batch could have left the entry there.
    full = len(array.entries) in (array.limit, array.limit // 2)
    return full or len(array.entries) < 2


@recipe
def last_index_names_object_in_use(machine: Machine) -> Optional[Injury]:
    for slab in machine.all_slabs(lambda slab: slab.cache.mode == "objfreelist" and partial(slab)):
        taken = set(slab.free) | set(machine.parked(slab))
        used = [index for index in range(slab.cache.num) if index not in taken]
        if used:
            last = slab.cache.num - 1
            return _freelist(machine, slab, last, used[0], "freelist-array")
    return None


def _pointer(machine: Machine, slab: Optional[Slab], value: int) -> Optional[Injury]:
    if slab is None:
        return None
    return Injury(
        [machine.member(slab.page, "freelist", value)],
        "freelist-array",
        slab.cache.name,
        slab.page,
        slab.nid,
        also=ANY,
        others=frozenset(cache.name for cache in machine.caches),
    )


def _of_mode(machine: Machine, mode: str) -> Optional[Slab]:
    return next(
        machine.all_slabs(
            lambda slab: slab.cache.mode == mode and 0 < slab.active < slab.cache.num
        ),
        None,
    )


@recipe
def on_slab_array_shifted(machine: Machine) -> Optional[Injury]:
    slab = _of_mode(machine, "on-slab")
    return _pointer(machine, slab, slab.freelist + 8 if slab else 0)


@recipe
def on_slab_array_null(machine: Machine) -> Optional[Injury]:
    return _pointer(machine, _of_mode(machine, "on-slab"), 0)


@recipe
def off_slab_array_shifted(machine: Machine) -> Optional[Injury]:
    slab = _of_mode(machine, "off-slab")
    return _pointer(machine, slab, slab.freelist + 8 if slab else 0)


@recipe
def off_slab_array_in_the_slab(machine: Machine) -> Optional[Injury]:
    slab = _of_mode(machine, "off-slab")
    return _pointer(machine, slab, slab.first if slab else 0)


@recipe
def off_slab_array_of_another_slab(machine: Machine) -> Optional[Injury]:
    for slab in machine.all_slabs(lambda slab: slab.cache.mode == "off-slab"):
        for other in machine.slabs[slab.cache.name]:
            if other.page != slab.page and other.active != slab.active:
                return _pointer(machine, slab, other.freelist)
    return None


@recipe
def objfreelist_array_in_another_object(machine: Machine) -> Optional[Injury]:
    slab = next(
        machine.all_slabs(
            lambda slab: slab.cache.mode == "objfreelist" and partial(slab) and len(slab.free) > 3
        ),
        None,
    )
    if slab is None:
        return None
    # Not object 0: its zeroes would name it as the host.
    host = next(index for index in slab.free if index not in (0, slab.free[-1]))
    return _pointer(machine, slab, slab.slot(host) + slab.cache.obj_offset)


@recipe
def objfreelist_array_in_another_slab(machine: Machine) -> Optional[Injury]:
    slab = _of_mode(machine, "objfreelist")
    return _pointer(machine, slab, slab.freelist + (4096 << slab.cache.order) if slab else 0)


@recipe
def objfreelist_array_misaligned(machine: Machine) -> Optional[Injury]:
    slab = _of_mode(machine, "objfreelist")
    return _pointer(machine, slab, slab.freelist + 8 if slab else 0)


@recipe
def objfreelist_array_null(machine: Machine) -> Optional[Injury]:
    return _pointer(machine, _of_mode(machine, "objfreelist"), 0)


@recipe
def objfreelist_array_in_full_slab(machine: Machine) -> Optional[Injury]:
    slab = next(
        machine.all_slabs(
            lambda slab: (
                slab.cache.mode == "objfreelist" and slab.kind == "full" and slab.cache.num > 4
            )
        ),
        None,
    )
    return _pointer(machine, slab, slab.slot(1) + slab.cache.obj_offset if slab else 0)


# Array caches.


def _spare(machine: Machine) -> Optional[Tuple[Cache, Array]]:
    for cache in machine.caches:
        array = machine.spare_array(cache)
        if array is not None:
            return cache, array
    return None


def _entry(machine: Machine, value: int, code: str, slab: Optional[Slab]) -> Optional[Injury]:
    found = _spare(machine)
    if found is None:
        return None
    cache, array = found
    return Injury(
        [machine.entry(array, 1, value)],
        code,
        cache.name,
        slab.page if slab else None,
        slab.nid if slab else None,
        array.owner,
    )


@recipe
def entry_null(machine: Machine) -> Optional[Injury]:
    return _entry(machine, 0, "claim-foreign", None)


@recipe
def entry_poison(machine: Machine) -> Optional[Injury]:
    return _entry(machine, 0xDEAD000000000100, "claim-foreign", None)


@recipe
def entry_not_the_kernels(machine: Machine) -> Optional[Injury]:
    return _entry(machine, 0x6B6B6B6B6B6B6B6B, "claim-foreign", None)


@recipe
def entry_in_page_of_no_slab(machine: Machine) -> Optional[Injury]:
    return _entry(machine, machine.address_of(machine.user_page()), "claim-foreign", None)


@recipe
def entry_misaligned(machine: Machine) -> Optional[Injury]:
    found = _spare(machine)
    if found is None:
        return None
    home = machine.home(found[1].entries[1])
    return _entry(machine, found[1].entries[1] + 8, "claim-foreign", home[0] if home else None)


@recipe
def entry_behind_last_object(machine: Machine) -> Optional[Injury]:
    for cache in machine.caches:
        array = machine.spare_array(cache)
        room = (4096 << cache.order) - cache.num * cache.size
        if array is None or room <= cache.size:
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
    return None


@recipe
def entry_of_another_cache(machine: Machine) -> Optional[Injury]:
    found = _spare(machine)
    if found is None:
        return None
    slab = next(machine.all_slabs(lambda slab: slab.cache.name != found[0].name))
    return _entry(machine, slab.slot(0), "claim-foreign", None)


@recipe
def entry_twice_in_one_array(machine: Machine) -> Optional[Injury]:
    found = _spare(machine)
    if found is None:
        return None
    home = machine.home(found[1].entries[2])
    assert home is not None
    cache, array = found
    return Injury(
        [machine.entry(array, 1, array.entries[2])],
        "claim-twice",
        cache.name,
        home[0].page,
        object=array.entries[2] + cache.obj_offset,
    )


def _from_another(machine: Machine, kind: str) -> Optional[Injury]:
    for cache in machine.caches:
        array = machine.spare_array(cache)
        if array is None:
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
    return None


@recipe
def entry_also_on_another_cpu(machine: Machine) -> Optional[Injury]:
    return _from_another(machine, "cpu")


@recipe
def entry_also_in_shared_array(machine: Machine) -> Optional[Injury]:
    return _from_another(machine, "shared")


@recipe
def entry_also_in_freelist(machine: Machine) -> Optional[Injury]:
    for slab in machine.all_slabs(partial):
        array = machine.spare_array(slab.cache, slab.nid)
        if array is not None:
            return Injury(
                [machine.entry(array, 1, slab.slot(slab.free[1]))],
                "claim-twice",
                slab.cache.name,
                slab.page,
                slab.nid,
                object=slab.slot(slab.free[1]) + slab.cache.obj_offset,
            )
    return None


def _array_member(machine: Machine, kind: str, member: str, value: int, code: str) -> Injury:
    array = next(machine.all_arrays(lambda array: array.kind == kind and len(array.entries) > 1))
    return Injury(
        [machine.array(array, member, value)],
        code,
        array.cache.name,
        cpu=array.owner if kind == "cpu" else None,
        node=None if kind == "cpu" else array.owner,
        also=frozenset({"not-judged"}),
    )


@recipe
def avail_over_limit(machine: Machine) -> Optional[Injury]:
    return _array_member(machine, "cpu", "avail", 121, "container-limit")


@recipe
def avail_below_zero(machine: Machine) -> Optional[Injury]:
    return _array_member(machine, "cpu", "avail", 0xFFFFFFFF, "container-limit")


@recipe
def shared_avail_over_limit(machine: Machine) -> Optional[Injury]:
    return _array_member(machine, "shared", "avail", 0x10000, "container-limit")


@recipe
def limit_wrong(machine: Machine) -> Optional[Injury]:
    return _array_member(machine, "cpu", "limit", 0x7FFFFFFF, "container-state")


@recipe
def limit_zero(machine: Machine) -> Optional[Injury]:
    return _array_member(machine, "cpu", "limit", 0, "container-state")


@recipe
def shared_array_overwritten(machine: Machine) -> Optional[Injury]:
    return _array_member(machine, "shared", "batchcount", 0x6B6B6B6B, "container-state")


@recipe
def shared_array_elsewhere(machine: Machine) -> Optional[Injury]:
    array = next(machine.all_arrays(lambda array: array.kind == "shared"), None)
    if array is None:
        return None
    node = array.cache.nodes[array.owner]
    assert node is not None
    return Injury(
        [machine.node(node, "shared", array.address + 8)],
        "container-state",
        array.cache.name,
        node=array.owner,
        others=frozenset(cache.name for cache in machine.caches),
    )


# Objects the allocator lives in.


def _freed(machine: Machine, address: int) -> Optional[Injury]:
    home = machine.home(address)
    if home is None:
        return None
    slab, index = home
    cache = slab.cache
    several = sum(node is not None for node in cache.nodes) > 1
    for array in machine.arrays[cache.name]:
        count = len(array.entries)
        if array.kind != "cpu" or count in (array.limit, array.limit // 2):
            continue
        if machine.node_of(array.entries[0]) != slab.nid if count else several:
            continue
        at = min(1, max(count - 1, 0))
        writes = [machine.entry(array, at, slab.slot(index))]
        if not count:
            writes.append(machine.array(array, "avail", 1))
        return Injury(writes, "claim-live", cache.name, slab.page, slab.nid, object=address)
    return None


@recipe
def node_freed(machine: Machine) -> Optional[Injury]:
    node = next(cache for cache in machine.caches if cache.name == "dentry").nodes[0]
    return None if node is None else _freed(machine, node.value_())


@recipe
def cache_freed(machine: Machine) -> Optional[Injury]:
    return _freed(machine, machine.caches[0].address)


@recipe
def shared_array_freed(machine: Machine) -> Optional[Injury]:
    for array in machine.all_arrays(lambda array: array.kind == "shared"):
        injury = _freed(machine, array.address)
        if injury is not None:
            return injury
    return None


@recipe
def index_array_freed(machine: Machine) -> Optional[Injury]:
    slab = _of_mode(machine, "off-slab")
    return None if slab is None else _freed(machine, slab.freelist)
