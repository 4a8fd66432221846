# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who allocated the objects
-------------------------

Objects by the call trace that allocated them, or freed them last, where the
kernel keeps that (slub_debug=U, KASAN), as ``alloc_traces`` of debugfs shows them; by
what their first words are, where it does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import takewhile
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

import numpy as np
from drgn import Program

from ..arguments import CacheLike, at_least
from ..distinct import distinct
from ..errors import TargetError
from ..ledger import I64, U64
from ..machine import machine
from ..machine.clock import Clock, clock
from ..machine.parallel import spread_reads
from ..machine.symbols import CodeNames, depot_traces
from ..pages.scan import Progress
from ..records import Listing, Record
from ..shapes import Bytes
from ..signature import first_caller
from ..workers import worth_while
from .lookup import Lookup, lookup
from .missing import missing_of_cache, missing_of_machine
from .objects import is_damaged
from .slots import Slot, slot
from .states import ObjectState, object_states
from .trackcolumns import TrackColumns, has_records, track_columns

_BATCH = 1 << 16  # tracks that are held at a time
_MANY = 1 << 18  # of which reading takes longer than processes do to begin
_NAMED = 4  # caches that are named where none has records
_MOST_PIDS = 8  # that are listed of one call trace


@dataclass
class Stack(Record):
    """Objects of one cache that were allocated, or freed, by the same call trace."""

    cache: str
    """Name of the slab cache."""
    count: int
    """How many objects."""
    bytes: Bytes
    """Of all of them, as large as their users asked for: ``object_size`` each."""
    caller: Optional[str]
    """Symbol and offset."""
    stack: Tuple[str, ...] = ()
    """Call trace, innermost first, if it was kept."""
    youngest: Optional[float] = None
    """Age in seconds; in jiffies where the target does not tell how long one is."""
    average: Optional[float] = None
    """The same on average."""
    oldest: Optional[float] = None
    """The same of the oldest."""
    cpus: Tuple[int, ...] = ()
    """CPUs on which that was."""
    pids: Tuple[int, ...] = ()
    """Processes that did it; the first few, if they are many."""
    processes: int = 0
    """How many different ones."""


@dataclass
class StacksAnswer(Listing):
    """Objects by call trace, the largest groups first."""

    LISTED = "stacks"

    event: str
    """``allocated`` or ``freed``."""
    stacks: List[Stack] = field(default_factory=list)
    """As many as were asked for."""
    found: int = 0
    """Call traces, also those that are not told."""
    objects: int = 0
    """That were looked at."""
    untracked: int = 0
    """Of which nothing is recorded."""
    overwritten: int = 0
    """Of which the record is overwritten."""
    contradicted: int = 0
    """Objects about which the structures contradict each other; they are nobody's."""
    caches: int = 0
    """With records."""
    seconds: bool = True
    """Whether ages are in seconds."""
    unavailable: Tuple[str, ...] = ()
    """What is missing because it is not in the target, or cannot be reached."""
    damaged: Tuple[str, ...] = ()
    """Caches with such objects, or with records that are overwritten, about which there is a
    finding."""

    @property
    def tracked(self) -> int:
        """Objects with a record that is whole; those of all call traces."""
        return self.objects - self.untracked - self.overwritten


