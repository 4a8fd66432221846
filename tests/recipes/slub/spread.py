# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage of many words to SLUB, and to what no cache has for itself."""

from __future__ import annotations

from typing import Iterator

from drgn import FaultError

from ..changes import add, put
from ..language import NOW, WAS, Root
from ..spread import guarded, runs, spread
from ..things import Beside
from ..victims import first
from .machine import Machine
from .suite import LISTS, SUITE, recipe
from .things import Cache

spread(SUITE, LISTS)
guarded(SUITE)
runs(SUITE, "sheaf-entries-text", "main sheaf")


def _directory(cache: Cache) -> bytes:
    # What it is called in sysfs; nothing where that is not told.
    try:
        return cache.object.kobj.name.string_()
    except (AttributeError, FaultError):  # without sysfs, or not in the target
        return b""


def _named(machine: Machine) -> Iterator[Beside]:
    # Caches that have their own name in sysfs.
    names = ((cache, _directory(cache)) for cache in machine.caches)
    own = [cache for cache, name in names if name and not name.startswith(b":")]
    if len(own) > 1:
        yield Beside(own[0], own[1])


_OTHER = put("name", lambda cache: cache.other.kept("name"))
recipe(
    "name-of-another-cache",
    first("caches with a name in sysfs", _named),
    _OTHER,
    Root(
        "cache-wrong",
        cache=lambda v: v.other.name,
        found=lambda v: v.other.kept("name"),
        others=lambda v: frozenset({v.name, v.other.name}),
    ),
)


def _sized(machine: Machine) -> Iterator[Cache]:
    # Caches whose directory in sysfs ends in their size; no slab tells it.
    used = {slab.cache for slab in machine.slabs.values()}
    for cache in machine.caches:
        if cache not in used and _directory(cache).startswith(b":"):
            yield cache


recipe(
    "size-of-cache-without-slabs",
    first("cache without slabs that is named by its size", _sized),
    add("size", lambda cache: cache.kept("align")),
    Root("cache-wrong", expected=WAS, found=NOW, also=frozenset({"cache-wrong"})),
)
