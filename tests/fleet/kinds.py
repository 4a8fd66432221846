# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Twenty kinds of damage
----------------------

Each is what one mistake does: the same is written over the same part of an object
of the same cache, or of the same structure, wherever that is. Chance picks the
place, and what differs from time to time: the text, the address, the bit.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Callable, Dict, List, Sequence, Tuple

from drgn import offsetof

from drgn_slabtype.answers.tracks import slub_tracks
from drgn_slabtype.machine import machine as machine_of

from ..recipes.changes import GARBAGE, LIST_POISON, Spot
from ..recipes.language import NoVictim
from ..recipes.overlay import Write
from ..recipes.things import Item

Kind = Callable[[Any, Random], Sequence[Write]]
"""Damages a machine. Raises :class:`NoVictim` where it has nothing of the kind."""

KINDS: Dict[str, Kind] = {}
"""By name."""

_SMALL, _USUAL = "kmalloc-96", "shmem_inode_cache"  # many slabs of them are partial


def _kind(name: str) -> Callable[[Kind], Kind]:
    def enter(kind: Kind) -> Kind:
        KINDS[name] = kind
        return kind

    return enter


def _one(chance: Random, some: Sequence[Any], what: str) -> Any:
    if not some:
        raise NoVictim(f"no {what}")
    return some[chance.randrange(len(some))]


def _is_slub(machine: Any) -> bool:
    return hasattr(machine, "cpu_slabs")


def _slab(machine: Any, chance: Random, cache: str) -> Any:
    some = [slab for slab in machine.slabs.values() if slab.quiet and slab.cache.name == cache]
    return _one(chance, some, f"partial slab of {cache}")


# Free pointers of SLUB.


def _pointer(machine: Any, chance: Random) -> Spot:
    # Where it is stored, as it is stored.
    if not _is_slub(machine):
        raise NoVictim("no free pointers")
    slab = _slab(machine, chance, _SMALL)
    if slab.cache.debug:
        raise NoVictim("free pointers lie outside of objects")
    holder = _one(chance, slab.free[:-1], "free object that leads to another")
    return Spot(machine.prog, holder + slab.cache.offset)


def _text(chance: Random, size: int) -> int:
    letters = bytes(chance.choice(b"abcdefghijklmnopqrstuvwxyz/._-") for _ in range(size))
    return int.from_bytes(letters, "little")


def _over_pointer(name: str, number: Callable[[Any, Random, int], int]) -> None:
    def damage(machine: Any, chance: Random) -> Sequence[Write]:
        spot = _pointer(machine, chance)
        return [spot.write(number(machine, chance, spot.number))]

    KINDS[name] = damage


_over_pointer("free-pointer-text", lambda machine, chance, was: _text(chance, 8))
_over_pointer("free-pointer-poison", lambda machine, chance, was: GARBAGE)
_over_pointer("free-pointer-list-poison", lambda machine, chance, was: LIST_POISON[0])
_over_pointer("free-pointer-zero", lambda machine, chance, was: 0)
_over_pointer("free-pointer-one-bit", lambda machine, chance, was: was ^ 1 << chance.randrange(64))
_over_pointer(
    "free-pointer-inode",
    lambda machine, chance, was: int(_one(chance, _slab(machine, chance, _USUAL).used(), "").slot),
)


@_kind("freed-twice")
def _freed_twice(machine: Any, chance: Random) -> Sequence[Write]:
    spot = _pointer(machine, chance)
    slab = machine.home(spot.address)
    holder = spot.address - slab.cache.offset
    return [slab.cache.pointer(holder).write(holder)]


# Counts.


def _count(slab: Any) -> Spot:
    if not _is_slub(slab.machine):
        raise NoVictim("no inuse")
    spot: Spot = slab.spot("inuse")
    return spot


@_kind("one-too-many-in-use")
def _one_too_many(machine: Any, chance: Random) -> Sequence[Write]:
    spot = _count(_slab(machine, chance, _USUAL))
    return [spot.write(spot.number + 1)]


@_kind("one-too-few-in-use")
def _one_too_few(machine: Any, chance: Random) -> Sequence[Write]:
    spot = _count(_slab(machine, chance, _USUAL))
    return [spot.write(spot.number - 1)]


# Slabs.


def _listed(machine: Any, chance: Random) -> Any:
    slabs = machine.standing(machine.cache(_USUAL), "partial")
    return _one(chance, slabs[2:-2], "slab in the middle of a list")


