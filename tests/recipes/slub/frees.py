# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to deferred frees (since Linux 6.18), and objects freed that the allocator lives in."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator

from drgn import sizeof

from ..changes import GARBAGE, Spot, add, enter, put
from ..language import NOW, NoVictim, Root
from ..pages import user_page
from ..things import Beside, Item, Thing
from ..victims import PARTIAL, first, with_other
from .machine import Machine
from .suite import SHEAF, TWICE, recipe

# Deferred frees: a list of CPU 0, linked at the free pointers of its objects.


def _head(victim: Any) -> Spot:
    return Spot(victim.machine.prog, victim.machine.deferred(0))


def _node(item: Any) -> int:
    return int(item.address + item.cache.offset)


def _link(address: Callable[[Any], int]) -> Callable[[Any], Spot]:
    return lambda victim: Spot(victim.machine.prog, address(victim))


def _in_sheaf(machine: Machine) -> Item:
    if machine.prog.read_u64(machine.deferred(0)):
        raise NoVictim("deferred frees are pending")
    return machine.item(SHEAF(machine).entries[1])


def _on_freelist(machine: Machine) -> Item:
    machine.deferred(0)
    slab = PARTIAL(machine)
    return Item(slab, slab.free[1])


_DEFER = put(_head, _node) + put(_link(_node), 0)
recipe("deferred-object-also-in-sheaf", _in_sheaf, _DEFER, Root("claim-twice"))
# The list's node overwrites the free pointer, where the chain of the slab breaks off.
recipe(
    "deferred-object-also-on-slab-freelist",
    _on_freelist,
    _DEFER,
    Root(
        code=lambda item: "freelist-pointer" if item.cache.random else "claim-twice",
        object=None,
        also=TWICE,
    ),
)


def _list(machine: Machine) -> Thing:
    return Thing(machine, "", machine.deferred(0), cpu=0, place="deferred")


def _in_user_page(victim: Any) -> int:
    return user_page(victim.machine).start + 64


_BROKEN = Root("list-broken", found=NOW)
recipe("deferred-list-garbage", _list, put(_head, GARBAGE), _BROKEN)
recipe(
    "deferred-list-cycle",
    with_other(_list, lambda found: PARTIAL(found.machine).used()[0]),
    put(_head, lambda v: _node(v.other))
    + put(_link(lambda v: _node(v.other)), lambda v: _node(v.other)),
    _BROKEN.but(others=lambda v: frozenset({v.other.cache.name})),
)
# Something that no cache gave out was freed.
recipe(
    "deferred-object-in-no-slab",
    _list,
    put(_head, _in_user_page) + put(_link(_in_user_page), 0),
    Root("claim-foreign", found=NOW),
)

# Objects that the allocator lives in.


def _freed(what: str, addresses: Callable[[Machine], Iterable[int]]) -> Any:
    # An object, and a sheaf of its cache.
    def candidates(machine: Machine) -> Iterator[Beside]:
        for address in addresses(machine):
            home = machine.home(address)
            for sheaf in machine.sheaves if home else ():
                main = sheaf.place == "main sheaf" and len(sheaf.entries) > 1
                if main and sheaf.cache is home.cache:
                    yield Beside(Item(home, address), sheaf)

    return first(what, candidates)


_SHEAF = _freed("sheaf from a cache with sheaves", lambda m: (s.address for s in m.sheaves))
_BARN = _freed(
    "barn from a cache with sheaves",
    lambda machine: (barn for cache in machine.caches for barn in cache.barns if barn),
)
recipe("sheaf-freed", _SHEAF, enter(1), Root("claim-live"))
recipe("barn-freed", _BARN, enter(1), Root("claim-live"))


def _caches(machine: Machine) -> Iterator[Item]:
    # Those in a partial slab whose links and kobject a free pointer leaves whole.
    type = machine.prog.type("struct kmem_cache")
    parts = [member for member in type.members or () if member.name in ("list", "kobj")]
    spans = [(part.offset, part.offset + sizeof(part.type)) for part in parts]
    for cache in machine.caches:
        slab = machine.home(cache.address)
        if slab is None or slab.where != "partial":
            continue
        if not any(start <= slab.cache.offset < end for start, end in spans):
            yield Item(slab, cache.address)


def _nodes(machine: Machine) -> Iterator[Item]:
    for cache in machine.caches:
        slab = machine.home(cache.nodes[0])
        if slab and slab.where == "partial" and slab.cache.offset >= 64:
            yield Item(slab, cache.nodes[0])


def _of_slab(member: str) -> Callable[[Any], Spot]:
    return lambda item: item.slab.spot(member)


def _first_free(item: Any) -> int:
    return int(item.slab.free[0]) if item.slab.free else 0


# On the freelist of its slab, its contents left as they are but for the pointer.
_ON_FREELIST = (
    put(lambda item: item.cache.pointer(item.address), _first_free)
    + put(_of_slab("freelist"), lambda item: item.address)
    + add(_of_slab("inuse"), -1)
)
_LISTS = frozenset({"list-missing", "slab-in-transit", "list-wrong", "list-twice"})
_LIVED_IN = Root("claim-live", also=_LISTS | {"redzone", "poison", "padding"})
for _name, _victims in (("cache-freed", _caches), ("node-freed", _nodes)):
    _victim = first("such object in a slab that a free pointer leaves whole", _victims)
    recipe(_name, _victim, _ON_FREELIST, _LIVED_IN)
