# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the count of a SLAB slab says about where it stands."""

from __future__ import annotations

from typing import Union

import numpy as np

from ...ledger import I64, Bools, ListKind
from .cache import SlabCache

_NODE_LISTS = int(ListKind.PARTIAL | ListKind.FULL | ListKind.FREE)


def allowed_lists(active: I64, num: Union[int, I64]) -> I64:
    """Return the :class:`~drgn_slabtype.ledger.ListKind` bits a count asks for."""
    out = np.full(len(active), int(ListKind.PARTIAL), np.int64)
    out[active == num] = ListKind.FULL
    out[active == 0] = ListKind.FREE
    out[(active < 0) | (active > num)] = _NODE_LISTS
    return out


def in_transit(cache: SlabCache, active: I64, loose: Bools) -> Bools:
    """
    Return which slabs may be between two lists just now.

    A slab is made, and filled into the array of its CPU, before it is linked,
    and unlinked before its pages are given back.

    :param loose: Which are on no list, and not because a list has lost them.
    """
    return loose & (active >= 0) & (active <= min(max(cache.batchcount, 1), cache.num))
