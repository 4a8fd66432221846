# SPDX-License-Identifier: LGPL-2.1-or-later
"""Locks of the allocators that hold what no lock can hold, or that nobody gives back."""

from __future__ import annotations

from typing import Iterator, Optional, Tuple

from ..ledger import I64, Suspect
from ..machine.activities import LOCKS
from ..machine.locks import LockStates


def lock_suspects(
    states: LockStates,
    *,
    nodes: Optional[I64] = None,
    cpus: Optional[I64] = None,
    place: Optional[str] = None,
) -> Iterator[Tuple[int, Suspect]]:
    """
    Yield the row of each lock that is wrong or held, and what is to be said of it.

    That a lock is held is to be said only if nobody is where it could be held.

    :param nodes: Node that each row belongs to.
    :param cpus: CPU that each row belongs to.
    :param place: What the locks guard; the node's lists if it is not given.
    """
    for row in states.wrong.nonzero()[0].tolist():
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
    # A CPU's own lock is given back by the way, in whatever allocates and frees.
    kept = states.held & (states.stands_still and cpus is None)
    for row in kept.nonzero()[0].tolist():
        holder = states.holder(row)
        lock = f"{place}: its lock" if place else "list_lock"
        yield (
            row,
            Suspect(
                "lock-kept",
                f"{lock} is held{' by ' + holder if holder else ''}",
                node=None if nodes is None else int(nodes[row]),
                place=place,
                moving=True,
                address=int(states.addresses[row]),
                activity=LOCKS,
            ),
        )
