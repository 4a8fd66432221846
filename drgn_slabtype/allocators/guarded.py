# SPDX-License-Identifier: LGPL-2.1-or-later
"""KFENCE's metadata, and its list of free objects, as :mod:`..rules.guarded` judges them."""

from __future__ import annotations

from typing import Iterator, Optional

import numpy as np
from drgn import FaultError

from ..arguments import named
from ..codes import ADDRESS
from ..findings import Finding
from ..ledger import U64
from ..machine import Machine
from ..machine.columns import Rows
from ..machine.kfence import in_place, kfence_pool
from ..machine.locks import lock_state, lock_states
from ..rules.guarded import Guarded, judge_guarded
from .caches import Caches, same_cache
from .links import Followed, follow

_LIST = "kfence_freelist"


def judge_pool(machine: Machine, caches: Caches) -> Iterator[Finding]:
    """Yield what is wrong with KFENCE's metadata; nothing where it has no pool."""
    if machine.is_live:
        return  # objects come and go faster than they can be read twice
    pool = machine.settled(kfence_pool)
    count = (pool.end - pool.start) // (2 * machine.memory.page_size) - 1
    free = _free_objects(machine, count) if pool.start and count > 0 else None
    if free is not None and not free.closed and free.readable:
        yield Finding(
            "kfence-wrong",
            f"{_LIST}: the list breaks off at 0x{free.at:x}, which leads to {named(free.found)}",
            place=_LIST,
            found=free.found,
            word=free.at,
            measure=ADDRESS,
        )
    links = None
    if free is not None and free.closed:
        links = np.array(free.links, np.uint64)
    first = 0
    for rows in pool.metadata:
        yield from _judge(machine, caches, rows, pool.start, first, count, links)
        first += len(rows)


def _free_objects(machine: Machine, count: int) -> Optional[Followed]:
    # None if it is being written to, or not known where it is.
    try:
        head = machine.prog.variable(_LIST).address_
        if head is None:
            return None
        try:
            if lock_state(machine.prog.variable(f"{_LIST}_lock")).held[0]:
                return None
        except LookupError:
            pass
        return follow(machine, head, count + 1)
    except (FaultError, LookupError):
        return None


def _judge(
    machine: Machine,
    caches: Caches,
    rows: Rows,
    start: int,
    first: int,
    count: int,
    free: Optional[U64],
) -> Iterator[Finding]:
    states = machine.enumerators("kfence_object_state")
    there = rows.ok & (np.arange(len(rows)) + first < count)
    which = same_cache(rows["cache"], caches)
    sizes = np.where(which >= 0, caches.rows["object_size"][which], np.uint64(0))
    if caches.lost is not None:
        # One that is not known any more is no other's fault.
        sizes = np.where(which >= 0, sizes, rows["size"])
        which = np.maximum(which, 0)
    listed = None
    if free is not None:
        listed = np.isin(rows.addresses + np.uint64(rows.structure.offset("list")), free)
    of = Guarded(
        in_place(rows, start, first, machine.memory.page_size),
        rows["state"],
        rows["size"],
        which,
        sizes,
        rows["cache"],
        rows["addr"],
        lock_states(machine, rows, "lock").held | ~there,
        max(states.values(), default=3) + 1,
        listed,
    )
    for odd in judge_guarded(of):
        at = int(rows.addresses[odd.row]) + rows.structure.offset(odd.member)
        told = named(odd.found) if odd.member in ("addr", "cache") else str(odd.found)
        yield Finding(
            "kfence-wrong",
            f"object {first + odd.row} of KFENCE's pool: {odd.member} at 0x{at:x} is {told}, "
            f"{odd.why}",
            place="kfence_metadata",
            found=odd.found,
            word=at,
            member=odd.member,
            measure=ADDRESS if odd.member in ("addr", "cache") else None,
        )
