# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Every cache
-----------

How many objects each cache has, who holds them, where the free ones are, and
what memory that costs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import (
    Annotated,
    Callable,
    ClassVar,
    Dict,
    FrozenSet,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Set,
    Tuple,
)

import numpy as np
from drgn import Program

from ..allocators.caches import Caches
from ..arguments import CacheLike, at_least, one_of
from ..distinct import distinct
from ..findings import CacheResult
from ..ledger import I64, Bools, Ledger, ListKind, State
from ..machine import machine
from ..pages.scan import Progress
from ..records import Listing, Record
from ..shapes import HIDDEN, Address, shown
from .aliases import cache_aliases
from .counts import count_objects
from .guarded import guarded_counts
from .lookup import lookup
from .missing import missing_of_cache, missing_of_machine
from .proven import Told, judge_caches, tell
from .states import ObjectState, tally

_LISTS = {
    ListKind.PARTIAL: "partial",
    ListKind.FULL: "full",
    ListKind.FREE: "free",
    ListKind.CPU_SLAB: "cpu",
    ListKind.CPU_PARTIAL: "cpu partial",
    ListKind.DEFERRED: "deferred",
    ListKind.NOWHERE: "no list",
}


class SlabInfo(NamedTuple):
    """The numbers of a cache in ``/proc/slabinfo``, with the kernel's names."""

    active_objs: int
    """Objects in use, those that CPUs keep included."""
    num_objs: int
    """All objects."""
    objsize: int
    """Bytes from one object to the next."""
    objperslab: int
    """Objects of a slab of the usual order."""
    pagesperslab: int
    """Pages of such a slab."""
    active_slabs: int
    """Slabs with objects in use."""
    num_slabs: int
    """All slabs."""


@dataclass
class NodeUsage(Record):
    """What one NUMA node has of a cache."""

    node: int
    """NUMA node."""
    slabs: int
    """Slabs of its memory."""
    lists: Dict[str, int]
    """Slabs by the list they stand on."""
    objects: int
    """Objects of these slabs."""
    counted: int
    """Objects in use by the slabs' own counts."""
    free: Dict[str, int]
    """Free objects in the node's memory, by the place that records them."""
    in_use: int
    """Objects that users hold."""
    waiting: int
    """Freed by their users; a grace period has to pass."""
    unknown: int
    """Of which damage hides whether they are in use."""


@dataclass
class CpuUsage(Record):
    """What one CPU keeps of a cache."""

    cpu: int
    """The CPU."""
    lists: Dict[str, int]
    """Slabs by the list of the CPU they stand on."""
    free: Dict[str, int]
    """Objects by the place of the CPU that records them, waiting ones included."""
    waiting: int = 0
    """Those among them that were freed by their users, and for which a grace period has to
    pass."""
    in_use: int = 0
    """Objects that users hold in the slabs of the CPU."""


@dataclass
class CacheUsage(Record):
    """One cache; counts are objects or slabs, memory is in bytes."""

    FIRST = "name address in_use objects slabs memory object_size"

    name: str
    """Name of the ``struct kmem_cache``, escaped."""
    address: Address
    """``struct kmem_cache *``."""
    aliases: Optional[Tuple[str, ...]] = None
    """Names of caches merged into it; ``None`` if they are not known."""
    merged: int = 0
    """How many caches were merged into it."""
    object_size: int = 0
    """Bytes users asked for per object."""
    size: int = 0
    """Bytes from one object to the next."""
    objects_per_slab: int = 0
    """Of a slab of the usual order."""
    pages_per_slab: int = 0
    """Of a slab of the usual order."""
    colours: Optional[int] = None
    """SLAB: how many colours there are."""
    slabs: int = 0
    """Slabs of the cache."""
    lists: Dict[str, int] = field(default_factory=dict)
    """Slabs by the list they stand on; a full slab counts as ``full`` though it is on none."""
    pages: int = 0
    """Pages of these slabs."""
    memory: int = 0
    """Bytes of all its slabs."""
    leftover: int = 0
    """Bytes of slabs that are no object's: behind the last one, colours, index arrays."""
    padding: int = 0
    """Bytes between the objects: alignment, red zones, tracks, free pointers outside."""
    objects: int = 0
    """Objects of these slabs."""
    counted: int = 0
    """In use by the kernel's own count."""
    in_use: int = 0
    """What users hold."""
    free: Dict[str, int] = field(default_factory=dict)
    """Free objects by the place that records them."""
    waiting: int = 0
    """Freed by their users; a grace period has to pass."""
    unknown: int = 0
    """Of which damage hides whether they are in use."""
    guarded: int = 0
    """Objects of KFENCE's pool that users of the cache hold, in none of the numbers above."""
    consistent: bool = True
    """
    Whether a check finds nothing wrong with the cache, and these numbers agree with each other,
    or work in progress explains why not; of a target that moves, the numbers alone are looked at.
    """
    slabinfo: Optional[SlabInfo] = None
    """What the kernel itself would report."""
    nodes: List[NodeUsage] = field(default_factory=list)
    """What each node has, if that was asked for."""
    cpus: List[CpuUsage] = field(default_factory=list)
    """What each CPU keeps, if that was asked for."""

    OF_ONE_CACHE: ClassVar[FrozenSet[str]] = frozenset(
        "name address aliases object_size size objects_per_slab pages_per_slab colours slabinfo "
        "nodes cpus".split()
    )
    """Members that do not add up over caches, though they are numbers or counts."""

    @property
    @shown()
    def waste(self) -> int:
        """Bytes of slabs that no user of an object can use."""
        return self.leftover + self.padding

    @property
    @shown()
    def occupancy(self) -> Optional[float]:
        """Share of the objects that users hold; ``None`` without objects."""
        return self.in_use / self.objects if self.objects else None


