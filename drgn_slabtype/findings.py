# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Findings and the report
-----------------------

A check yields :class:`Finding` records and goes on: what is wrong, what was caught
mid-operation, what could not be judged. The list of the :class:`Report` tells which.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Dict, List, NamedTuple, Optional, Tuple

from .codes import CATALOGUE, Measure
from .particulars import Clue, SlabObject, Track
from .records import Record, as_rows
from .shapes import HIDDEN, Address, Bytes, Key, Value, shown
from .signature import Signature


class Damaged(NamedTuple):
    """Bytes in a row that are not what debugging promises."""

    address: Address
    """Of the first."""
    size: int
    """How many."""
    expected: str
    """What they must be, in hex; of many, the first. In words, if that is no one value: ``set``."""
    found: str
    """What they are."""


class Stretch(NamedTuple):
    """Damage in one piece, as far as it reaches."""

    start: Address
    """Its first byte."""
    end: Address
    """Behind its last byte."""
    what: str
    """What it holds; where that is not one thing, one after the other."""
    starts: Optional[str]
    """The object in whose own memory it begins, if that is in use: the likely writer."""
    before: str
    """What the byte before it belongs to: else the likely writer."""
    after: str
    """What lies behind it."""
    findings: Tuple[int, ...] = ()
    """:attr:`Finding.id` of those about it, where there is a report."""


