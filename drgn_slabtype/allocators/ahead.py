# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Reading ahead
-------------

Caches are judged one by one, and the slabs of each lie all over the memory, between
those of others. What the lists of free objects are made of is read for as many caches
at once as there is room for: in the order of memory, which is gone through once.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Sequence

import numpy as np

from ..ledger import I64

_MOST = 1 << 22  # words that are held at a time


class Share(NamedTuple):
    """Caches whose turns follow each other."""

    numbers: List[int]
    ahead: List[int]
    """Those of them that are read ahead: of others, one alone has more than there is room for."""


def shares(numbers: Sequence[int], words: I64) -> Iterator[Share]:
    """
    Yield caches in their order, as many at a time as there is room for.

    :param numbers: Their positions.
    :param words: How many words are to be read of each of all caches.
    """
    share, room = Share([], []), _MOST
    for number, needed in zip(numbers, words[list(numbers)].tolist()):
        if room < needed <= _MOST:
            yield share
            share, room = Share([], []), _MOST
        share.numbers.append(number)
        if needed <= _MOST:
            share.ahead.append(number)
            room -= needed
    yield share


def places_of(rows: I64, known: I64, sizes: I64, size: int) -> Optional[I64]:
    """
    Return where some rows of the index are among those that were read ahead.

    :param known: Those that were read, in ascending order.
    :param sizes: How much of each was read.
    :param size: How much of each is wanted.
    :return: Positions in *known*; ``None`` if some were not read, or not so much of them.
    """
    if not len(known):
        return None
    at = np.minimum(known.searchsorted(rows), len(known) - 1)
    return at if (known[at] == rows).all() and (sizes[at] == size).all() else None
