# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the members lie that findings name, and what slabs say of them."""

from __future__ import annotations

from typing import Iterable, Iterator, Optional

import numpy as np

from ..ledger import I64, Suspect
from ..machine.columns import Rows

_SEVERAL = 3  # slabs, of which one may be damaged


def at_member(rows: Rows, row: int, suspects: Iterable[Suspect]) -> Iterator[Suspect]:
    """
    Yield what is wrong with one structure, with the address of the member that each names.

    Where the word is known already, it is that of another structure.

    :param rows: Structures of that kind.
    """
    for one in suspects:
        if one.member is None or one.word is not None or not rows.structure.has(one.member):
            yield one
        else:
            at = int(rows.addresses[row]) + rows.structure.offset(one.member)
            yield one._replace(word=at)


def usual_order(orders: I64) -> Optional[int]:
    """Return the order that most slabs of a cache have; ``None`` if they are too few to tell."""
    found, times = np.unique(orders, return_counts=True)
    at = int(times.argmax()) if len(found) else 0
    several = len(orders) >= _SEVERAL and 2 * int(times[at]) > len(orders)
    return int(found[at]) if several else None