@dataclass(frozen=True)
class Finding(Record):
    """
    One statement about the kernel, with everything known about its place.

    Addresses are integers here and ``"0x…"`` strings in JSON; unknown is ``None``.
    A member that is added is in every format.

    >>> finding = Finding("freelist-cycle", "object 3 again", cache="dentry", index=3)
    >>> finding.rule, finding.cache, finding.index
    ('claim', 'dentry', 3)
    """

    FIRST = "code message cache"

    code: str
    """What it says: one of the codes that ``explain`` tells of."""
    message: Annotated[str, Key(after="found")]
    """One sentence without a full stop, naming the object and its address."""
    cache: Optional[str] = None
    """Name of the ``struct kmem_cache``."""
    node: Optional[int] = None
    """NUMA node."""
    cpu: Optional[int] = None
    """CPU whose place is concerned."""
    slab: Optional[Address] = None
    """``struct slab *`` (the head ``struct page *``)."""
    page: Optional[Address] = None
    """``struct page *`` when it is not a slab's head."""
    object: Optional[Address] = None
    """Address of the object as its users see it."""
    index: Optional[int] = None
    """Index of the object in its slab, or of the entry in its place: :attr:`slot` or
    :attr:`position`, whichever the rule is about."""
    slot: Optional[int] = None
    """Index of the object in its slab."""
    position: Optional[int] = None
    """Where the entry stands in its list or array, the first of them being 0."""
    place: Optional[str] = None
    """Where a free object is recorded: ``freelist``, ``cpu array``, ``sheaf`` …"""
    expected: Value = None
    """What the rest of the structures ask for."""
    found: Value = None
    """What memory holds."""
    because: Annotated[Optional[int], Key(after="rule")] = None
    """:attr:`id` of the finding this one follows from; ``None`` for a root."""
    attempts: int = 1
    """How often a moving target was read before this was stated."""
    seen: int = 1
    """How many of these readings showed it, in whatever state."""
    confirmed: int = 0
    """How often it came back unchanged, with its evidence unchanged around it; on a
    target that stands still, that is never asked."""
    moving: Annotated[bool, HIDDEN] = False
    """Work in progress explains it: the kernel was stopped in the middle of a change."""
    turned: Annotated[bool, HIDDEN] = False
    """Contents that are those of its other state: of a free object, where it is in use."""
    id: Annotated[int, Key(after="")] = 0
    """Position in the report; what :attr:`because` refers to."""
    address: Optional[Address] = None
    """Of what it is about, if that is neither an object nor a slab: the word that leads a
    freelist astray, an array, a sheaf, the head of a list, a node's counter, a lock, or the
    bytes that are not what they must be."""
    activity: Annotated[Optional[str], HIDDEN] = None
    """Which work of the kernel would explain it, if that does not follow from the code."""
    ranges: Tuple[Damaged, ...] = ()
    """All of an object's bytes that are not what debugging promises; the first begins
    at :attr:`address`, and :attr:`expected` and :attr:`found` are its own."""
    details: Tuple[str, ...] = ()
    """What is there instead, and what lies around it, for people: one line each. Scripts have
    the same in :attr:`clues`, :attr:`previous`, :attr:`next` and :attr:`tracks`."""
    stretches: Tuple[Stretch, ...] = ()
    """How far the damage reaches, where what is there instead tells that."""
    signature: Optional[Signature] = None
    """Of a root: what it looks like, without anything that differs from dump to dump."""
    word: Optional[Address] = None
    """Address of the damaged word or bytes: where :attr:`found` is in memory. Of a number that
    others contradict, it is where that number is. ``None`` where no single word is wrong: a slab
    on no list, an object in two places."""
    member: Optional[str] = None
    """The member of the structure that is there, as the kernel spells it."""
    state: Optional[str] = None
    """State of :attr:`object`: ``in use``, ``free``, ``waiting`` or ``unknown``."""
    places: Tuple[str, ...] = ()
    """Who holds :attr:`object`: every place that records it, with the position there; if there
    is none and it is in use, its user does."""
    previous: Optional[SlabObject] = None
    """The object before it in the slab."""
    next: Optional[SlabObject] = None
    """The object after it."""
    tracks: Tuple[Track, ...] = ()
    """Who allocated and freed :attr:`object`, where the kernel keeps that."""
    clues: Tuple[Clue, ...] = ()
    """What is there instead of what must be."""
    accepted: Optional[str] = None
    """Name of the entry of a baseline that accepts it, or what it follows from."""
    measure: Annotated[Optional[Measure], HIDDEN] = None
    """What was expected and found, if that does not follow from the code."""
    pages: Annotated[int, HIDDEN] = 1
    """Struct pages in a row that it is about, from :attr:`page` or :attr:`slab` on."""

    @property
    @shown(Key(after="code"))
    def rule(self) -> str:
        """Family of rules this finding comes from."""
        return CATALOGUE[self.code].rule

    def told_as(self, code: str) -> Finding:
        """Return the same statement under another code; its values are what they were."""
        return replace(self, code=code, measure=self._measured())

    def _measured(self) -> Optional[Measure]:
        if self.expected is None and self.found is None:
            return None
        return self.measure or CATALOGUE[self.code].measure

    @property
    @shown(Key(after="found"))
    def value_kind(self) -> Optional[str]:
        """What :attr:`found` is, and :attr:`expected` unless that is a name: ``count``,
        ``address``, ``index``, ``bytes`` (in hex), ``word`` (bits), ``number`` (any other member
        of a structure) or ``text``; ``None`` if there is neither."""
        measure = self._measured()
        return None if measure is None else measure.kind

    @property
    @shown(Key(after="value_kind"))
    def value_unit(self) -> Optional[str]:
        """What is counted or measured, in the plural: ``objects``, ``slabs``, ``pages``,
        ``bytes`` …"""
        measure = self._measured()
        return None if measure is None else measure.unit

    def key(self) -> Tuple[Value, ...]:
        """
        What identifies the same statement about the same thing when it is read again.

        A thing with an address is known by it: sheaves go from CPU to CPU, objects anywhere.
        """
        for about in (self.address, self.object, self.page, self.slab):
            if about is not None:
                return (self.code, self.cache, about, self.index)
        return (self.code, self.cache, self.node, self.cpu, self.place, self.index)


class Outcome(enum.Enum):
    """How a cache, or the whole check, came out."""

    CONSISTENT = "consistent"
    INCONSISTENT = "inconsistent"
    CHANGING = "changing"
    UNAVAILABLE = "unavailable"
    INCOMPLETE = "incomplete"
    ACCEPTED = "accepted"


@dataclass
class CacheResult(Record):
    """What was counted in one slab cache."""

    name: str
    """Name of the ``struct kmem_cache``, escaped."""
    address: Address
    """``struct kmem_cache *``."""
    object_size: int = 0
    """Bytes users asked for per object."""
    size: int = 0
    """Bytes from one object to the next."""
    objects_per_slab: int = 0
    """Objects of a slab of the usual order."""
    slabs: int = 0
    """Slabs found."""
    pages: int = 0
    """Pages of those slabs."""
    objects: int = 0
    """Objects of those slabs."""
    counted: int = 0
    """Objects in use by the kernel's own count: Σ active, Σ inuse."""
    in_use: int = 0
    """Objects users hold."""
    free: Dict[str, int] = field(default_factory=dict)
    """Free objects by the place that records them."""
    waiting: int = 0
    """Objects freed by their users that wait for a grace period."""
    unknown: int = 0
    """Objects of which damage hides whether they are in use."""
    guarded: int = 0
    """Objects in KFENCE's pool, which are in none of the slabs."""
    fill: List[int] = field(default_factory=list)
    """Slabs by the tenth of their objects that is counted as in use; full ones last."""
    outcome: Outcome = Outcome.CONSISTENT
    """How it came out."""
    places: int = 0
    """Places that hold free objects: arrays, sheaves, lists of deferred frees."""
    seconds: Annotated[float, HIDDEN] = field(default=0.0, compare=False)
    """Seconds that it took to judge it."""
    judged: Annotated[Dict[str, int], HIDDEN] = field(default_factory=dict)
    """How many objects or slabs were looked at, by the place that debugging promises."""


