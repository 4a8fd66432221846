# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who allocated and freed an object, by KASAN
-------------------------------------------

Generic KASAN keeps a ``struct kasan_track`` of the allocation behind each object,
and one of the free in it or behind it. With tags in pointers (CONFIG_KASAN_SW_TAGS,
CONFIG_KASAN_HW_TAGS) one ring holds the last events of the whole machine.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import numpy as np
from drgn import FaultError, Object

from ..allocators.kasanrecords import TRACK, Records, is_freed
from ..ledger import U64
from ..machine import Machine
from ..machine.clock import clock
from ..machine.columns import Rows
from ..machine.symbols import depot_stack
from ..signature import first_caller
from .tracks import Track, are_records, column, task_name

_ENTRY = "struct kasan_stack_ring_entry"
_MOST_ENTRIES = 1 << 22  # of the ring; kasan.stack_ring_size chooses how many
_TIME_SHIFT = 9  # bits of local_clock() that a track leaves out


def kasan_tracks(machine: Machine, where: Optional[Records], address: int) -> Tuple[Track, ...]:
    """
    Return what KASAN knows of an object.

    :param where: Of its cache; ``None`` without generic KASAN.
    :param address: The object.
    """
    if where is None:
        return _from_ring(machine, address) if machine.memory.tags.used else ()
    found: List[Optional[Track]] = []
    if where.allocated is not None:
        found.append(_track(machine, "allocated", address + where.allocated))
    if where.freed is not None and is_freed(machine, np.array([address], np.uint64))[0]:
        found.append(_track(machine, "freed", address + where.freed))
    return tuple(track for track in found if track is not None)


def _track(machine: Machine, event: str, at: int) -> Optional[Track]:
    try:
        return _spelled(machine, event, Object(machine.prog, TRACK, address=at))
    except (FaultError, LookupError):
        return None


def _spelled(machine: Machine, event: str, track: Object) -> Optional[Track]:
    # What was overwritten has no call trace.
    stack = depot_stack(machine, track.stack)
    if not stack:
        return None
    pid = int(track.pid)
    # Since Linux kernel commit 5d4c6ac94694 ("kasan: record and report more
    # information") (in v6.8), with CONFIG_KASAN_EXTRA_INFO.
    cpu = int(track.cpu) if hasattr(track, "cpu") else None
    when = int(track.timestamp) << _TIME_SHIFT if hasattr(track, "timestamp") else None
    now = clock(machine) if when is not None else None
    age = None if now is None or when is None else now.since(when)
    columns = (None if number is None else column(number) for number in (cpu, pid))
    overwritten = not are_records(machine, None, column(0), *columns)[0]
    task = task_name(machine, pid)
    return Track(event, first_caller(stack), cpu, pid, when, stack, age, task, overwritten)


def track_times(rows: Rows) -> Optional[U64]:
    """
    Return when the events of ``struct kasan_track`` were, in nanoseconds after the boot.

    :param rows: Columns of the structure.
    :return: ``None`` if that is not kept.
    """
    if not rows.structure.has("timestamp"):
        return None
    when: U64 = rows["timestamp"] << np.uint64(_TIME_SHIFT)
    return when


def _from_ring(machine: Machine, address: int) -> Tuple[Track, ...]:
    ring = machine.settled(_ring)
    if ring is None:
        return ()
    found = []
    for freed, event in ((0, "allocated"), (1, "freed")):
        mine = np.flatnonzero((ring["ptr"] == np.uint64(address)) & (_is_free(ring) == freed))
        if len(mine):
            at = int(ring.addresses[mine[-1]])
            entry = Object(machine.prog, _ENTRY, address=at)
            # Before Linux kernel commit 04afc540e5f6 ("kasan: use kasan_track in
            # stack_ring_entry") (in v6.8) the members of the track were its own.
            track = entry.track if hasattr(entry, "track") else entry
            found.append(_spelled(machine, event, track))
    return tuple(track for track in found if track is not None)


def _is_free(ring: Rows) -> U64:
    return ring["is_free"]


def _ring(machine: Machine) -> Optional[Rows]:
    # The entries, oldest first.
    try:
        ring = machine.prog["stack_ring"]
        size, start, pos = int(ring.size), int(ring.entries), int(ring.pos.counter)
        width = machine.structure(_ENTRY).size
    except (FaultError, LookupError, AttributeError):
        return None
    if not 0 < size <= _MOST_ENTRIES:
        return None
    order = (np.arange(size, dtype=np.uint64) + np.uint64(pos % size)) % np.uint64(size)
    return machine.rows(_ENTRY, np.uint64(start) + order * np.uint64(width))
