# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage of many words to SLUB, and to what no cache has for itself."""

from __future__ import annotations

from typing import Iterator

from ..changes import put
from ..language import Root
from ..spread import guarded, runs, spread
from ..things import Beside
from ..victims import first
from .machine import Machine
from .suite import LISTS, SUITE, recipe

spread(SUITE, LISTS)
guarded(SUITE)
runs(SUITE, "sheaf-entries-text", "main sheaf")


def _named(machine: Machine) -> Iterator[Beside]:
    # Caches that have their own name in sysfs.
    if not machine.prog.type("struct kmem_cache").has_member("kobj"):
        return
    own = [c for c in machine.caches if not c.object.kobj.name.string_().startswith(b":")]
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
