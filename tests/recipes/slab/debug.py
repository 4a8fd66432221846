# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to what CONFIG_DEBUG_SLAB keeps around objects, and to the poison in them."""

from __future__ import annotations

from typing import Any, Iterator

from ..changes import Number, of, store
from ..language import Root, Victim
from ..things import Item
from ..victims import first, picks
from .machine import Machine, Slab
from .suite import recipe

_RED_ZONE, _POISON, _STORE_USER = 0x400, 0x800, 0x10000


def _slabs(machine: Machine, flags: int) -> Iterator[Slab]:
    return (slab for slab in machine.all_slabs() if slab.cache.flags & flags == flags)


def _used(flags: int) -> Victim[Any]:
    return first(
        "object in use of a cache with such debugging",
        lambda machine: (
            item for slab in _slabs(machine, flags) if slab.where == "full" for item in slab.used()
        ),
    )


def _free(flags: int) -> Victim[Any]:
    # Such an object that holds no index array.
    def candidates(machine: Machine) -> Iterator[Item]:
        for slab in _slabs(machine, flags):
            for index in slab.free if len(slab.free) > 2 else ():
                item = Item(slab, slab.slot(index))
                if item.address != slab.freelist:
                    yield item

    return first("free object of a cache with such debugging", candidates)


@picks("object of a cache with such debugging in an array")
def _cached(machine: Machine) -> Iterator[Item]:
    # Objects in the arrays of CPUs, of slabs that are not full.
    for array in machine.containers:
        for entry in array.entries if array.place == "cpu array" else ():
            slab = machine.home(entry)
            if slab is not None and slab.counted < slab.objects and slab.cache.flags & _POISON:
                yield Item(slab, entry)


@picks("index array in a poisoned object")
def _host(machine: Machine) -> Iterator[Item]:
    # Objects with an index array in them and poison behind it.
    for slab in _slabs(machine, _POISON):
        room = int(slab.cache.object.object_size) > slab.cache.freelist_size + 8
        if slab.cache.mode == "objfreelist" and slab.free and room:
            yield Item(slab, slab.slot(slab.free[-1]))


def _bytes(name: str, victim: Victim[Any], at: Number, data: bytes, place: str) -> None:
    # *at* counts from the object, from the end of its slot if negative.
    def address(item: Item) -> int:
        offset: int = of(at, item)
        return item.address + offset if offset >= 0 else item.slot + item.cache.size + offset

    code = "redzone" if place.endswith("zone") else {"last caller": "track"}.get(place, place)
    recipe(name, victim, store(address, data), Root(code, place=place))


_END = _RED_ZONE | _STORE_USER
recipe(
    "first-red-zone-overwritten",
    _used(_RED_ZONE),
    store(lambda item: item.address - 1, b"\x00"),
    Root("redzone", place="first red zone"),
)
# One byte beyond the end, where the object fills its slot.
_bytes("second-red-zone-overwritten", _used(_END), -16, b"\x12", "second red zone")
_bytes("red-zone-of-free-object-overwritten", _free(_END), -16, b"\xab", "second red zone")
_bytes("poison-overwritten", _free(_POISON), 1, b"\x78", "poison")
_bytes(
    "poison-end-overwritten",
    _free(_POISON),
    lambda item: int(item.cache.object.object_size) - 1,
    b"\x6b",
    "poison",
)
_bytes("poison-of-cached-object-overwritten", _cached, 3, b"\x00", "poison")
_bytes(
    "poison-behind-index-array-overwritten",
    _host,
    lambda item: item.cache.freelist_size,
    b"\x00",
    "poison",
)
_bytes("last-caller-cleared", _used(_STORE_USER), -8, bytes(8), "last caller")
