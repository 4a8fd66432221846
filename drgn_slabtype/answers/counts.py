# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What there is of one cache, added up from its ledger
----------------------------------------------------

Each object is counted once, as the state that :func:`.states.object_states` gives it,
so that the sums add up whatever is damaged, and are the same in every answer::

    objects = in use + free + waiting + unknown

Nobody knows which objects stood on the rest of an array that cannot be read to its
end: as many of those in use are counted as unknown.
"""

from __future__ import annotations

import numpy as np

from ..findings import CacheResult
from ..ledger import Ledger, Walk
from .states import tally

_TENTHS = 11  # from none of ten to ten
_MOST = 1 << 32  # more than any slab or array has


def count_objects(ledger: Ledger) -> CacheResult:
    """
    Return what there is of one cache, with nothing judged yet.

    Slabs that wait on no list for their pages to be given back are not in it, as
    they are not in the kernel's own numbers.
    """
    facts, slabs = ledger.facts, ledger.slabs
    result = CacheResult(
        facts.name, facts.address, facts.object_size, facts.stride, facts.objects_per_slab
    )
    result.judged = ledger.judged
    shared = np.array([place.counted for place in ledger.places], np.bool_)
    result.places = int(np.count_nonzero(shared[ledger.containers.place]))
    if not len(slabs):
        result.fill = [0] * _TENTHS
        result.free = {place.name: 0 for place in ledger.places if not place.counted}
        return result
    there = ~slabs.excused
    objects, counted = np.maximum(slabs.objects, 0), np.clip(slabs.counted, -_MOST, _MOST)
    result.slabs = int(np.count_nonzero(there))
    result.pages = int((1 << slabs.order[there]).sum())
    result.objects = int(objects[there].sum())
    # The kernel's own count, which may be damaged, but is no number below none.
    result.counted = max(int(counted[there].sum()), 0)
    tenths = 10 * counted[there] // np.maximum(objects[there], 1)
    result.fill = np.bincount(np.clip(tenths, 0, _TENTHS - 1), minlength=_TENTHS).tolist()
    by_state, by_place = tally(ledger)
    result.in_use, _, result.waiting, result.unknown = by_state[there].sum(axis=0).tolist()
    for place, free in zip(ledger.places, by_place[there].sum(axis=0).tolist()):
        if free or not place.counted:
            result.free[place.name] = free
    hidden = min(_behind_the_end(ledger), result.in_use)
    result.in_use, result.unknown = result.in_use - hidden, result.unknown + hidden
    return result


def _behind_the_end(ledger: Ledger) -> int:
    # Entries that arrays of the cache promise and that could not be read.
    boxes = ledger.containers
    cut = (boxes.slab < 0) & (boxes.state != Walk.WHOLE)
    promised, walked = (np.clip(one[cut], 0, _MOST) for one in (boxes.counted, boxes.walked))
    return int(np.maximum(promised - walked, 0).sum())