def stacks(
    prog: Program,
    *wanted: CacheLike,
    freed: bool = False,
    most: Optional[int] = None,
    progress: Optional[Progress] = None,
    jobs: Optional[int] = 1,
) -> StacksAnswer:
    """
    Return objects in use by the call trace that allocated them.

    >>> answer = stacks(prog)
    >>> answer.caches
    0
    >>> for stack in answer[:10]:
    ...     print(stack.count, stack.cache, stack.caller)

    :param wanted: Names of caches, patterns, ``struct kmem_cache *``; all that have records
        if there are none.
    :param freed: Objects that were freed instead, by who freed them: those that are free, and
        with KASAN those that are in its quarantine.
    :param most: Tell no more than so many.
    :param progress: Called as work goes on: with what is done, how far it is, and how far it goes.
    :param jobs: How many processes read records, forked from this one; with 1, this one does,
        and of what moves. ``None``: one a processor, where there are so many records of one
        cache that it is worth while. The answer is the same.
    :raises ArgumentError: if there is no such cache, or *jobs* is too small.
    :raises TargetError: if none of those that are wanted has records.
    """
    at_least("most", most)
    at_least("jobs", jobs, 1)
    kernel = machine(prog)
    reading = lookup(kernel, progress)
    numbers = _numbers(reading, wanted)
    tracked = [
        (number, layout)
        for number in numbers
        if has_records(layout := slot(kernel, reading.caches, number), freed)
    ]
    if wanted and not tracked:
        told = ", ".join(reading.caches.names[number] for number in numbers[:_NAMED])
        more = ", …" if len(numbers) > _NAMED else ""
        did = "freed" if freed else "allocated"
        raise TargetError(
            f"{told}{more}: no record of who {did} objects (SLUB keeps one with slub_debug=U, "
            "SLAB with CONFIG_DEBUG_SLAB where there is room, and KASAN does)"
        )
    now = clock(kernel)
    answer = StacksAnswer("freed" if freed else "allocated", caches=len(tracked))
    answer.seconds = now is not None and now.hz is not None
    names = kernel.fact(CodeNames)
    for done, (number, layout) in enumerate(tracked):
        if progress:
            progress("caches", done, len(tracked))
        _add(answer, reading, number, layout, now, names, jobs)
    answer.stacks.sort(
        key=lambda stack: (-stack.count, stack.cache, stack.caller or "", stack.stack)
    )
    answer.found = len(answer.stacks)
    if tracked:
        answer.unavailable = (*missing_of_machine(reading.whole), *answer.unavailable)
    if most is not None:
        del answer.stacks[most:]
    return answer


def _numbers(reading: Lookup, wanted: Tuple[CacheLike, ...]) -> List[int]:
    if not wanted:
        return list(range(len(reading.caches)))
    return sorted({number for name in wanted for number in reading.numbers(name)})


@dataclass
class _Group:
    # The objects of one call trace, as they come.
    caller: int
    handle: int
    trace: Tuple[int, ...]
    count: int = 0
    ages: int = 0
    aged: int = 0
    youngest: int = 1 << 63
    oldest: int = -1
    cpus: Set[int] = field(default_factory=set)
    pids: Set[int] = field(default_factory=set)

    def add(self, other: _Group) -> None:
        """Take in the objects of another one."""
        self.count += other.count
        self.ages += other.ages
        self.aged += other.aged
        self.youngest = min(self.youngest, other.youngest)
        self.oldest = max(self.oldest, other.oldest)
        self.cpus |= other.cpus
        self.pids |= other.pids


_Groups = Dict[Tuple[int, ...], _Group]


class _Batch(NamedTuple):
    # What some records say.
    groups: _Groups
    untracked: int
    overwritten: int


