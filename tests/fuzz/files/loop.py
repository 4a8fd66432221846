# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Trying inputs, one after the other, in a process that may die of one.

What a reader makes of some bytes is a matter of the library and of what it
stands on; a library in C that dies of them takes the process along. So the
input stands in memory that both have before it is tried.
"""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import random
import resource
import signal
import struct
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from types import FrameType
from typing import Dict, List, NamedTuple, Optional, Sequence, Set

from .coverage import Edge, Edges, Trace
from .mutate import mutated
from .readers import READERS, Reader

_TURN_SECONDS = 20  # until a process is replaced by a new one
_ONE_SECONDS = 5  # an input takes milliseconds
_MEMORY = 1 << 30  # besides what the process has
_ROOM = 1 << 17  # bytes of an input
_SIZE = struct.Struct("<I")


class Wrong(NamedTuple):
    """An input of which something goes wrong."""

    data: bytes
    what: str


class _TooLong(BaseException):
    # Nothing that is tried catches it.
    pass


@dataclass
class Found:
    """What a run of one reader has."""

    inputs: Dict[bytes, Edges] = field(default_factory=dict)
    """Those that went a way of their own."""
    wrong: Dict[str, Wrong] = field(default_factory=dict)
    """One input of each kind of fault."""
    tried: int = 0

    @property
    def seen(self) -> Set[Edge]:
        """All ways that were gone."""
        return set().union(*self.inputs.values()) if self.inputs else set()


def grow(name: str, start: Sequence[bytes], seconds: float, seed: int) -> Found:
    """
    Look for inputs that take a reader where no other did.

    :param start: To begin with; may be none.
    :param seed: Of what is tried. Where a process ends depends on the machine.
    """
    reader, found = READERS[name], Found()
    until = time.monotonic() + seconds
    waiting: List[bytes] = [*reader.seeds(), *start]
    turn = 0
    while waiting or time.monotonic() < until:
        turn += 1
        limit = max(min(until - time.monotonic(), _TURN_SECONDS), 0)
        waiting = _turn(reader, found, waiting, limit, random.Random(f"{name} {seed} {turn}"))
    return found


def attempt(reader: Reader, data: bytes) -> str:
    """Return what is wrong with what a reader makes of some input; empty if nothing is."""
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, _ONE_SECONDS)
    try:
        reader.read(data)
    except reader.raises as error:
        return "" if "\n" not in str(error) else f"not one line: {error}"
    except _TooLong:
        return f"took more than {_ONE_SECONDS} seconds"
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({at.filename}:{at.lineno})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def _alarm(number: int, frame: Optional[FrameType]) -> None:
    raise _TooLong


def _turn(
    reader: Reader, found: Found, waiting: List[bytes], seconds: float, chance: random.Random
) -> List[bytes]:
    # In a process of its own. Returns what it did not get to.
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    current = mmap.mmap(-1, _SIZE.size + _ROOM)
    process = context.Process(
        target=_child, args=(reader, found, waiting, seconds, chance, current, theirs)
    )
    process.start()
    theirs.close()
    patience = seconds + 4 * _ONE_SECONDS + 0.1 * len(waiting)
    died = "died"
    try:
        while ours.poll(patience):
            kind, *rest = ours.recv()
            if kind == "input":
                data, edges = rest
                found.inputs[data] = edges
            elif kind == "wrong":
                found.wrong.setdefault(_kind(rest[0].what), rest[0])
            elif kind == "tried":
                found.tried += rest[0]
                process.join()
                return []
        died = "does not come back"
    except EOFError:
        pass
    process.kill()
    process.join()
    (size,) = _SIZE.unpack_from(current)
    data = bytes(current[_SIZE.size : _SIZE.size + size])
    what = f"{died}, exit code {process.exitcode}"
    found.wrong.setdefault(what, Wrong(data, what))
    return waiting[waiting.index(data) + 1 :] if data in waiting else []


def _kind(what: str) -> str:
    # Without the numbers in the message, but with the place.
    message, _, place = what.rpartition(" (")
    return message.partition(":")[0] + place


def _child(
    reader: Reader,
    found: Found,
    waiting: List[bytes],
    seconds: float,
    chance: random.Random,
    current: mmap.mmap,
    theirs: Connection,
) -> None:
    with open("/proc/self/statm", "rb") as file:
        pages = int(file.read().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    logging.getLogger("drgn").setLevel(logging.CRITICAL)
    until, seen, tried = time.monotonic() + seconds, found.seen, 0
    inputs = list(found.inputs)
    while waiting or time.monotonic() < until:
        if waiting:
            data = waiting.pop(0)
        else:
            # What was found last leads further more often than the rest.
            at = max(chance.randrange(len(inputs)) for _ in range(chance.choice((1, 2))))
            data = mutated(inputs[at], inputs, chance)
        current[: _SIZE.size + len(data)] = _SIZE.pack(len(data)) + data
        with Trace() as trace:
            wrong = attempt(reader, data)
        tried += 1
        if wrong:
            theirs.send(("wrong", Wrong(data, wrong)))
        edges = trace.edges
        if not edges <= seen:
            seen |= edges
            inputs.append(data)
            theirs.send(("input", data, edges))
    theirs.send(("tried", tried))
    theirs.close()
    os._exit(0)  # nothing of the parent is ours to clean up
