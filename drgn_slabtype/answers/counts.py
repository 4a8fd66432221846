# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What there is of one cache, added up from its ledger
----------------------------------------------------

Each object is counted once, so that the sums add up whatever is damaged::

    objects = in use + free + waiting + unknown

An object is free or waiting if a place records it so. What a slab counts as in
use beyond these is in use. Unknown are the objects of which this cannot be told:
those that a slab counts as free and no place records, those that it counts as in
use though its freelist leaves no room for so many, and, where a list of free
objects that the slab counts as in use cannot be followed to its end, all that
could have stood on the rest of it.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ..findings import CacheResult
from ..ledger import I64, Claims, Ledger, State, Walk, all_differ

_MOST = 1 << 32  # more than any slab or array has


def count_objects(ledger: Ledger) -> CacheResult:
    """
    Return what there is of one cache, with nothing judged yet.

    Slabs that wait on no list for their pages to be given back are not in it, as
    they are not in the kernel's own numbers.
    """
    facts, slabs = ledger.facts, ledger.slabs
    there = ~slabs.excused
    result = CacheResult(
        facts.name, facts.address, facts.object_size, facts.stride, facts.objects_per_slab
    )
    result.judged = ledger.judged
    shared = np.array([place.counted for place in ledger.places], np.bool_)
    result.places = int(np.count_nonzero(shared[ledger.containers.place]))
    objects, counted = np.maximum(slabs.objects, 0), np.clip(slabs.counted, -_MOST, _MOST)
    result.slabs = int(np.count_nonzero(there))
    result.pages = int((1 << slabs.order[there]).sum())
    result.objects = int(objects[there].sum())
    # The kernel's own count, which may be damaged, but is no number below none.
    result.counted = max(int(counted[there].sum()), 0)
    tenths = 10 * counted[there] // np.maximum(objects[there], 1)
    result.fill = np.bincount(np.clip(tenths, 0, 10), minlength=11).tolist()
    claims = _each_once(ledger)
    _add_places(result, ledger, claims)
    in_use, unknown = _in_use(ledger, objects, claims)
    result.in_use, result.unknown = int(in_use[there].sum()), int(unknown[there].sum())
    hidden = min(_behind_the_end(ledger), result.in_use)
    result.in_use, result.unknown = result.in_use - hidden, result.unknown + hidden
    return result


def _each_once(ledger: Ledger) -> Claims:
    # Claims about objects of slabs that count, the first about each. What is no
    # object of the cache is not one of those that are added up.
    claims, slabs = ledger.claims, ledger.slabs
    number = np.where(claims.slab >= 0, claims.slab, 0)
    real = (claims.slab >= 0) & (claims.index >= 0) & (claims.state != State.LIVE)
    if len(slabs):
        real &= ~slabs.excused[number] & (claims.index < slabs.objects[number])
    rows = np.flatnonzero(real)
    width = int(claims.index.max(initial=0)) + 1
    keys = claims.slab[rows].astype(np.int64) * width + claims.index[rows]
    if all_differ(keys, len(slabs) * width):
        return claims.take(rows)
    return claims.take(rows[np.unique(keys, return_index=True)[1]])


def _add_places(result: CacheResult, ledger: Ledger, claims: Claims) -> None:
    states = len(State)
    length = len(ledger.places) * states
    held = np.bincount(claims.place * states + claims.state, minlength=length)
    for place, here in zip(ledger.places, held.reshape(-1, states).tolist()):
        if here[State.FREE] or not place.counted:
            result.free[place.name] = here[State.FREE]
        result.waiting += here[State.WAITING]


def _in_use(ledger: Ledger, objects: I64, claims: Claims) -> Tuple[I64, I64]:
    # Of each slab: objects in use, and those of which that cannot be told.
    slabs, boxes = ledger.slabs, ledger.containers
    counted_place = np.array([place.counted for place in ledger.places], np.bool_)
    inside = counted_place[claims.place]
    held = np.bincount(claims.slab[inside], minlength=len(slabs))
    outside = np.bincount(claims.slab[~inside], minlength=len(slabs))
    rest = objects - held - outside
    in_use = np.clip(np.clip(slabs.counted, 0, _MOST) - held, 0, rest)
    cut = (boxes.slab >= 0) & (boxes.state != Walk.WHOLE)
    cut[cut] = counted_place[boxes.place[cut]]
    in_use[boxes.slab[cut]] = 0
    return in_use, rest - in_use


def _behind_the_end(ledger: Ledger) -> int:
    # Entries that arrays of the cache promise and that could not be read.
    boxes = ledger.containers
    cut = (boxes.slab < 0) & (boxes.state != Walk.WHOLE)
    promised, walked = (np.clip(one[cut], 0, _MOST) for one in (boxes.counted, boxes.walked))
    return int(np.maximum(promised - walked, 0).sum())
