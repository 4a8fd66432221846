# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Arrays that were caught while objects went in or out
----------------------------------------------------

The objects are in slabs or in the shared array before the CPU lowers ``avail``
and moves the rest down, with no lock held: its entries then disagree with
everything else, in a pattern of its own. Under the lock of the node entries are
copied from one array to another, or go back to slabs, before either is counted.

That explains an object in an array that is on a freelist, in the array of its
node or once more in the same one, and one whose slab is gone; never one that
two CPUs or two caches hold, one that the allocator lives in or one that is no object.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ...distinct import among, distinct
from ...ledger import I64, U64, Ledger, State, all_differ
from ...machine.memory import Memory
from .arrays import CPU, ArrayCaches


def mark_flushes(
    memory: Memory, arrays: ArrayCaches, cache: int, ledger: Ledger, others: U64
) -> None:
    """
    Mark the entries of one cache's arrays that were caught so.

    :param ledger: With the cache's arrays as its first containers.
    :param others: Objects that are in arrays of other caches as well.
    """
    mine = arrays.rows_of(cache)
    boxes, claims = ledger.containers, ledger.claims
    if not len(claims):
        return
    odd, wrong = _odd_claims(memory, ledger, others)
    busy = boxes.busy.copy()
    busy[len(mine) :] = False
    boxed = distinct(claims.container[odd])
    for box in boxed[~among(boxed, claims.container[wrong])].tolist():
        if 0 <= box < len(mine) and arrays.kind[mine[box]] == CPU:
            here = odd[claims.container[odd] == box]
            busy[box] |= _is_flushing(arrays, mine[box], distinct(claims.position[here]))
    claims.passing |= busy[claims.container]
    claims.passing[wrong] = False


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


def _odd_claims(memory: Memory, ledger: Ledger, others: U64) -> Tuple[I64, I64]:
    # Claims of objects that are claimed more than once, or whose slab is gone;
    # and those that no work explains: inside an object, of one that the allocator
    # lives in, in another cache's array, or no address that an array can ever hold.
    claims = ledger.claims
    gone = claims.slab < 0
    most = int(ledger.slabs.objects.max(initial=0)) + 1
    keys = claims.slab.astype(np.int64) * most + claims.index + 1
    keys[gone] = -1
    odd = gone
    if not all_differ(keys[~gone], len(ledger.slabs) * most):
        _, which, times = np.unique(keys, return_inverse=True, return_counts=True)
        odd = gone | (times[which] > 1)
    live = among(keys, keys[claims.state == State.LIVE]) & ~gone
    wrong = live | (~gone & (claims.index < 0)) | ~memory.is_kernel_address(claims.address)
    wrong |= among(claims.address, others)
    wrong |= claims.address % np.uint64(memory.word_size) != 0
    return np.flatnonzero(odd), np.flatnonzero(wrong)
