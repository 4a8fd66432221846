# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who allocated and who freed an object
-------------------------------------

SLUB keeps two ``struct track`` with each object of a cache with
``SLAB_STORE_USER``; KFENCE two ``struct kfence_track``; SLAB's debugging the
last caller. What users overwrite is not trusted here.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

from drgn import FaultError, Object, Program, cast, reinterpret

_MAX_FRAMES = 256  # the most CONFIG_STACKDEPOT_MAX_FRAMES allows
# Stack depot records begin at multiples of 16 bytes, since Linux kernel commit
# cd11016e5f52 ("mm, kasan: stackdepot implementation. Enable stackdepot for
# SLAB") (in v4.6).
_DEPOT_ALIGN = 4


class Track(NamedTuple):
    """One event in the life of an object."""

    event: str
    """``allocated``, ``freed`` or ``last used``."""
    caller: Optional[str]
    """Symbol and offset, or the address."""
    cpu: Optional[int]
    pid: Optional[int]
    when: Optional[int]
    """Time, in jiffies for SLUB, in nanoseconds for KFENCE."""
    stack: Tuple[str, ...]
    """Call trace, innermost first, if it was kept."""


def symbolise(prog: Program, address: int) -> str:
    """Return an address of code or data as ``symbol+0xoffset``, or in hex."""
    try:
        symbol = prog.symbol(address)
    except LookupError:
        return f"0x{address:x}"
    return f"{symbol.name}+0x{address - symbol.address:x}"


def slub_tracks(prog: Program, first: int) -> Tuple[Track, ...]:
    """
    Return the tracks of an object.

    :param first: Address of the first of the two ``struct track``.
    """
    found = []
    type = prog.type("struct track")
    for number, event in enumerate(("allocated", "freed")):
        track = Object(prog, type, address=first + number * (type.size or 0))
        try:
            caller = track.addr.value_()
            if caller:
                found.append(_slub_track(prog, event, caller, track))
        except FaultError:
            pass
    return tuple(found)


def _slub_track(prog: Program, event: str, caller: int, track: Object) -> Track:
    stack: Tuple[str, ...] = ()
    # Since "mm/slub: use stackdepot to save stack trace in objects" (in v5.19),
    # a handle takes the place of addrs.
    if hasattr(track, "handle"):
        stack = depot_stack(prog, track.handle)
    elif hasattr(track, "addrs"):
        stack = _frames(prog, [entry.value_() for entry in track.addrs])
    cpu, pid = track.cpu.value_(), track.pid.value_()
    return Track(event, symbolise(prog, caller), cpu, pid, track.when.value_(), stack)


def _frames(prog: Program, addresses: List[int]) -> Tuple[str, ...]:
    frames = []
    for address in addresses:
        if not address:
            break
        frames.append(symbolise(prog, address))
    return tuple(frames)


def depot_stack(prog: Program, handle: Object) -> Tuple[str, ...]:
    """
    Return a call trace from the stack depot.

    drgn's ``stack_depot_fetch()`` follows any handle; this one may have been
    overwritten, and counts only if the record it leads to says the same.

    :param handle: ``depot_stack_handle_t``
    """
    try:
        if not handle:
            return ()
        record = _depot_record(prog, handle)
        if record.handle.handle.value_() != handle.value_():
            return ()
        size = min(record.size.value_(), _MAX_FRAMES)
        return _frames(prog, [record.entries[at].value_() for at in range(size)])
    except (AttributeError, FaultError, LookupError, TypeError):
        return ()


def _depot_record(prog: Program, handle: Object) -> Object:
    parts = reinterpret("union handle_parts", handle)
    # Since Linux kernel commit 961c949b012f ("lib/stackdepot: rename slab to
    # pool") (in v6.3).
    try:
        pools = prog["stack_pools"]
    except KeyError:
        pool = prog["stack_slabs"][parts.slabindex]
    else:
        # Since Linux kernel commit a6c1d9cb9a68 ("stackdepot: rename pool_index
        # to pool_index_plus_1") (in v6.9).
        if hasattr(parts, "pool_index_plus_1"):
            pool = pools[parts.pool_index_plus_1 - 1]
        else:
            pool = pools[parts.pool_index]
    address = pool.value_() + (parts.offset.value_() << _DEPOT_ALIGN)
    return cast("struct stack_record *", Object(prog, "void *", value=address))


def kfence_track(prog: Program, event: str, track: Object) -> Optional[Track]:
    """
    Return a track of an object of KFENCE's pool.

    :param track: ``struct kfence_track``
    :return: ``None`` if there was no such event yet.
    """
    count = min(track.num_stack_entries.value_(), track.stack_entries.type_.length or 0)
    if not count:
        return None
    stack = _frames(prog, [track.stack_entries[at].value_() for at in range(count)])
    when = track.ts_nsec.value_() if hasattr(track, "ts_nsec") else None
    cpu = track.cpu.value_() if hasattr(track, "cpu") else None
    return Track(event, stack[0] if stack else None, cpu, track.pid.value_(), when, stack)
