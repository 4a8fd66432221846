# SPDX-License-Identifier: LGPL-2.1-or-later
"""The records of who allocated and freed objects, of many objects at a time, as columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Optional

import numpy as np

from ..allocators.kasanrecords import TRACK, is_freed
from ..ledger import U64
from ..machine import Machine
from ..machine.columns import Rows
from .kasan import track_times
from .tracks import are_records

if TYPE_CHECKING:
    from ..ledger import Bools
    from ..machine.clock import Clock
    from .slots import Slot


class TrackColumns(NamedTuple):
    """Records of some objects, one row each."""

    known: Bools
    """Of which there is one."""
    caller: U64
    """Return address; 0 where only the call trace tells."""
    handle: Optional[U64]
    """``depot_stack_handle_t`` of the call trace; ``None`` where the trace itself is kept."""
    trace: Optional[U64]
    """Shape (n, frames): the trace itself, innermost first; ``None`` where there is a handle."""
    cpu: Optional[U64]
    pid: Optional[U64]
    when: Optional[U64]
    """In jiffies; ``None`` if it is not kept."""
    overwritten: Bools
    """Of which there was one, and what is there now is none."""

    @property
    def keys(self) -> U64:
        """Shape (n, words): what tells call traces apart, with the caller first."""
        columns = [self.caller[:, None]]
        columns += [] if self.handle is None else [self.handle[:, None]]
        columns += [] if self.trace is None else [self.trace]
        return np.concatenate(columns, axis=1)


def has_records(layout: Slot, freed: bool) -> bool:
    """Return whether the slots of a cache hold records of one kind of event."""
    own = layout.tracks is not None or layout.last_caller is not None
    return own or _by_kasan(layout, freed) is not None


def track_columns(
    machine: Machine, layout: Slot, objects: U64, freed: bool, now: Optional[Clock]
) -> TrackColumns:
    """
    Read the records of objects.

    :param layout: Of their slots, which :func:`has_records`.
    :param objects: Shape (n,): addresses.
    :param freed: Of who freed them, not of who allocated them.
    :param now: For times that are not kept in jiffies.
    """
    by_kasan = _by_kasan(layout, freed)
    # What is in quarantine KASAN frees later, in the name of somebody else.
    if by_kasan is not None and (freed or layout.tracks is None):
        return _judged(machine, _of_kasan(machine, objects, by_kasan, freed, now), None)
    if layout.tracks is None:
        found = _of_slab(machine, objects + np.uint64(layout.last_caller or 0))
        return _judged(machine, found, None)
    at = layout.tracks + (machine.structure("struct track").size if freed else 0)
    found = _of_slub(machine.rows("struct track", objects + np.uint64(at)))
    return _judged(machine, found, now)


def _judged(machine: Machine, found: TrackColumns, now: Optional[Clock]) -> TrackColumns:
    sound = are_records(machine, now, found.caller, found.cpu, found.pid, found.when)
    return found._replace(known=found.known & sound, overwritten=found.known & ~sound)


def _by_kasan(layout: Slot, freed: bool) -> Optional[int]:
    if layout.kasan is None:
        return None
    return layout.kasan.freed if freed else layout.kasan.allocated


def _of_slub(rows: Rows) -> TrackColumns:
    # Since "mm/slub: use stackdepot to save stack trace in objects" (in v5.19),
    # a handle takes the place of addrs.
    has_handle = rows.structure.has("handle")
    return TrackColumns(
        rows.ok & (rows["addr"] != 0),
        rows["addr"],
        rows["handle"] if has_handle else None,
        None if has_handle or not rows.structure.has("addrs") else _addresses(rows),
        rows["cpu"],
        rows["pid"],
        rows["when"],
        np.zeros(len(rows), np.bool_),
    )


def _of_slab(machine: Machine, words: U64) -> TrackColumns:
    # Whoever came last: who allocated what is in use, and who freed what is free.
    memory = machine.memory
    read = memory.gather(words, memory.word_size)
    caller = read.bytes.view(memory.word)[:, 0].astype(np.uint64)
    none = np.zeros(len(words), np.bool_)
    return TrackColumns(read.ok & (caller != 0), caller, None, None, None, None, None, none)


def _addresses(rows: Rows) -> U64:
    start = rows.structure.offset("addrs")
    length = rows.structure.type.member("addrs").type.length or 0
    raw = np.ascontiguousarray(rows.raw[:, start : start + 8 * length])
    words: U64 = raw.view(f"{rows.structure.byteorder}u8").astype(np.uint64)
    return words


def _of_kasan(
    machine: Machine, objects: U64, at: int, freed: bool, now: Optional[Clock]
) -> TrackColumns:
    rows = machine.rows(TRACK, objects + np.uint64(at))
    known = rows.ok & (rows["stack"] != 0)
    if freed:
        known &= is_freed(machine, objects)
    times = track_times(rows)
    return TrackColumns(
        known,
        np.zeros(len(objects), np.uint64),
        rows["stack"],
        None,
        rows["cpu"] if rows.structure.has("cpu") else None,
        rows["pid"],
        None if times is None or now is None else now.jiffies_at(times),
        np.zeros(len(objects), np.bool_),
    )