@dataclass
class CachesAnswer(Listing):
    """All caches, sorted, and their sums."""

    LISTED = "caches"

    caches: List[CacheUsage]
    """In the order that was asked for."""
    total: CacheUsage
    """Their sums."""
    per_node: Annotated[bool, HIDDEN] = False
    per_cpu: Annotated[bool, HIDDEN] = False
    aliases: Annotated[bool, HIDDEN] = False
    unavailable: Tuple[str, ...] = ()
    """What is missing in it because it is not in the target, or cannot be reached."""
    found: Optional[int] = None
    """How many caches the sums are of, those included that are not told."""
    damaged: Annotated[int, HIDDEN] = 0
    """Caches about which there is a finding; none of a target that moves."""


_SORTS: Mapping[str, Callable[[CacheUsage], Tuple[float, str]]] = {
    "name": lambda cache: (0, cache.name),
    "memory": lambda cache: (-cache.memory, cache.name),
    "objects": lambda cache: (-cache.objects, cache.name),
    "in-use": lambda cache: (-cache.in_use, cache.name),
    "free": lambda cache: (-sum(cache.free.values()), cache.name),
    "slabs": lambda cache: (-cache.slabs, cache.name),
    "size": lambda cache: (-cache.object_size, cache.name),
    "waste": lambda cache: (-cache.waste, cache.name),
    "occupancy": lambda cache: (2 if cache.occupancy is None else cache.occupancy, cache.name),
}

SORTS = tuple(_SORTS)
"""What caches can be sorted by."""


def caches(
    prog: Program,
    *wanted: CacheLike,
    sort: str = "memory",
    per_node: bool = False,
    per_cpu: bool = False,
    aliases: bool = False,
    most: Optional[int] = None,
    progress: Optional[Progress] = None,
) -> CachesAnswer:
    """
    Return what every slab cache holds.

    >>> for cache in caches(prog, "kmalloc-*", sort="in-use")[:3]:
    ...     print(cache.name, cache.in_use, cache.objects, cache.memory)
    kmalloc-32 1332 1488 49152
    kmalloc-64 653 768 49152
    kmalloc-rcl-96 453 1088 139264

    :param wanted: Names, names of caches merged into others, patterns as of file names,
        ``struct kmem_cache *``; all caches if there are none.
    :param sort: ``name``, or a number, largest first; by ``occupancy`` the
        emptiest first.
    :param per_node: Whether to tell the NUMA nodes apart.
    :param per_cpu: Whether to tell what each CPU keeps.
    :param aliases: Whether to look for the names of merged caches.
    :param most: Tell no more than so many; the sums are of all.
    :param progress: Called as work goes on: with what is done, how far it is, and how far it goes.
    :raises LayoutError: if the kernel's layout is not understood.
    :raises ArgumentError: if there is no such cache, or nothing to sort by of that name.
    """
    one_of("number to sort by", sort, SORTS)
    at_least("most", most)
    kernel = machine(prog)
    reading = lookup(kernel, progress)
    whole = reading.whole
    allocator = whole.allocator
    names = cache_aliases(kernel) if aliases else None
    guarded = guarded_counts(kernel)
    found: List[CacheUsage] = []
    told: List[Told] = []
    missing = [*missing_of_machine(whole)]
    numbers = list(range(len(allocator.caches)))
    if wanted:
        numbers = sorted({number for name in wanted for number in reading.numbers(name)})
    for done, number in enumerate(numbers):
        if progress:
            progress("caches", done, len(numbers))
        ledger, judged = tell(whole, number)
        told.append(judged)
        missing += missing_of_cache(whole, number, ledger)
        usage = cache_usage(ledger, kernel.memory.page_size, judged.result)
        usage.guarded = guarded[usage.address]
        _add_facts(allocator.caches, number, usage, names)
        usage.slabinfo = slabinfo(ledger, usage.pages_per_slab, allocator.name)
        usage.nodes = _nodes(ledger) if per_node else []
        usage.cpus = cpus_of(ledger) if per_cpu else []
        found.append(usage)
    # What moves has to be looked at more than once to be called damaged.
    damaged: Set[int] = set()
    if not kernel.is_live:
        damaged, undecided = judge_caches(whole, told, whole=not wanted)
        for usage in found:
            usage.consistent |= usage.address in undecided
            usage.consistent &= usage.address not in damaged
    found.sort(key=_SORTS[sort])
    return CachesAnswer(
        found[:most],
        _total(found),
        per_node,
        per_cpu,
        aliases,
        tuple(missing),
        len(found),
        sum(usage.address in damaged for usage in found),
    )


