# SPDX-License-Identifier: LGPL-2.1-or-later
"""What there is of one cache, added up from its ledger."""

from __future__ import annotations

import numpy as np

from ..findings import CacheResult
from ..ledger import Ledger, State


def count_objects(ledger: Ledger) -> CacheResult:
    """
    Return what there is of one cache, with nothing judged yet.

    Slabs that wait on no list for their pages to be given back are not in it, as
    they are not in the kernel's own numbers.
    """
    facts, claims = ledger.facts, ledger.claims
    gone = ledger.slabs.excused
    if gone.any():
        claims = claims.take((claims.slab < 0) | ~gone[claims.slab])
    slabs = ledger.slabs.take(~gone)
    result = CacheResult(
        facts.name, facts.address, facts.object_size, facts.stride, facts.objects_per_slab
    )
    result.judged = ledger.judged
    result.slabs = len(slabs)
    result.pages = int((1 << slabs.order).sum())
    result.objects = int(slabs.objects.sum())
    result.counted = int(slabs.counted.sum())
    result.in_use = result.counted
    tenths = 10 * slabs.counted // np.maximum(slabs.objects, 1)
    result.fill = np.bincount(np.clip(tenths, 0, 10), minlength=11).tolist()
    states = len(State)
    held = np.bincount(claims.place * states + claims.state, minlength=len(ledger.places) * states)
    for place, here in zip(ledger.places, held.reshape(-1, states).tolist()):
        free, waiting = here[State.FREE], here[State.WAITING]
        if free or not place.counted:
            result.free[place.name] = free
        result.waiting += waiting
        if place.counted:
            result.in_use -= free + waiting
    # A count that is damaged, or places that hold what is not theirs, can ask for less
    # than nothing.
    result.counted, result.in_use = max(result.counted, 0), max(result.in_use, 0)
    return result
