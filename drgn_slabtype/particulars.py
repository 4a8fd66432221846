# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What there is to know around a place
------------------------------------

Objects with their state, who allocated and freed them, where addresses lead,
and what is there instead of what should be: records of findings and answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional, Tuple

from .records import Record, plural
from .shapes import Address, Hex


@dataclass(frozen=True)
class SlabObject(Record):
    """One object of a slab cache."""

    address: Address
    """As users of the object see it."""
    slab: Address
    """``struct slab *`` (the head ``struct page *`` before Linux 5.17)."""
    index: int
    """Position in the slab."""
    state: str
    """``in use``, ``free``, ``waiting`` or ``unknown``."""
    place: Optional[str]
    """Which place says so, with its owner: ``cpu freelist of CPU 2``."""
    position: Optional[int]
    """Position in that place, in the order the kernel would take objects."""


class Track(NamedTuple):
    """One event in the life of an object."""

    event: str
    """``allocated``, ``freed`` or ``last used``."""
    caller: Optional[str]
    """Symbol and offset, or the address."""
    cpu: Optional[int]
    """Where it happened."""
    pid: Optional[int]
    """Of the task that did it."""
    when: Optional[int]
    """Time, in jiffies for SLUB, in nanoseconds for KFENCE."""
    stack: Tuple[str, ...]
    """Call trace, innermost first, if it was kept."""
    age: Optional[float] = None
    """Seconds that it is ago, where the target tells how long a jiffy is."""
    task: Optional[str] = None
    """Name of the task with that PID, if there is one now."""
    overwritten: bool = False
    """Whether it is no record: the caller is no code, or there can be no such CPU, PID or time."""
    ago: Optional[int] = None
    """Jiffies that it is ago, where the target does not tell how long one is."""


def spell_age(track: Track) -> Optional[str]:
    """Return how long an event is ago, in seconds or in jiffies, if that is known."""
    if track.age is not None:
        return f"{track.age:.3f} s"
    return None if track.ago is None else plural(track.ago, "jiffy", "jiffies")


@dataclass(frozen=True)
class Lead:
    """What an address leads to."""

    kind: str
    """``slab object``, ``slab``, ``struct slab``, ``struct page``, ``per-CPU``, ``kfence object``,
    ``page``, ``other``."""
    meaning: str
    """One line for people."""
    cache: Optional[str] = None
    """Name of the slab cache."""
    slab: Optional[Address] = None
    """``struct slab *`` (the head ``struct page *`` before Linux 5.17)."""
    object: Optional[Address] = None
    """Address of the object, as its users see it."""
    index: Optional[int] = None
    """Position of the object in the slab."""
    offset: Optional[int] = None
    """Bytes to the address from the object, symbol or struct page in which it lies."""
    part: Optional[str] = None
    """What lies there, if it is not the object itself."""
    state: Optional[str] = None
    """``in use``, ``free``, ``waiting`` or ``unknown``."""
    places: Tuple[str, ...] = ()
    """Every place that records the object, with the position there."""


class Clue(NamedTuple):
    """One thing that can be said of what was found."""

    kind: str
    """``stored`` (the word as memory has it), ``read otherwise`` (the same under another
    encoding), ``leads`` (what a word leads to), ``bytes`` (what bytes are), ``carries on`` (they
    go on in the pattern before them), ``list head``, ``array`` (the index array), ``left`` (an
    object that a destroyed cache left), ``more`` (how many there are besides), ``unreadable``,
    ``not read``."""
    text: str
    """The same for people, as a line of the details."""
    address: Optional[Address] = None
    """Where it is in memory; of what was left, the object."""
    value: Optional[Hex] = None
    """The word, as it was stored or read; of what comes again and again, after how many bytes;
    of what there is besides, how many."""
    leads: Optional[Lead] = None
    """What the word leads to."""
    tracks: Tuple[Track, ...] = ()
    """Who allocated what was left; who allocated and freed what a freelist leads back to."""
