# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Arrays that were caught while their CPU gave objects back
---------------------------------------------------------

The objects are in slabs or in the shared array before the CPU lowers ``avail``
and moves the rest down, with no lock held: its entries then disagree with
everything else, in a pattern of its own.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ...ledger import I64, Ledger, State
from .arrays import CPU, ArrayCaches


def mark_flushes(arrays: ArrayCaches, cache: int, ledger: Ledger) -> None:
    """
    Mark the arrays of one cache that were caught so.

    :param ledger: With the cache's arrays as its first containers.
    """
    mine = arrays.rows_of(cache)
    boxes, claims = ledger.containers, ledger.claims
    odd, wrong = _odd_claims(ledger)
    for box in np.setdiff1d(claims.container[odd], claims.container[wrong]).tolist():
        if 0 <= box < len(mine) and arrays.kind[mine[box]] == CPU:
            here = odd[claims.container[odd] == box]
            boxes.busy[box] |= _is_flushing(arrays, mine[box], np.unique(claims.position[here]))


def _is_flushing(arrays: ArrayCaches, row: int, odd: I64) -> bool:
    avail, limit = int(arrays.avail[row]), int(arrays.limit[row])
    batch = min(int(arrays.batchcount[row]), limit)
    # A CPU gives a batch back when its array is full. Other CPUs may take
    # some of the objects before it comes to lowering the count.
    if avail == limit:
        return bool(odd[-1] < batch)
    # Then it moves what stays to the front, entry by entry.
    if avail == limit - batch:
        last = min(batch, avail) - 1
        return bool(odd[-1] == last and len(odd) == last - odd[0] + 1)
    # An array that is drained is emptied in one go.
    return len(odd) == avail > 1


def _odd_claims(ledger: Ledger) -> Tuple[I64, I64]:
    # Claims of objects that are claimed more than once, or whose slab is gone;
    # and those that no work explains: inside an object, or of one that the
    # allocator lives in.
    claims = ledger.claims
    gone = claims.slab < 0
    most = int(ledger.slabs.objects.max(initial=0)) + 1
    keys = np.where(gone, -1, claims.slab.astype(np.int64) * most + claims.index)
    _, which, times = np.unique(keys, return_inverse=True, return_counts=True)
    live = np.isin(keys, keys[claims.state == State.LIVE]) & ~gone
    wrong = live | (~gone & (claims.index < 0))
    return np.flatnonzero(gone | (times[which] > 1)), np.flatnonzero(wrong)
