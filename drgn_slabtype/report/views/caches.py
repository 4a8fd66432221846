# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What people see of all caches
-----------------------------

Sizes of objects are in bytes, sizes of slabs and memory in KiB, as in crash's
``kmem -s``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Callable, Iterable, List

from ..values import plural
from . import Column, Grid, View

if TYPE_CHECKING:
    from ...answers.caches import CachesAnswer, CacheUsage


def kib(size_bytes: int) -> str:
    """Return a number of bytes in KiB."""
    return f"{size_bytes / 1024:.0f} KiB"


def _of_one(name: str) -> Callable[[CacheUsage], Any]:
    return lambda cache: getattr(cache, name) if cache.address else None


def _sum(name: str) -> Callable[[Any], int]:
    return lambda usage: sum(getattr(usage, name).values())


def _cache(cache: CacheUsage) -> str:
    total = not cache.address
    return cache.name + ("" if cache.consistent or total else " *")


def _aliases(cache: CacheUsage) -> str:
    if not cache.address:
        return ""
    if cache.aliases is None:
        return f"unknown ({cache.merged} merged)"
    return ", ".join(cache.aliases)


def _slab_size(cache: CacheUsage) -> str:
    return kib(cache.memory // cache.slabs) if cache.address and cache.slabs else ""


def _occupancy(cache: CacheUsage) -> str:
    return "-" if cache.occupancy is None else f"{cache.occupancy:.0%}"


def usage(answer: CachesAnswer) -> Grid:
    """Return every cache and the sums; ``*``: something is wrong with a cache."""
    total = answer.total

    def less(part: Any) -> int:
        # What a sum is made of stays: without it the rest does not add up.
        return 0 if part else 1

    coloured = any(cache.colours is not None for cache in answer.caches)
    view = View(
        Column("cache", "name consistent", _cache, least=20),
        Column("objsize", "object_size", _of_one("object_size"), right=True, less=4),
        Column("size", cell=_of_one("size"), right=True, less=9),
        Column("allocated", "in_use"),
        Column("free", cell=_sum("free"), less=less(any(total.free.values()))),
        Column("waiting", less=less(total.waiting)),
        Column("unknown", when=bool(total.unknown)),
        Column("total", "objects"),
        Column("used", "occupancy", _occupancy, right=True, less=6),
        Column("slabs", less=3),
        Column("ssize", "slabs memory", _slab_size, right=True, less=8),
        Column("memory", cell=lambda cache: kib(cache.memory), right=True, less=2),
        Column("waste", cell=lambda cache: kib(cache.waste), right=True, less=7),
        Column("free in", "free", less=5, least=24),
        Column("slabs on", "lists", less=10),
        Column("colours", cell=_of_one("colours"), right=True, when=coloured, less=11),
        Column("KFENCE", "guarded", when=bool(total.guarded), less=1),
        Column("aliases", "aliases merged", _aliases, when=answer.aliases),
        quiet="address objects_per_slab pages_per_slab pages leftover padding counted slabinfo "
        "nodes cpus",
    )
    return view.grid([*answer.caches, answer.total])


NODE = View(
    Column("node"),
    Column("slabs", less=2),
    Column("allocated", "in_use"),
    Column("free", cell=_sum("free")),
    Column("waiting", less=1),
    Column("unknown", less=1),
    Column("total", "objects"),
    Column("counted", less=3),
    Column("free in", "free", less=4),
    Column("slabs on", "lists", less=5),
)

CPU = View(
    Column("CPU", "cpu"),
    Column("free", cell=lambda one: sum(one.free.values()) - one.waiting),
    Column("waiting", less=1),
    Column("free in", "free"),
    Column("slabs", "lists"),
    Column("in use in them", "in_use", less=2),
)


def parts(answer: CachesAnswer) -> Iterable[Grid]:
    """Return what nodes and CPUs have of each cache, as far as it was asked for."""
    for asked, name, view in (
        (answer.per_node, "nodes", NODE),
        (answer.per_cpu, "cpus", CPU),
    ):
        found = [(cache.name, part) for cache in answer.caches for part in getattr(cache, name)]
        if asked and found:
            grid = view.grid([part for _, part in found])
            yield grid.insert(0, Column("cache"), [cache for cache, _ in found])


def summary(answer: CachesAnswer) -> str:
    """Return the sums in one line."""
    total = answer.total
    told: List[str] = [
        plural(len(answer.caches) if answer.found is None else answer.found, "cache"),
        f"{kib(total.memory)} in {plural(total.slabs, 'slab')}",
        f"{kib(total.leftover)} left over in slabs, {kib(total.padding)} between objects",
    ]
    if answer.found is not None and len(answer.caches) < answer.found:
        told[0] += f", {len(answer.caches)} shown"
    if answer.per_cpu and not any(cache.cpus for cache in answer.caches):
        told.append("no CPU keeps any of them")
    # Those that are not shown, too.
    damaged = max(answer.damaged, sum(not cache.consistent for cache in answer.caches))
    if damaged:
        told.append(f"* {plural(damaged, 'cache')} with something wrong: see check")
    return "; ".join(told)
