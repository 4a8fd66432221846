# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks of the allocators that hold what no lock can hold."""

from __future__ import annotations

from typing import Iterator, Optional, Tuple

import numpy as np

from ..ledger import I64, Suspect
from ..machine.locks import LockStates


def wrong_locks(
    states: LockStates,
    *,
    nodes: Optional[I64] = None,
    cpus: Optional[I64] = None,
    place: Optional[str] = None,
) -> Iterator[Tuple[int, Suspect]]:
    """
    Yield the row of each lock with a wrong word, and what is to be said of it.

    :param nodes: Node that each row belongs to.
    :param cpus: CPU that each row belongs to.
    :param place: What the locks guard; the node's lists if it is not given.
    """
    for row in np.flatnonzero(states.wrong).tolist():
        word = states.wrong_word(row)
        assert word is not None
        cpu = None if cpus is None else int(cpus[row])
        whose = "" if cpu is None else f" of CPU {cpu}"
        yield (
            row,
            Suspect(
                "lock-wrong",
                f"{place}{whose}: {word}" if place else str(word),
                node=None if nodes is None else int(nodes[row]),
                cpu=cpu,
                place=place,
                found=word.found,
                address=word.address,
            ),
        )