def cache_usage(ledger: Ledger, page_size: int, counts: Optional[CacheResult] = None) -> CacheUsage:
    """
    Add up one cache.

    :param page_size: Bytes of a page.
    :param counts: What :func:`~drgn_slabtype.answers.counts.count_objects` has counted, if it has.
    """
    facts, slabs = ledger.facts, ledger.slabs
    counts = count_objects(ledger) if counts is None else counts
    usage = CacheUsage(
        counts.name,
        facts.address,
        object_size=facts.object_size,
        size=facts.stride,
        objects_per_slab=facts.objects_per_slab,
    )
    for name in ("slabs", "pages", "objects", "counted", "in_use", "free", "waiting", "unknown"):
        setattr(usage, name, getattr(counts, name))
    usage.memory = usage.pages * page_size
    usage.leftover = usage.memory - usage.objects * usage.size
    usage.padding = usage.objects * (usage.size - usage.object_size)
    usage.lists = _by_list(ledger, np.ones(len(slabs), np.bool_))
    outside = sum(counts.free.get(place.name, 0) for place in ledger.places if not place.counted)
    usage.consistent = outside == usage.objects - usage.counted and not usage.unknown
    return usage


def slabinfo(ledger: Ledger, pages_per_slab: int, allocator: str) -> SlabInfo:
    """
    Return what ``/proc/slabinfo`` says of a cache.

    SLAB counts each slab's active objects. SLUB takes all objects of all slabs
    as active but those on the freelists of slabs that stand on a node's partial
    list: free objects of CPU slabs and CPU partial slabs count as active. Since
    Linux 6.10 it only estimates that number for a node with more than 10000
    partial slabs.

    :param pages_per_slab: Of a slab of the usual order.
    :param allocator: ``SLAB`` or ``SLUB``.
    """
    slabs, members = ledger.slabs, ledger.memberships
    # A slab that waits for RCU has left the kernel's counts.
    there = ~slabs.excused
    free = slabs.objects - slabs.counted
    num_objs, num_slabs = int(slabs.objects[there].sum()), int(there.sum())
    known = members.slab >= 0
    if allocator == "SLAB":
        inactive = int(free[there].sum())
        active_slabs = num_slabs - int((known & (members.kind == ListKind.FREE)).sum())
    else:
        partial = members.slab[known & (members.kind == ListKind.PARTIAL)]
        inactive = int(free[partial].sum())
        active_slabs = num_slabs
    return SlabInfo(
        num_objs - inactive,
        num_objs,
        ledger.facts.stride,
        ledger.facts.objects_per_slab,
        pages_per_slab,
        active_slabs,
        num_slabs,
    )