@dataclass
class Target(Record):
    """What was read."""

    kind: str
    """``core``, ``live``, ``qemu`` or ``capture``."""
    path: Optional[str] = None
    """Of the file, or of the guest's monitor; ``None`` for the running kernel."""
    release: Optional[str] = None
    """As ``uname -r`` prints it."""
    architecture: Optional[str] = None
    """As drgn names it."""


UNKNOWN = "unknown"


@dataclass
class LayoutSummary(Record):
    """
    How the kernel lays out its slab bookkeeping, and how that is known.

    Both are ``unknown`` in the report of a run that was stopped before it knew.
    """

    page_type: str = UNKNOWN
    """Name of the layout of the page type word."""
    allocator: str = UNKNOWN
    """``SLAB`` or ``SLUB``."""
    evidence: Tuple[str, ...] = ()
    """What it is known by: one line each."""


@dataclass
class Totals(Record):
    """Sums over the whole target, in pages and objects, and what the check cost."""

    pages: int = 0
    """Struct pages that were looked at."""
    slab_pages: int = 0
    """Those that are of slabs."""
    slabs: int = 0
    """Slabs of the caches that were judged."""
    objects: int = 0
    """Objects of these slabs."""
    counted: int = 0
    """Objects in use by the kernel's own count."""
    in_use: int = 0
    """Objects users hold."""
    free: int = 0
    """Free objects, in whatever place."""
    waiting: int = 0
    """Objects freed by their users that wait for a grace period."""
    caches: int = 0
    """Caches that were judged."""
    unreadable_pages: int = 0
    """Struct pages that are not in the target."""
    zero_filled_pages: int = 0
    """Pages of memory that the dumper has left as zeroes."""
    unknown: int = 0
    """Objects of which damage hides whether they are in use."""
    guarded: int = 0
    """Objects in KFENCE's pool, which are in none of the slabs."""
    reads: int = 0
    """Reads of the target's memory; single words that drgn's own helpers follow are not in it."""
    bytes_read: Bytes = 0
    """Bytes of these reads."""
    peak_memory: Optional[Bytes] = None
    """Bytes of memory that the check took at its peak, beyond what its process had before;
    ``None`` where that cannot be told."""
    kfence_pages: Annotated[int, Key(after="slab_pages")] = 0
    """Those of :attr:`slab_pages` that are object pages of KFENCE's pool, and of no cache."""
    seconds: Annotated[float, Key(after="peak_memory")] = field(default=0.0, compare=False)
    """Seconds that the check took, opening not included."""


@dataclass
class Share(Record):
    """How much of something was decided."""

    decided: int = 0
    """How many are decided."""
    of: Optional[int] = 0
    """How many there are; ``None`` if the check ended before that was known."""

    @property
    @shown()
    def share(self) -> Optional[float]:
        """From 0 to 1; of nothing, all; ``None`` if it is not known of how many."""
        return round(self.decided / self.of, 6) if self.of else None if self.of is None else 1.0


@dataclass
class Decided(Record):
    """
    What is decided: confirmed, or nothing speaks against it.

    What was caught changing, or could not be read, is not.
    """

    caches: Share = field(default_factory=Share)
    """Slab caches."""
    slabs: Share = field(default_factory=Share)
    """Slabs."""
    places: Share = field(default_factory=Share)
    """Arrays, sheaves, lists of deferred frees, and structures that are not in the target."""

    @property
    @shown()
    def enough(self) -> bool:
        """Whether it is 99 % of each, or more; not where it is not known of how many."""
        return all((one.share or 0) >= DECIDED for one in (self.caches, self.slabs, self.places))


DECIDED = 0.99
"""Share of a moving target that has to be decided for it to be called consistent."""


