# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who allocated and who freed an object
-------------------------------------

SLUB keeps two ``struct track`` with each object of a cache with
``SLAB_STORE_USER``; KFENCE two ``struct kfence_track``; SLAB's debugging the
last caller. What users overwrite is not trusted here.
"""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.pid import find_task

from ..ledger import U64, Bools
from ..machine import Machine
from ..machine.clock import Clock, clock
from ..machine.shuffled import is_shuffled
from ..machine.symbols import depot_stack, frames, symbolise
from ..machine.tasks import ERRORS
from ..particulars import Track as Track
from ..particulars import spell_age
from ..signature import from_caller

_FRAMES = 4  # of a call trace that are told in one line
_PIDS = 1 << 22  # PID_MAX_LIMIT: no task has one as high
_LOW_HALF = (1 << 32) - 1  # numbers of CPUs and tasks are int


def are_records(
    machine: Machine,
    now: Optional[Clock],
    caller: U64,
    cpu: Optional[U64] = None,
    pid: Optional[U64] = None,
    when: Optional[U64] = None,
) -> Bools:
    """
    Return which records of an event can be such, and are not overwritten.

    :param now: The clock; ``None``: no time is judged.
    :param caller: Shape (n,): return addresses; 0 where only the call trace tells.
    :param cpu: CPUs, if they are kept.
    :param pid: PIDs, if they are kept.
    :param when: Times, if they are kept in jiffies.
    """
    sound: Bools = (caller == 0) | machine.memory.is_kernel_address(caller)
    if cpu is not None:
        sound &= np.isin((cpu & np.uint64(_LOW_HALF)).astype(np.int64), machine.cpus)
    if pid is not None:
        sound &= (pid & np.uint64(_LOW_HALF)) < _PIDS
    if when is not None and now is not None:
        sound &= now.are_moments(when)
    return sound


def slub_tracks(machine: Machine, first: int) -> Tuple[Track, ...]:
    """
    Return the tracks of an object.

    :param first: Address of the first of the two ``struct track``.
    """
    found = []
    type = machine.prog.type("struct track")
    for number, event in enumerate(("allocated", "freed")):
        track = Object(machine.prog, type, address=first + number * (type.size or 0))
        try:
            caller = track.addr.value_()
            if caller:
                found.append(_slub_track(machine, event, caller, track))
        except FaultError:
            pass
    return tuple(found)


def _slub_track(machine: Machine, event: str, caller: int, track: Object) -> Track:
    stack: Tuple[str, ...] = ()
    # Since "mm/slub: use stackdepot to save stack trace in objects" (in v5.19),
    # a handle takes the place of addrs.
    if hasattr(track, "handle"):
        stack = depot_stack(machine, track.handle)
    elif hasattr(track, "addrs"):
        stack = frames(machine, [entry.value_() for entry in track.addrs])
    cpu, pid, when = track.cpu.value_(), track.pid.value_(), track.when.value_()
    now = clock(machine)
    one = (column(number) for number in (caller, cpu, pid, when))
    overwritten = not are_records(machine, now, *one)[0]
    (age, ago), task = _age(now, when), task_name(machine, pid)
    caller_name = symbolise(machine, caller)
    return Track(event, caller_name, cpu, pid, when, stack, age, task, overwritten, ago)


def column(number: int) -> U64:
    """Return a number as the column of one row, negative ones as memory has them."""
    return np.array([number & ((1 << 64) - 1)], np.uint64)


def last_used(machine: Machine, caller: int) -> Track:
    """
    Return the track of which SLAB's debugging keeps the caller alone.

    :param caller: Its address.
    """
    overwritten = not are_records(machine, None, column(caller))[0]
    name = symbolise(machine, caller)
    return Track("last used", name, None, None, None, (), overwritten=overwritten)


def _age(now: Optional[Clock], when: int) -> Tuple[Optional[float], Optional[int]]:
    # In seconds; in jiffies, where it is not known how long one is.
    ago = None if now is None else now.ago(when)
    seconds = None if now is None or ago is None else now.seconds(ago)
    return seconds, ago if seconds is None else None


def task_name(machine: Machine, pid: int) -> Optional[str]:
    """Return the name of the task that has a PID now, if there is one."""
    if not pid or is_shuffled(machine):
        return None
    try:
        task = find_task(machine.prog, pid)
        return escape_ascii_string(task.comm.string_(), escape_backslash=True) if task else None
    except ERRORS:
        return None


def kfence_track(machine: Machine, event: str, track: Object) -> Optional[Track]:
    """
    Return a track of an object of KFENCE's pool.

    :param track: ``struct kfence_track``
    :return: ``None`` if there was no such event yet.
    """
    count = min(track.num_stack_entries.value_(), track.stack_entries.type_.length or 0)
    if not count:
        return None
    stack = frames(machine, [track.stack_entries[at].value_() for at in range(count)])
    when = track.ts_nsec.value_() if hasattr(track, "ts_nsec") else None
    cpu = track.cpu.value_() if hasattr(track, "cpu") else None
    now = None if when is None else clock(machine)
    age = None if now is None or when is None else now.since(when)
    pid = track.pid.value_()
    task = task_name(machine, pid)
    return Track(event, stack[0] if stack else None, cpu, pid, when, stack, age, task)


def spell_track(track: Track) -> str:
    """Return an event in one line, with the functions that asked the allocator for it."""
    if track.overwritten:
        return f"the record of who {track.event} it is overwritten"
    by = [f"{track.event} by {track.caller}" if track.caller else track.event]
    if track.cpu is not None:
        by.append(f"CPU {track.cpu}")
    if track.pid is not None:
        by.append(f"PID {track.pid}")
    if track.when is not None:
        by.append(f"at {track.when}")
    age = spell_age(track)
    if age is not None:
        by.append(f"{age} ago")
    text = ", ".join(by)
    shown: Optional[str] = " < ".join(from_caller(track.stack)[:_FRAMES])
    return f"{text}: {shown}" if shown else text