def _add_facts(
    caches: Caches, number: int, usage: CacheUsage, names: Optional[Mapping[int, Tuple[str, ...]]]
) -> None:
    # What is a property of the cache and in no ledger.
    rows = caches.rows
    if rows.structure.has("oo"):
        usage.pages_per_slab = 1 << min(int(rows["oo.x"][number]) >> 16, 24)
    else:
        usage.pages_per_slab = 1 << min(int(rows["gfporder"][number]), 24)
        usage.colours = int(rows["colour"][number])
    # Negative for caches that must not be merged.
    refcount = int(rows["refcount"][number].astype(np.uint32).view(np.int32))
    usage.merged = max(refcount - 1, 0)
    usage.aliases = (names or {}).get(usage.address, None if usage.merged else ())


def _kinds(ledger: Ledger) -> I64:
    # The list each slab stands on.
    slabs, members = ledger.slabs, ledger.memberships
    kinds = np.full(len(slabs), ListKind.NOWHERE, np.int64)
    kinds[slabs.counted == slabs.objects] = ListKind.FULL
    known = members.slab >= 0
    kinds[members.slab[known]] = members.kind[known]
    return kinds


def _by_list(ledger: Ledger, which: Bools) -> Dict[str, int]:
    kinds = _kinds(ledger)[which]
    counts = {name: int((kinds == kind).sum()) for kind, name in _LISTS.items()}
    return {name: count for name, count in counts.items() if count}


def _by_place(ledger: Ledger, which: Bools) -> Dict[str, int]:
    place = ledger.claims.place[which]
    counts = np.bincount(place, minlength=len(ledger.places)).tolist()
    return {ledger.places[at].name: count for at, count in enumerate(counts) if count}


def _nodes(ledger: Ledger) -> List[NodeUsage]:
    slabs = ledger.slabs
    counted = tally(ledger)
    names = [place.name for place in ledger.places]
    found = []
    for node in distinct(slabs.nid).tolist():
        here = slabs.nid == node
        states = counted.by_state[here].sum(axis=0).tolist()
        free = zip(names, counted.by_place[here].sum(axis=0).tolist())
        found.append(
            NodeUsage(
                node,
                int(here.sum()),
                _by_list(ledger, here),
                int(slabs.objects[here].sum()),
                int(slabs.counted[here].sum()),
                {name: count for name, count in free if count},
                states[ObjectState.IN_USE],
                states[ObjectState.WAITING],
                states[ObjectState.UNKNOWN],
            )
        )
    return found


def cpus_of(ledger: Ledger) -> List[CpuUsage]:
    """Return what each CPU keeps of a cache."""
    claims, boxes, members = ledger.claims, ledger.containers, ledger.memberships
    per_cpu = np.array([place.per_cpu for place in ledger.places], np.bool_)
    boxed = np.flatnonzero(claims.container >= 0)
    cpu = np.full(len(claims), -1, np.int64)
    mine = boxed[per_cpu[claims.place[boxed]]]
    cpu[mine] = boxes.owner[claims.container[mine]]
    waits = claims.state == State.WAITING
    on_cpu = (members.kind & (ListKind.CPU_SLAB | ListKind.CPU_PARTIAL)) != 0
    held = tally(ledger).by_state[:, ObjectState.IN_USE]
    owners = distinct(np.concatenate([cpu[cpu >= 0], members.owner[on_cpu]]))
    found = []
    for number in owners.tolist():
        here = on_cpu & (members.owner == number)
        slabs = distinct(members.slab[here & (members.slab >= 0)])
        kinds = members.kind[here]
        lists = {name: int((kinds == kind).sum()) for kind, name in _LISTS.items()}
        lists = {name: count for name, count in lists.items() if count}
        kept = cpu == number
        waiting, in_use = int(np.count_nonzero(kept & waits)), int(held[slabs].sum())
        found.append(CpuUsage(number, lists, _by_place(ledger, kept), waiting, in_use))
    return found


def _total(found: List[CacheUsage]) -> CacheUsage:
    total = CacheUsage("total", 0, consistent=all(usage.consistent for usage in found))
    for member in fields(total):
        here, all_of_it = getattr(total, member.name), [getattr(u, member.name) for u in found]
        if member.name in CacheUsage.OF_ONE_CACHE:
            continue
        if isinstance(here, dict):
            setattr(total, member.name, sums(all_of_it))
        elif type(here) is int:
            setattr(total, member.name, sum(all_of_it))
    return total


def sums(counts: List[Dict[str, int]]) -> Dict[str, int]:
    """Return the counts of several under the same names."""
    found: Dict[str, int] = {}
    for of_one in counts:
        for name, count in of_one.items():
            found[name] = found.get(name, 0) + count
    return found
