# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to sheaves and barns (since Linux 6.18)."""

from __future__ import annotations

from typing import Optional

from drgn import offsetof

from ..language import Injury, NoVictim
from ..overlay import Write
from ..writes import GARBAGE, field, unlink, value
from .machine import Machine, Sheaf, Slab
from .suite import recipe

_TWICE = frozenset({"claim-twice"})
_PLACES = ("main sheaf", "spare sheaf", "rcu_free sheaf")


def some_sheaf(machine: Machine, least: int = 3, place: str = "main sheaf") -> Sheaf:
    """Return a sheaf that holds so many objects."""
    return machine.sheaf(
        f"{place} of {least} objects",
        lambda sheaf: sheaf.place == place and least <= len(sheaf.entries) <= sheaf.capacity,
    )


def _name(sheaf: Sheaf) -> str:
    owner = "CPU" if sheaf.place in _PLACES else "node"
    return f"{sheaf.place} of {owner} {sheaf.owner}"


def _size(machine: Machine, sheaf: Sheaf, size: int) -> Write:
    return field(machine.prog, "struct slab_sheaf", sheaf.address, "size", size)


def entry(machine: Machine, sheaf: Sheaf, position: int, target: int) -> Write:
    """Return the write of an entry of a sheaf."""
    at = offsetof(machine.prog.type("struct slab_sheaf"), "objects")
    return value(sheaf.address + at + 8 * position, target)


def _on_sheaf(sheaf: Sheaf, code: str, *writes: Write, **more: object) -> Injury:
    cpu = sheaf.owner if sheaf.place in _PLACES else None
    node = sheaf.owner if cpu is None else None
    return Injury(writes, code, sheaf.cache.name, cpu=cpu, node=node, **more)  # type: ignore[arg-type]


# Entries.


def _foreign(
    machine: Machine, target: int, slab: Optional[Slab] = None, place: str = "main sheaf"
) -> Injury:
    sheaf = some_sheaf(machine, place=place)
    return Injury(
        [entry(machine, sheaf, 1, target)],
        "claim-foreign",
        sheaf.cache.name,
        slab.page if slab else None,
        cpu=sheaf.owner if place in _PLACES else None,
        object=target,
        place=_name(sheaf),
    )


@recipe
def sheaf_entry_null(machine: Machine) -> Injury:
    return _foreign(machine, 0)


@recipe
def sheaf_entry_garbage(machine: Machine) -> Injury:
    return _foreign(machine, GARBAGE)


@recipe
def spare_sheaf_entry_garbage(machine: Machine) -> Injury:
    return _foreign(machine, GARBAGE, place="spare sheaf")


@recipe
def rcu_sheaf_entry_garbage(machine: Machine) -> Injury:
    return _foreign(machine, GARBAGE, place="rcu_free sheaf")


@recipe
def full_barn_entry_garbage(machine: Machine) -> Injury:
    return _foreign(machine, GARBAGE, place="full barn")


@recipe
def sheaf_entry_misaligned(machine: Machine) -> Injury:
    target = some_sheaf(machine).entries[1]
    return _foreign(machine, target + 8, machine.home(target))