@_kind("next-deleted")
def _next_deleted(machine: Any, chance: Random) -> Sequence[Write]:
    return [_listed(machine, chance).spot("slab_list.next").write(LIST_POISON[0])]


@_kind("prev-null")
def _prev_null(machine: Any, chance: Random) -> Sequence[Write]:
    return [_listed(machine, chance).spot("slab_list.prev").write(0)]


@_kind("cache-null")
def _cache_null(machine: Any, chance: Random) -> Sequence[Write]:
    return [_slab(machine, chance, _USUAL).spot("slab_cache").write(0)]


@_kind("page-given-back")
def _given_back(machine: Any, chance: Random) -> Sequence[Write]:
    slab = _slab(machine, chance, _USUAL)
    at = offsetof(machine.prog.type("struct page"), "_refcount")
    spot = Spot(machine.prog, slab.page + at, 4)
    if not spot.number:
        raise NoVictim("nobody counts references to the pages of slabs")
    return [spot.write(0)]


@_kind("mark-lost")
def _mark_lost(machine: Any, chance: Random) -> Sequence[Write]:
    spot = _slab(machine, chance, _USUAL).spot("mark")
    flag = machine.slab_flag
    return [spot.write(0xFFFFFFFF if flag is None else spot.number & ~flag)]


# Objects under slub_debug.


def _debugged(machine: Any, chance: Random, cache: str, free: bool) -> Item:
    # An object that was allocated where most of that cache were: a mistake knows its objects.
    known: Dict[Tuple[str, bool], List[Item]] = vars(machine).setdefault("_usual_items", {})
    if (cache, free) not in known:
        known[cache, free] = _usual_items(machine, cache, free)
    return _one(chance, known[cache, free], "debugged object")


def _usual_items(machine: Any, cache: str, free: bool) -> List[Item]:
    items: List[Item] = []
    for slab in machine.slabs.values():
        if slab.cache.name == cache and slab.quiet and getattr(slab.cache, "debug", False):
            items += [Item(slab, slot) for slot in slab.free[1:]] if free else slab.used()
    sites = [_sites(machine, item) for item in items]
    usual = Counter(sites).most_common(1)
    return [item for item, site in zip(items, sites) if site == usual[0][0]]


def _sites(machine: Any, item: Item) -> Any:
    at = item.address + item.cache.behind_pointer
    return tuple((track.event, track.stack) for track in slub_tracks(machine_of(machine.prog), at))


def _store(item: Item, offset: int, data: bytes) -> Sequence[Write]:
    return [Write(item.address + offset, data)]


@_kind("overrun-text")
def _overrun(machine: Any, chance: Random) -> Sequence[Write]:
    item = _debugged(machine, chance, _USUAL, free=False)
    size = item.cache.inuse - item.cache.object_size
    if size < 4:
        raise NoVictim("no room for a text")
    return _store(item, item.cache.object_size, _text(chance, size).to_bytes(size, "little"))


@_kind("overrun-by-zero")
def _off_by_one(machine: Any, chance: Random) -> Sequence[Write]:
    item = _debugged(machine, chance, _USUAL, free=False)
    return _store(item, item.cache.object_size, b"\0")


@_kind("freed-pointer")
def _stored_after_free(machine: Any, chance: Random) -> Sequence[Write]:
    item = _debugged(machine, chance, _SMALL, free=True)
    other = _one(chance, _slab(machine, chance, _USUAL).used(), "object in use")
    return _store(item, 16, int(other.address).to_bytes(8, "little"))


@_kind("freed-count")
def _dropped_after_free(machine: Any, chance: Random) -> Sequence[Write]:
    item = _debugged(machine, chance, _SMALL, free=True)
    return _store(item, 24, b"\x6a")


# SLAB.


@_kind("index-twice")
def _index_twice(machine: Any, chance: Random) -> Sequence[Write]:
    if _is_slub(machine):
        raise NoVictim("no indexes")
    slab = _slab(machine, chance, _USUAL)
    spot = slab.entry(slab.counted + 1)
    return [spot.write(slab.free[0])]


@_kind("array-poison")
def _array_poison(machine: Any, chance: Random) -> Sequence[Write]:
    some = [found for found in machine.containers if found.place == "cpu array"]
    some = [found for found in some if found.cache.name == "vm_area_struct" and found.entries]
    found = _one(chance, some, "array of a CPU")
    position = chance.randrange(len(found.entries))
    return [found.entry(position).write(LIST_POISON[0])]
