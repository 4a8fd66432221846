# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One look at a cache that moves
------------------------------

Two readings of a cache in a row, and the words that its statements are about
read before, between and after them. What is the same in all of them stood in
memory at one moment.

Which slabs there are is told by a reading of all caches that are looked at, the
:class:`Ground`, so that a look takes as little as there is to look at.
"""

from __future__ import annotations

from typing import (
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np

from .findings import Finding
from .machine import Machine
from .pages.scan import page_ranges
from .reading import MACHINE, Reading, Scope
from .shapes import Value
from .strays import judge_machine

Unit = int
"""``struct kmem_cache *``; 0 for what is wrong with no cache in particular."""
Key = Tuple[Value, ...]

CLOSE = frozenset(
    {
        "claim-foreign",
        "claim-node",
        "claim-twice",
        "container-count",
        "container-limit",
        "container-state",
        "count-mismatch",
        "count-range",
        "freelist-array",
        "freelist-cycle",
        "freelist-duplicate",
        "freelist-index",
        "freelist-pointer",
        "list-broken",
        "list-links",
        "list-missing",
        "list-twice",
        "list-wrong",
        "node-free-objects",
        "node-list-length",
        "slab-frozen",
        "slab-in-transit",
    }
)
"""What is told by the slabs of a cache, its lists and its places, whatever else there is."""

_BYTES = 512  # of a structure that a statement is about
_FEW_PAGES = 1 << 20  # that are gone over in a moment: 4 GiB
_COUNTER = 8  # bytes of a number
_GROUND_TIMES = 10  # older than so many times what it takes, it is made anew


class Told(NamedTuple):
    """A statement as one reading makes it."""

    finding: Finding
    because: Optional[Key]
    """Of the statement that it follows from."""


class Look(NamedTuple):
    """What two readings in a row have shown."""

    shown: Mapping[Key, Told]
    """By either, the later one where both did."""
    both: Set[Key]
    """By both."""
    unchanged: Mapping[Key, bytes]
    """By both in the same words, about what did not change meanwhile: what that held."""
    close: bool
    """Whether it could show the codes of :data:`CLOSE` alone."""
    cheap: bool
    """Whether it took little to read."""

    def can_show(self, finding: Finding) -> bool:
        """Return whether it would show a statement that is true."""
        return not self.close or finding.code in CLOSE


def keyed(findings: Iterable[Finding]) -> Dict[Key, Told]:
    """Return statements by what identifies each of them."""
    several: Dict[Key, List[Finding]] = {}
    for finding in findings:
        several.setdefault(finding.key(), []).append(finding)
    keys: Dict[int, Key] = {}
    by_key: Dict[Key, Finding] = {}
    for key, alike in several.items():
        for finding in alike:
            # Of one place that holds several things it must not, each is a statement.
            own = key if len(alike) == 1 else (*key, finding.found)
            keys[finding.id] = own
            by_key[own] = finding
    return {
        key: Told(finding, None if finding.because is None else keys.get(finding.because))
        for key, finding in by_key.items()
    }


class Ground:
    """
    A reading of some caches that looks at each of them begin with.

    It is not older than some times what it takes to make, so that little time is
    spent on it, of a small machine and of a large one.

    :param units: ``struct kmem_cache *`` of each.
    :param clock: Tells the seconds since some moment.
    """

    def __init__(self, machine: Machine, units: Sequence[Unit], clock: Callable[[], float]) -> None:
        self._machine, self._clock = machine, clock
        self._scope = Scope(caches=tuple(unit for unit in units if unit))
        self._made: Optional[Tuple[Reading, float, float]] = None

    def reading(self) -> Reading:
        """Return it, made anew if it has become old."""
        now = self._clock()
        if self._made is not None:
            reading, since, took = self._made
            if now - since <= _GROUND_TIMES * took:
                return reading
            self._made = None
        reading = Reading(self._machine, self._scope)
        since = self._clock()
        self._made = reading, since, since - now
        return reading


def look(
    machine: Machine, unit: Unit, findings: Sequence[Finding], ground: Optional[Ground]
) -> Look:
    """
    Look again at a cache.

    :param unit: ``struct kmem_cache *``, or 0 for the machine.
    :param findings: The statements about it that are open.
    :param ground: Do not go over all pages each time, but read the slabs that the cache
        has there, and what stands beside them, at once. That shows only some codes: see
        :data:`CLOSE`.
    """
    after = None if ground is None or not unit else ground.reading()
    around = _Around(machine)
    around.read(findings)
    first = keyed(_judge(_reading(machine, unit, findings, after), unit))
    around.read(findings)
    around.read(told.finding for told in first.values())
    second = keyed(_judge(_reading(machine, unit, findings, after), unit))
    around.read([*findings, *(told.finding for told in first.values())])
    both = first.keys() & second.keys()
    unchanged = {}
    for key in both:
        held = around.unchanged(second[key].finding)
        if held is not None and _words(first[key].finding) == _words(second[key].finding):
            unchanged[key] = held
    shown = {**first, **second}
    if after is not None:
        # Of other slabs than those that are known, such a look sees nothing.
        shown = {key: told for key, told in shown.items() if told.finding.code in CLOSE}
    cheap = after is not None or sum(e - s for s, e in page_ranges(machine)) <= _FEW_PAGES
    unchanged = {key: held for key, held in unchanged.items() if key in shown}
    return Look(shown, both & shown.keys(), unchanged, after is not None, cheap)


def _reading(
    machine: Machine, unit: Unit, findings: Sequence[Finding], after: Optional[Reading] = None
) -> Reading:
    if after is not None:
        return Reading(machine, Scope(caches=(unit,)), after=after)
    # What the allocator lives in may be of any cache.
    alone = unit and all(finding.code != "claim-live" for finding in findings)
    return Reading(machine, Scope(caches=(unit,)) if alone else MACHINE)


def _judge(reading: Reading, unit: Unit) -> List[Finding]:
    if not unit:
        return judge_machine(reading)
    at = np.flatnonzero(reading.allocator.caches.addresses == np.uint64(unit))
    return reading.judge(int(at[0]))[1] if len(at) else []


def _words(finding: Finding) -> Tuple[Value, ...]:
    return (finding.message, finding.expected, finding.found, finding.moving)


class _Around:
    # The words that statements are about, each time that they are read.

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._seen: Dict[Tuple[int, int], Set[bytes]] = {}

    def read(self, findings: Iterable[Finding]) -> None:
        spans = {span for finding in findings for span in self._spans(finding)}
        for width in {width for _, width in spans}:
            at = sorted(address for address, wide in spans if wide == width)
            gathered = self._machine.memory.gather(np.array(at, np.uint64), width)
            for address, row in zip(at, gathered.bytes):
                self._seen.setdefault((address, width), set()).add(row.tobytes())

    def _spans(self, finding: Finding) -> List[Tuple[int, int]]:
        spans = []
        for page in (finding.slab, finding.page):
            if page is not None:
                spans.append((page, self._machine.page.size))
        if finding.address is not None:
            spans.append((finding.address, _COUNTER if finding.rule == "count" else _BYTES))
        if finding.slab is None and finding.object is not None:
            spans.append((finding.object, _COUNTER))
        return spans

    def unchanged(self, finding: Finding) -> Optional[bytes]:
        # What the words were, if they were the same each time.
        held: List[bytes] = []
        for span in self._spans(finding):
            seen = self._seen.get(span, set())
            if len(seen) != 1:
                return None
            held += seen
        return b"".join(held)
