# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to SLAB's locks."""

from __future__ import annotations

from typing import Any

from drgn import offsetof

from ..changes import Spot, put
from ..locks import TEXT, WRONG, locks
from ..victims import container
from .suite import SUITE, recipe

locks(SUITE)


def _alien_lock(array: Any) -> Spot:
    prog = array.machine.prog
    return Spot(prog, array.address - offsetof(prog.type("struct alien_cache"), "ac"), 4)


_ALIEN = WRONG.but(place="alien array")
recipe("alien-lock-text", container("alien array", 0), put(_alien_lock, TEXT), _ALIEN)
