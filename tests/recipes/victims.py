# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Picking victims
---------------

Each returns a function of a machine, for :meth:`.Suite.recipe`. The first thing
that fits is picked, in the machine's order, so that a recipe does the same
damage to the same kernel each time.
"""

from __future__ import annotations

from typing import Any, Callable, Iterable, Optional

from .language import NoVictim, Victim
from .things import AnyCache, Beside, SlabList

Test = Callable[[Any], Any]
"""Whether a thing will do."""


def first(what: str, candidates: Callable[[Any], Iterable[Any]]) -> Victim[Any]:
    """
    Pick the first of some candidates.

    :param what: What they are, for a kernel that has none.
    """

    def pick(machine: Any) -> Any:
        for found in candidates(machine):
            return found
        raise NoVictim(f"no {what}")

    return pick


def picks(what: str) -> Callable[[Callable[[Any], Iterable[Any]]], Victim[Any]]:
    """Make a function that yields candidates pick the first of them."""
    return lambda candidates: first(what, candidates)


def given(needed: Test, otherwise: str, victim: Victim[Any]) -> Victim[Any]:
    """Pick a victim if the kernel has what is needed."""

    def pick(machine: Any) -> Any:
        if not needed(machine):
            raise NoVictim(otherwise)
        return victim(machine)

    return pick


def either(*victims: Victim[Any]) -> Victim[Any]:
    """Pick the first victim that the kernel has."""

    def pick(machine: Any) -> Any:
        for victim in victims:
            try:
                return victim(machine)
            except NoVictim as error:
                trouble = error
        raise trouble

    return pick


# Slabs.


def slab(what: str, *where: Test) -> Victim[Any]:
    """Pick a slab for which all conditions hold."""
    return lambda machine: machine.slab(what, *where)


def quiet(slab: Any) -> bool:
    """Return whether a slab allows most kinds of damage: partial, with objects of both kinds."""
    return bool(slab.quiet)


def full(slab: Any) -> bool:
    """Return whether a slab is full, and no CPU's."""
    return bool(slab.where in ("full", "nowhere") and slab.counted == slab.objects)


def stands(where: str) -> Test:
    """Return whether a slab stands in a place, as a condition."""
    return lambda slab: slab.where == where


PARTIAL = slab("partial slab with objects of both kinds", quiet)


def beside(victim: Victim[Any], what: str, other: Callable[[Any, Any], Any]) -> Victim[Any]:
    """Pick a victim, and another slab for which a condition of both holds."""

    def pick(machine: Any) -> Any:
        found = victim(machine)
        return Beside(found, machine.slab(what, lambda slab: other(slab, found)))

    return pick


def beside_another_cache(victim: Victim[Any]) -> Victim[Any]:
    """Pick a victim, and a slab of another cache."""
    what = "slab of another cache"
    return beside(victim, what, lambda slab, found: slab.cache is not found.cache)


def beside_a_cache(victim: Victim[Any], where: Callable[[Any, Any], Any]) -> Victim[Any]:
    """Pick a victim, and another cache for which a condition of both holds."""

    def candidates(machine: Any) -> Iterable[Beside]:
        found = victim(machine)
        others = (cache for cache in machine.caches if cache is not found.cache)
        return (Beside(found, cache) for cache in others if where(cache, found))

    return first("second cache", candidates)


def with_other(victim: Victim[Any], other: Callable[[Any], Any]) -> Victim[Any]:
    """Pick a victim, and something else that follows from it."""

    def pick(machine: Any) -> Any:
        found = victim(machine)
        return Beside(found, other(found))

    return pick


# Lists.


def listed(least: int, kind: str = "partial") -> Victim[Any]:
    """Pick a list of node 0 that has so many slabs."""

    def lists(machine: Any) -> Iterable[SlabList]:
        for cache in machine.caches:
            if cache.name not in machine.own:
                slabs = machine.standing(cache, kind)
                if len(slabs) >= least:
                    yield SlabList(cache.node(), kind, slabs)

    return first(f"{kind} list of {least} slabs", lists)


def member_of(victim: Victim[Any], at: int) -> Victim[Any]:
    """Pick a slab of a list by its position, with all its slabs beside it."""

    def pick(machine: Any) -> Any:
        slabs = victim(machine).slabs
        return Beside(slabs[at], slabs)

    return pick


# Caches and places.


def _with_slabs(machine: Any) -> Iterable[AnyCache]:
    # Caches with several slabs that have several free objects each.
    for cache in machine.caches:
        some = [slab for slab in machine.slabs_of(cache) if len(slab.free) > 1]
        if len(some) > 3 and not cache.lived_in:
            yield cache


CACHE = first("cache with several slabs that have free objects", _with_slabs)


def container(place: str, least: int, where: Optional[Test] = None) -> Victim[Any]:
    """Pick what holds so many objects at a place."""

    def fits(machine: Any) -> Iterable[Any]:
        for found in machine.containers:
            enough = found.place == place and len(found.entries) >= least
            if enough and (where is None or where(found)):
                yield found

    return first(f"{place} of {least} objects", fits)
