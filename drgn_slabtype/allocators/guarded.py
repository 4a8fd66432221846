# SPDX-License-Identifier: LGPL-2.1-or-later
"""
KFENCE's objects
----------------

Their metadata, the list of free ones, and what is beside them in their pages, as
:mod:`..rules.guarded` judges them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from drgn import FaultError

from ..arguments import named
from ..codes import ADDRESS
from ..findings import Finding
from ..ledger import I64, U64, Bools
from ..machine import Machine, is_dump
from ..machine.activities import GUARDED
from ..machine.columns import Rows
from ..machine.kfence import given_out, in_place, kfence_pool
from ..machine.locks import lock_state, lock_states
from ..records import plural
from ..rules.content import spell_ranges
from ..rules.guarded import Canaries, Guarded, judge_canaries, judge_guarded
from .caches import Caches, same_cache
from .links import Followed, follow

_LIST = "kfence_freelist"
_RED_ZONE = "red zone of KFENCE"
_FEWEST_ALIKE = 9  # objects that are not damaged alike by chance
_STEP = 256  # pages read at a time


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
    used: List[_Used] = []
    for rows in pool.metadata:
        odd: List[int] = []
        for at, finding in _judge(machine, caches, rows, pool.start, first, count, links):
            odd.append(at)
            yield finding
        used.append(_used(machine, caches, rows, pool.start, first, odd))
        first += len(rows)
    yield from _judge_pages(machine, caches, used)


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
) -> Iterator[Tuple[int, Finding]]:
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
        yield (
            odd.row,
            Finding(
                "kfence-wrong",
                f"object {first + odd.row} of KFENCE's pool: {odd.member} at 0x{at:x} is {told}, "
                f"{odd.why}",
                place="kfence_metadata",
                found=odd.found,
                word=at,
                member=odd.member,
                measure=ADDRESS if odd.member in ("addr", "cache") else None,
            ),
        )


class _Used(NamedTuple):
    # Objects that are given out, as columns; cache is its position.
    number: I64
    address: U64
    size: I64
    cache: I64

    def part(self, rows: slice) -> _Used:
        return _Used(self.number[rows], self.address[rows], self.size[rows], self.cache[rows])


def _used(
    machine: Machine, caches: Caches, rows: Rows, start: int, first: int, odd: List[int]
) -> _Used:
    which: Bools = given_out(machine, rows) & in_place(rows, start, first, machine.memory.page_size)
    which &= ~lock_states(machine, rows, "lock").held
    which[odd] = False
    some = np.flatnonzero(which)
    return _Used(
        some + first,
        rows["addr"][some],
        rows["size"][some].astype(np.int64),
        same_cache(rows["cache"][some], caches),
    )


def _judge_pages(machine: Machine, caches: Caches, used: List[_Used]) -> Iterator[Finding]:
    found: List[Finding] = []
    count = lost = 0
    for some in used:
        for at in range(0, len(some.number), _STEP):
            batch = some.part(slice(at, at + _STEP))
            damaged, missing = _batch(machine, caches, batch)
            found += damaged
            count += len(batch.number)
            lost += missing
    if len(found) >= _FEWEST_ALIKE and 2 * len(found) > count - lost:
        told = f"beside {len(found)} of {count - lost} objects is something else"
        yield Finding("not-understood", f"{_RED_ZONE}: {told}", place=_RED_ZONE)
        return
    # An object is marked as given out before its page is filled: one on each CPU.
    moving = len(found) <= len(machine.cpus)
    yield from (replace(one, moving=moving, activity=GUARDED) for one in found)
    if lost and is_dump(machine):
        beside = f"what is beside {plural(lost, 'object')} of KFENCE's pool"
        yield Finding("unreadable", f"{beside} is not in the target", place=_RED_ZONE)


def _batch(machine: Machine, caches: Caches, of: _Used) -> Tuple[List[Finding], int]:
    # What is wrong with the pages of some objects, and how many of them are not there.
    size = machine.memory.page_size
    homes = of.address & ~np.uint64(size - 1)
    pages, there = machine.memory.gather(homes, size)
    within = (of.address - homes).astype(np.int64)
    beside = Canaries(homes[there], pages[there], within[there], of.size[there])
    rows = np.flatnonzero(there)
    found = []
    for at, ranges in judge_canaries(beside):
        row, first = int(rows[at]), ranges[0]
        address, number = int(of.address[row]), int(of.number[row])
        name = caches.names[of.cache[row]] if of.cache[row] >= 0 else None
        found.append(
            Finding(
                "redzone",
                f"{name or 'a lost cache'} object 0x{address:x} in KFENCE's pool: {_RED_ZONE}: "
                f"{spell_ranges(ranges)}",
                cache=name,
                object=address,
                index=number,
                place=_RED_ZONE,
                expected=first.expected,
                found=first.found,
                address=first.address,
                ranges=ranges,
            )
        )
    return found, int(np.count_nonzero(~there) + np.count_nonzero(beside.blank))