@dataclass(frozen=True)
class KernelReport(Record):
    """One report of damage in the kernel's log."""

    seconds: Optional[float]
    """After the boot."""
    kind: str
    """Who reports: ``slub``, ``slab``, ``destroy``, ``list``, ``page``, ``KASAN``, ``KFENCE``,
    ``usercopy``."""
    text: str
    """Its first line."""
    cache: Optional[str] = None
    """Name of the slab cache, if it names one."""
    addresses: Tuple[Address, ...] = ()
    """Of objects, slabs and pages that it names, in its order, each once."""
    pfn: Optional[int] = None
    """Page frame number, if it names one."""
    finding: Optional[int] = None
    """Position among the findings, from 0, of the one about the same thing; ``None`` if it left
    no trace: the kernel repaired or refused it, or memory has changed since, or if that finding
    is accepted."""


@dataclass(frozen=True)
class KernelState(Record):
    """What the kernel says of itself."""

    tainted: Optional[Tuple[str, ...]] = None
    """The letter of each taint flag, with what it stands for; ``None`` if they were not read."""
    reports: Tuple[KernelReport, ...] = ()
    """Oldest first."""
    log: bool = True
    """Whether its log could be read."""


class Likeness(NamedTuple):
    """Something known that findings look like."""

    name: str
    """Of the known cause."""
    text: str
    """What is known of it."""
    findings: Tuple[int, ...]
    """:attr:`~Finding.id` of these findings."""


@dataclass
class Report(Record):
    """
    Everything one run of :func:`drgn_slabtype.check` has to say.

    >>> report = check(prog)
    >>> isinstance(report, Report)
    True
    >>> report.outcome.value, report.exit_status, len(report.findings)
    ('consistent', 0, 0)
    >>> report.totals.slabs, report.totals.in_use
    (2775, 26184)
    >>> [cache.name for cache in report.caches[:2]]
    ['p9_req_t', 'bio-224']
    """

    FIRST = "outcome exit_status findings"

    target: Target
    """What was read."""
    layout: LayoutSummary
    """How the kernel marks its pages."""
    totals: Totals = field(default_factory=Totals)
    """Sums over the whole target, and what the check cost."""
    caches: List[CacheResult] = field(default_factory=list)
    """What was counted, cache by cache."""
    findings: List[Finding] = field(default_factory=list)
    """Proven inconsistencies and nothing else, roots before their consequences."""
    notes: List[Finding] = field(default_factory=list)
    """Advice; a clean kernel may have some."""
    changing: List[Finding] = field(default_factory=list)
    """What moved while being read or was caught mid-operation."""
    unavailable: List[Finding] = field(default_factory=list)
    """What could not be judged, and why."""
    interrupted: bool = False
    """The run was stopped before it had seen everything."""
    readings: int = 1
    """How often the target was read, or parts of it: once, unless it moves."""
    refuted: int = 0
    """Statements that a reading of a moving target showed and none of the next."""
    decided: Decided = field(default_factory=Decided)
    """How much of the target is decided."""
    stopped: Optional[str] = None
    """What stopped it: ``SIGINT``, ``SIGTERM``, ``SIGHUP``, ``time``, or ``target`` if that
    went away."""
    kernel: Annotated[Optional[KernelState], Key(asked=True)] = None
    """What the kernel has said itself; ``None`` where that was not read."""
    looks_like: Annotated[Optional[Tuple[Likeness, ...]], Key(asked=True)] = None
    """The known causes that findings look like; ``None`` where none are known."""
    accepted: List[Finding] = field(default_factory=list)
    """Proven inconsistencies that a baseline accepts."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, as_rows(value))

    def stop(self, reason: str) -> None:
        """Mark it as stopped; the first reason counts."""
        self.interrupted = True
        self.stopped = self.stopped or reason

    @property
    @shown()
    def outcome(self) -> Outcome:
        """
        ``inconsistent`` if anything was found that is not accepted, else ``incomplete`` if
        anything is missing, else ``accepted`` if anything was found.

        Of a target that moves, at least 99 % of what there is must be decided.
        """
        if self.findings:
            return Outcome.INCONSISTENT
        if self.interrupted or self.unavailable:
            return Outcome.INCOMPLETE
        if self.readings > 1 and not self.decided.enough:
            return Outcome.INCOMPLETE
        return Outcome.ACCEPTED if self.accepted else Outcome.CONSISTENT

    @property
    @shown()
    def exit_status(self) -> int:
        """0 consistent or accepted, 1 findings, 3 incomplete; 1 wins over 3."""
        return {Outcome.INCONSISTENT: 1, Outcome.INCOMPLETE: 3}.get(self.outcome, 0)
