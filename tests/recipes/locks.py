# SPDX-License-Identifier: LGPL-2.1-or-later
"""Recipes for locks: words that none can hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from drgn import Architecture, Program, sizeof
from drgn.helpers.linux.mmzone import NODE_DATA

from .changes import Spot, put
from .language import NOW, NoVictim, Root, Suite
from .things import Thing
from .victims import CACHE

TEXT = int.from_bytes(b"text", "little")
"""What a string leaves in a word."""
WRONG = Root("lock-wrong", found=NOW)


def word_of(lock: Spot) -> Spot:
    """
    Return where the word of a spinlock is.

    :raises NoVictim: without SMP, where a lock has none.
    """
    if not sizeof(lock.prog.type("spinlock_t")):
        raise NoVictim("locks without SMP have no word")
    return replace(lock, width=4)


def one_bit(prog: Program) -> int:
    """Return a bit that says of no lock that it is held."""
    # On s390x the lower half is the CPU that holds it; where in the queue of no CPU
    # somebody waits, none.
    is_s390 = prog.platform is not None and prog.platform.arch == Architecture.S390X
    return 1 << 18 if is_s390 else 2


def _zone(machine: Any) -> Thing:
    zone = next(zone for zone in NODE_DATA(machine.prog, 0).node_zones if zone.spanned_pages)
    return Thing(machine, "struct zone", zone.address_of_().value_(), node=0)


def locks(suite: Suite[Any]) -> None:
    """Enter damage to the locks of nodes and zones."""
    root = WRONG.but(node=0)
    for name, number in (
        ("list-lock-text", TEXT),
        ("list-lock-one-bit", lambda cache: one_bit(cache.machine.prog)),
    ):
        change = put(lambda cache: word_of(cache.node().spot("list_lock")), number)
        suite.recipe(name, CACHE, change, root)
    suite.recipe("zone-lock-text", _zone, put(lambda zone: word_of(zone.spot("lock")), TEXT), root)