@recipe
def sheaf_entry_of_another_cache(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    other = machine.slab("slab of another cache", lambda slab: slab.cache is not sheaf.cache)
    return _foreign(machine, other.first)


@recipe
def sheaf_entry_in_page_of_user(machine: Machine) -> Injury:
    return _foreign(machine, machine.address_of(machine.user_page()))


def _twice(machine: Machine, sheaf: Sheaf, position: int, target: int) -> Injury:
    home = machine.home(target)
    assert home is not None
    write = entry(machine, sheaf, position, target)
    return Injury([write], "claim-twice", sheaf.cache.name, home.page, home.nid, object=target)


@recipe
def sheaf_entry_twice(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    return _twice(machine, sheaf, 1, sheaf.entries[2])


def _from_another(machine: Machine, place: str) -> Injury:
    for sheaf in machine.sheaves:
        if sheaf.place != "main sheaf" or len(sheaf.entries) < 3:
            continue
        for other in machine.sheaves:
            elsewhere = other.owner != sheaf.owner or other.place != sheaf.place
            same = elsewhere and (other.cache, other.place) == (sheaf.cache, place)
            if same and len(other.entries) > 1:
                return _twice(machine, sheaf, 1, other.entries[1])
    raise NoVictim(f"no second sheaf: {place}")


@recipe
def sheaf_entry_also_on_another_cpu(machine: Machine) -> Injury:
    return _from_another(machine, "main sheaf")


@recipe
def sheaf_entry_also_in_spare_sheaf(machine: Machine) -> Injury:
    return _from_another(machine, "spare sheaf")


@recipe
def sheaf_entry_also_in_barn(machine: Machine) -> Injury:
    return _from_another(machine, "full barn")


@recipe
def sheaf_entry_also_waiting(machine: Machine) -> Injury:
    """Freed twice: by kfree() and by kfree_rcu()."""
    return _from_another(machine, "rcu_free sheaf")


@recipe
def sheaf_entry_also_on_slab_freelist(machine: Machine) -> Injury:
    for sheaf in machine.sheaves:
        if sheaf.place == "main sheaf" and len(sheaf.entries) > 2:
            for slab in machine.slabs.values():
                if slab.quiet and slab.cache is sheaf.cache:
                    return _twice(machine, sheaf, 1, slab.free[1])
    raise NoVictim("no sheaf of a cache with free objects in slabs")


# Sheaves.


@recipe
def sheaf_size_over_capacity(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    size = sheaf.capacity + 1
    return _on_sheaf(
        sheaf,
        "container-limit",
        _size(machine, sheaf, size),
        place=_name(sheaf),
        expected=sheaf.capacity,
        found=size,
        also=_TWICE | {"claim-foreign", "claim-live"},
        others=frozenset({"*"}),
    )


@recipe
def sheaf_size_below_zero(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    return _on_sheaf(
        sheaf,
        "container-limit",
        _size(machine, sheaf, 0xFFFFFFFF),
        place=_name(sheaf),
        found=0xFFFFFFFF,
        also=_TWICE | {"claim-foreign", "claim-live"},
    )


@recipe
def sheaf_size_one_too_high(machine: Machine) -> Injury:
    """The entry behind the last is an old one: its object is in another place by now."""
    at = offsetof(machine.prog.type("struct slab_sheaf"), "objects")
    free = {object: slab for slab in machine.slabs.values() for object in slab.free}
    for sheaf in machine.sheaves:
        if sheaf.place not in _PLACES or not 1 < len(sheaf.entries) < sheaf.capacity:
            continue
        stale = machine.prog.read_u64(sheaf.address + at + 8 * len(sheaf.entries))
        home = machine.home(stale)
        if home is not None and (stale in machine.parked or stale in free):
            return Injury(
                [_size(machine, sheaf, len(sheaf.entries) + 1)],
                "claim-twice",
                sheaf.cache.name,
                home.page,
                object=stale,
            )
    raise NoVictim("no sheaf with a stale entry that is free elsewhere")


@recipe
def sheaf_size_one_too_high_null_behind(machine: Machine) -> Injury:
    at = offsetof(machine.prog.type("struct slab_sheaf"), "objects")
    for sheaf in machine.sheaves:
        used = len(sheaf.entries)
        room = sheaf.place == "main sheaf" and 1 < used < sheaf.capacity
        if room and not machine.prog.read_u64(sheaf.address + at + 8 * used):
            write = _size(machine, sheaf, len(sheaf.entries) + 1)
            return _on_sheaf(sheaf, "claim-foreign", write, object=0, place=_name(sheaf))
    raise NoVictim("no sheaf that was never filled")


def _state(
    machine: Machine, sheaf: Sheaf, *writes: Write, also: frozenset[str] = frozenset()
) -> Injury:
    return _on_sheaf(
        sheaf, "container-state", *writes, place=_name(sheaf), also=also, others=frozenset("*")
    )


@recipe
def sheaf_of_another_cache(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    other = next(cache for cache in machine.caches if cache is not sheaf.cache)
    write = field(machine.prog, "struct slab_sheaf", sheaf.address, "cache", other.address)
    return _state(machine, sheaf, write)


@recipe
def sheaf_cache_null(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    return _state(
        machine, sheaf, field(machine.prog, "struct slab_sheaf", sheaf.address, "cache", 0)
    )


@recipe
def main_sheaf_null(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    return _state(machine, sheaf, value(sheaf.holder, 0))


@recipe
def main_sheaf_garbage(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    return _state(machine, sheaf, value(sheaf.holder, GARBAGE))


@recipe
def main_sheaf_freed(machine: Machine) -> Injury:
    """The pointer leads to an object that is free."""
    sheaf = some_sheaf(machine)
    slab = machine.quiet()
    return _state(machine, sheaf, value(sheaf.holder, slab.free[1]), also=frozenset({"claim-live"}))


@recipe
def spare_sheaf_garbage(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine, place="spare sheaf")
    return _state(machine, sheaf, value(sheaf.holder, GARBAGE))


@recipe
def spare_sheaf_is_main_sheaf(machine: Machine) -> Injury:
    sheaf = some_sheaf(machine)
    holder = sheaf.holder + 8
    if machine.prog.read_u64(holder):
        sheaf = machine.sheaf(
            "CPU without a spare sheaf",
            lambda sheaf: (
                sheaf.place == "main sheaf"
                and bool(sheaf.entries)
                and not machine.prog.read_u64(sheaf.holder + 8)
            ),
        )
    injury = _on_sheaf(
        sheaf, "container-state", value(sheaf.holder + 8, sheaf.address), also=_TWICE
    )
    return Injury(**{**vars(injury), "place": f"spare sheaf of CPU {sheaf.owner}"})


@recipe
def main_sheaf_of_two_cpus(machine: Machine) -> Injury:
    for sheaf in machine.sheaves:
        for other in machine.sheaves:
            pair = sheaf.cache is other.cache and sheaf.owner < other.owner
            if pair and sheaf.place == other.place == "main sheaf" and sheaf.entries:
                write = value(other.holder, sheaf.address)
                return _state(machine, other, write, also=_TWICE)
    raise NoVictim("no two CPUs with sheaves of a cache")


# Barns.


def _barn(machine: Machine, kind: str, least: int = 1) -> Sheaf:
    place = f"{kind} barn"

    def enough(sheaf: Sheaf) -> bool:
        same = [
            s
            for s in machine.sheaves
            if s.place == place and s.cache is sheaf.cache and s.owner == sheaf.owner
        ]
        return sheaf.place == place and len(same) >= least

    return machine.sheaf(f"barn with {least} {kind} sheaves", enough)


def _barn_count(machine: Machine, kind: str, change: int) -> Injury:
    sheaf = _barn(machine, kind)
    barn = sheaf.cache.barns[sheaf.owner]
    at = barn + offsetof(machine.prog.type("struct node_barn"), f"nr_{kind}")
    kept = machine.prog.read_u32(at)
    return _on_sheaf(
        sheaf,
        "container-count",
        value(at, kept + change, 4),
        place=_name(sheaf),
        expected=kept,
        found=kept + change,
    )


@recipe
def barn_counts_too_many_full(machine: Machine) -> Injury:
    return _barn_count(machine, "full", 1)


@recipe
def barn_counts_too_few_full(machine: Machine) -> Injury:
    return _barn_count(machine, "full", -1)


@recipe
def barn_counts_too_many_empty(machine: Machine) -> Injury:
    return _barn_count(machine, "empty", 1)


def _barn_link(machine: Machine, sheaf: Sheaf, prev: int, target: int) -> Injury:
    at = sheaf.address + offsetof(machine.prog.type("struct slab_sheaf"), "barn_list")
    write = value(at + 8 * prev, target)
    return _on_sheaf(sheaf, "list-broken", write, place=_name(sheaf))


@recipe
def barn_list_next_garbage(machine: Machine) -> Injury:
    return _barn_link(machine, _barn(machine, "full"), 0, GARBAGE)


@recipe
def barn_list_prev_null(machine: Machine) -> Injury:
    return _barn_link(machine, _barn(machine, "empty"), 1, 0)


@recipe
def barn_list_cycle(machine: Machine) -> Injury:
    sheaf = _barn(machine, "full", 2)
    at = sheaf.address + offsetof(machine.prog.type("struct slab_sheaf"), "barn_list")
    return _barn_link(machine, sheaf, 0, at)


@recipe
def barn_forgot_a_sheaf(machine: Machine) -> Injury:
    sheaf = _barn(machine, "full", 2)
    at = sheaf.address + offsetof(machine.prog.type("struct slab_sheaf"), "barn_list")
    writes = unlink(machine.prog, at)
    return _on_sheaf(sheaf, "container-count", *writes, place=_name(sheaf))


@recipe
def empty_sheaf_is_not_empty(machine: Machine) -> Injury:
    sheaf = _barn(machine, "empty")
    return _state(
        machine,
        sheaf,
        _size(machine, sheaf, 1),
        also=frozenset({"claim-foreign", "claim-twice", "claim-live"}),
    )


@recipe
def full_sheaf_is_empty(machine: Machine) -> Injury:
    sheaf = _barn(machine, "full")
    return _state(machine, sheaf, _size(machine, sheaf, 0))