def _add(
    answer: StacksAnswer,
    reading: Lookup,
    number: int,
    layout: Slot,
    now: Optional[Clock],
    names: CodeNames,
    jobs: Optional[int],
) -> None:
    kernel = reading.machine
    ledger = reading.whole.allocator.collect(number, reading.whole.index)
    answer.unavailable += tuple(missing_of_cache(reading.whole, number, ledger))
    objects = object_states(ledger)
    freed = answer.event == "freed"
    # What waits has been freed by its user; only KASAN says by whom.
    waiting = freed and layout.kasan is not None
    states = [ObjectState.FREE, *[ObjectState.WAITING] * waiting] if freed else [ObjectState.IN_USE]
    chosen = objects.address[np.isin(objects.state, states)]
    groups: _Groups = {}

    def read(addresses: U64) -> _Batch:
        columns = track_columns(kernel, layout, addresses, freed, now)
        overwritten = int(columns.overwritten.sum())
        untracked = int((~columns.known).sum()) - overwritten
        return _Batch(_grouped(columns, now), untracked, overwritten)

    overwritten = answer.overwritten
    batches = [chosen[first : first + _BATCH] for first in range(0, len(chosen), _BATCH)]
    jobs = worth_while(jobs, kernel.memory.is_live, len(chosen) >= _MANY)
    for batch in spread_reads(kernel.memory, read, batches, jobs):
        answer.untracked += batch.untracked
        answer.overwritten += batch.overwritten
        for key, group in batch.groups.items():
            if groups.setdefault(key, group) is not group:
                groups[key].add(group)
    answer.objects += len(chosen)
    contradicted = int(np.count_nonzero(objects.state == ObjectState.UNKNOWN))
    answer.contradicted += contradicted
    facts = ledger.facts
    # To judge all caches takes long, and most have nothing that speaks against them.
    if (contradicted or answer.overwritten > overwritten) and is_damaged(reading, number):
        answer.damaged += (facts.name,)
    handles = np.array([group.handle for group in groups.values()], np.uint64)
    traces = depot_traces(kernel, handles)
    # The depot may keep one call trace twice, under two handles.
    merged: _Groups = {}
    for group in groups.values():
        trace = group.trace or tuple(traces.get(group.handle, ()))
        group.trace = tuple(takewhile(bool, trace))
        if not group.caller and not group.trace:
            # KASAN's, overwritten: a handle that leads nowhere.
            answer.untracked += group.count
            continue
        same = merged.setdefault((group.caller, *group.trace), group)
        if same is not group:
            same.add(group)
    for group in merged.values():
        answer.stacks.append(_stack(group, names, facts.name, facts.object_size, now))


def _grouped(columns: TrackColumns, now: Optional[Clock]) -> _Groups:
    groups: _Groups = {}
    which = np.flatnonzero(columns.known)
    if not len(which):
        return groups
    keys = np.ascontiguousarray(columns.keys[which])
    packed = keys.view(np.dtype((np.void, keys.shape[1] * 8)))[:, 0]
    _, first, back = np.unique(packed, return_index=True, return_inverse=True)
    back = back.reshape(-1)
    counts = np.bincount(back, minlength=len(first))
    found = []
    for row, count in zip(keys[first].tolist(), counts.tolist()):
        key = tuple(row)
        by_handle = columns.handle is not None
        groups[key] = group = _Group(
            key[0], key[1] if by_handle else 0, () if by_handle else key[1:], count
        )
        found.append(group)
    for column, add in ((columns.cpu, "cpus"), (columns.pid, "pids")):
        if column is None:
            continue
        # The kernel has 32 bits for each, and there are no more groups than objects.
        pairs = distinct((back << 32) | (column[which] & np.uint64(0xFFFFFFFF)).astype(np.int64))
        for at, value in zip((pairs >> 32).tolist(), pairs.astype(np.int32).tolist()):
            getattr(found[at], add).add(value)
    if now is not None and columns.when is not None:
        _ages(found, back, columns.when[which], now)
    return groups


def _ages(groups: List[_Group], back: I64, when: U64, now: Clock) -> None:
    age = np.uint64(now.jiffies) - when
    sound = age < np.uint64(1 << 62)
    order = np.argsort(back[sound], kind="stable")
    sorted_ages, owners = age[sound][order].astype(np.int64), back[sound][order]
    starts = np.searchsorted(owners, np.arange(len(groups)))
    ends = np.searchsorted(owners, np.arange(len(groups)), "right")
    for group, start, end in zip(groups, starts.tolist(), ends.tolist()):
        if start < end:
            own = sorted_ages[start:end]
            group.ages, group.aged = int(own.sum()), end - start
            group.youngest, group.oldest = int(own.min()), int(own.max())


def _stack(group: _Group, names: CodeNames, cache: str, size: int, now: Optional[Clock]) -> Stack:
    trace = tuple(names[address] for address in group.trace)
    pids = sorted(group.pids)
    stack = Stack(
        cache,
        group.count,
        group.count * size,
        names[group.caller] if group.caller else first_caller(trace),
        trace,
        cpus=tuple(sorted(group.cpus)),
        pids=tuple(pids[:_MOST_PIDS]),
        processes=len(pids),
    )
    if group.aged:
        ages = (group.youngest, group.ages / group.aged, group.oldest)
        hz = (now.hz if now is not None else None) or 1
        stack.youngest, stack.average, stack.oldest = (age / hz for age in ages)
    return stack
