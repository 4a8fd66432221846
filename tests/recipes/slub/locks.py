# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to SLUB's locks."""

from __future__ import annotations

from typing import Any

from drgn.helpers.linux.percpu import per_cpu_ptr

from ..changes import Spot, member, put
from ..language import NoVictim
from ..locks import TEXT, WRONG, locks, word_of
from ..victims import container
from .suite import SHEAF, SUITE, recipe

locks(SUITE)


def _barn_lock(sheaf: Any) -> Spot:
    barn = sheaf.cache.barns[sheaf.owner]
    return word_of(member(sheaf.machine.prog, "struct node_barn", barn, "lock"))


_BARN = WRONG.but(place="barn")
recipe("barn-lock-text", container("full barn", 1), put(_barn_lock, TEXT), _BARN)


def _acquired(sheaf: Any) -> Spot:
    own = per_cpu_ptr(sheaf.cache.object.cpu_sheaves, sheaf.owner)
    if not own.lock.type_.has_member("acquired"):
        raise NoVictim("the lock of sheaves is none that can be tried")
    type = "struct slub_percpu_sheaves"
    return member(sheaf.machine.prog, type, own.value_(), "lock.acquired")


recipe("cpu-sheaves-lock-wrong", SHEAF, put(_acquired, 0x74), WRONG.but(place="cpu sheaves"))
