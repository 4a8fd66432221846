# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words that no lock can hold, where locks are."""

from __future__ import annotations

from drgn import Object, sizeof
from drgn.helpers.linux.mmzone import NODE_DATA

from .language import Injury, NoVictim
from .machine import Machine
from .writes import value

TEXT = int.from_bytes(b"text", "little")
"""What a string leaves in a word."""
IMPOSSIBLE = 2
"""One bit, which says of no lock that it is held."""


def wrong_lock(lock: Object, word: int, cache: str, node: int, place: object = None) -> Injury:
    """Return the injury that a word is written into a spinlock of a node."""
    if not sizeof(lock):
        raise NoVictim("locks without SMP have no word")
    return Injury(
        [value(lock.address_of_().value_(), word, 4)],
        "lock-wrong",
        cache,
        node=node,
        place=None if place is None else str(place),
        found=word,
    )


def wrong_zone_lock(machine: Machine) -> Injury:
    """Return the injury that the lock of a zone holds text."""
    zone = next(zone for zone in NODE_DATA(machine.prog, 0).node_zones if zone.spanned_pages)
    if not sizeof(zone.lock):
        raise NoVictim("locks without SMP have no word")
    return Injury(
        [value(zone.lock.address_of_().value_(), TEXT, 4)], "lock-wrong", node=0, found=TEXT
    )
