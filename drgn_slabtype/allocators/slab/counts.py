# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which counts of slabs can be believed
-------------------------------------

Everything that a slab says rests on its count: which list it stands on, where
its freelist begins, whether it needs an index array at all. One wrong count
makes all of that look wrong; the rest then agrees on another one.
"""

from __future__ import annotations

import numpy as np

from ...ledger import I64, Bools, Ledger
from .cache import SlabCache
from .indexes import IndexArrays
from .state import allowed_lists


class Counts:
    """
    The counts of one cache's slabs, beside what speaks for and against them.

    :param ledger: With slabs, lists, counters and the claims of all other places.
    """

    def __init__(self, cache: SlabCache, ledger: Ledger, arrays: IndexArrays) -> None:
        self._num = cache.num
        self._ledger = ledger
        self._arrays = arrays
        self._claimed = _claimed_objects(ledger, cache.num)
        self._stands: I64 = np.zeros(len(ledger.slabs), np.int64)
        members = ledger.memberships.take(ledger.memberships.slab >= 0)
        np.bitwise_or.at(self._stands, members.slab, members.kind)

    def doubtful(self, active: I64) -> Bools:
        """
        Return which slabs cannot count so many objects in use.

        Pointer, array, list or the places that hold the other objects speak against it.
        """
        arrays = self._arrays
        tails = arrays.tails(active)
        valid = tails.live & ~tails.bad
        named = np.where(valid, arrays.entries, 0)
        claimed = valid & np.take_along_axis(self._claimed, named, axis=1)
        wrong_list = (self._stands & allowed_lists(active, self._num)) == 0
        wrong: Bools = (tails.bad | tails.repeats | claimed).any(axis=1) | wrong_list
        return wrong | arrays.misplaced(active) | arrays.left_over(active) | arrays.not_host(active)

    def believed(self) -> I64:
        """
        Return what each slab should count, where that can be told from its own count.

        If a node's ``free_objects`` is off by a number, and one slab alone would
        be sound if it counted so many more or fewer, then that count is wrong.
        """
        members, active = self._ledger.memberships, self._ledger.slabs.counted
        out = active.copy()
        for counter in self._ledger.counters:
            off = counter.summed - counter.kept
            if counter.name != "free_objects" or counter.moves or not 0 < abs(off) <= self._num:
                continue
            here = np.zeros(len(active), np.bool_)
            here[members.slab[(members.owner == counter.node) & (members.slab >= 0)]] = True
            other = active + off
            here &= (active <= self._num) & (other >= 0) & (other <= self._num)
            here &= self.doubtful(active) & ~self.doubtful(np.clip(other, 0, self._num))
            if np.count_nonzero(here) == 1:
                out[here] = other[here]
        return out


def _claimed_objects(ledger: Ledger, num: int) -> Bools:
    # Which objects of which slabs some place has claimed: shape (slabs, num).
    out = np.zeros((len(ledger.slabs), num), np.bool_)
    claims = ledger.claims
    known = (claims.slab >= 0) & (claims.index >= 0)
    out[claims.slab[known], claims.index[known]] = True
    return out
