# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Made-up slab caches
-------------------

A :class:`Machine` holds what memory would hold of one slab cache, and fills a
ledger from it the way an allocator module does. Tests damage the words, not
the tables, so that everything a damaged word touches shows in the ledger.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import numpy as np

from drgn_slabtype.allocators.slub.freelists import Encoding as PointerEncoding
from drgn_slabtype.allocators.slub.freelists import Geometry, follow
from drgn_slabtype.ledger import (
    Break,
    Claims,
    Containers,
    Counter,
    Facts,
    Ledger,
    ListKind,
    Memberships,
    Place,
    Slabs,
    State,
    Suspect,
    Walk,
)
from drgn_slabtype.pagetype.encoding import Encoding

LINEAR = 0xFFFF888000000000
VMEMMAP = 0xFFFFEA0000000000
CACHE = 0xFFFF888100000000
SLAB_PAGES = 8  # from one slab to the next
PAGE = 4096
_UNSIGNED = ("page", "base", "cache_pointer", "address", "value")

ARRAY_PLACES = (
    Place("freelist", counted=False, bad="freelist-index", repeat="freelist-duplicate"),
    Place("cpu array", counted=True, per_cpu=True),
    Place("shared array", counted=True),
    Place("index array", counted=True),
)
CHAIN_PLACES = (
    Place("freelist", counted=False, bad="freelist-pointer", repeat="freelist-cycle"),
    Place("cpu freelist", counted=True, per_cpu=True, bad="freelist-pointer"),
    Place("sheaf", counted=True, per_cpu=True),
    Place("rcu sheaf", counted=True, per_cpu=True),
)


@dataclass
class Slab:
    """What memory holds of one slab."""

    pfn: int
    order: int
    nid: int
    objects: int
    """How many there really are."""
    free: List[int]
    """Objects on the slab's own freelist, in the order they are handed out."""
    count: int = 0
    """``active`` or ``inuse``."""
    array: List[int] = field(default_factory=list)
    """SLAB: the index array. SLUB: the free pointer that each object holds."""
    head: int = 0
    """Address of the array; first free object."""
    word: int = 0xFFFFFFFF
    flagged: bool = True
    """Whether PG_slab is set, on kernels where that is the mark."""
    cache_pointer: int = CACHE
    stands: List[Tuple[ListKind, int]] = field(default_factory=list)
    """Lists it stands on, with their owners."""
    frozen: bool = False
    excused: bool = False
    transit: bool = False
    busy: bool = False
    fresh: bool = False

    @property
    def page(self) -> int:
        """``struct slab *``."""
        return VMEMMAP + 64 * self.pfn

    @property
    def base(self) -> int:
        """Address of object 0."""
        return LINEAR + PAGE * self.pfn


@dataclass
class Box:
    """A place that holds objects of any slab of the cache."""

    place: int
    owner: int
    entries: List[int]
    count: int = -1
    """What the place itself counts; set by :meth:`Machine.settle`."""
    limit: int = 64
    nid: int = -1
    """Node its objects must be from."""
    state: State = State.FREE
    busy: bool = False


class CpuChain(NamedTuple):
    """A CPU's private freelist."""

    cpu: int
    slab: int
    head: int


@dataclass
class Machine(ABC):
    """One slab cache and everything that points at its objects."""

    stride: int
    order: int
    """The cache's usual order; its least is 0."""
    nodes: int
    encoding: Encoding
    slabs: List[Slab]
    boxes: List[Box] = field(default_factory=list)
    chains: List[CpuChain] = field(default_factory=list)
    counters: Dict[Tuple[str, int], int] = field(default_factory=dict)
    breaks: List[Break] = field(default_factory=list)
    in_flight: int = 2
    refill: int = 0
    places = CHAIN_PLACES
    node_lists = ListKind.PARTIAL

    def address(self, slab: int, index: int) -> int:
        """Return the address of an object."""
        return self.slabs[slab].base + index * self.stride

    def parked(self, slab: int) -> List[int]:
        """Return the objects of a slab that a place other than its freelist holds."""
        span = range(self.slabs[slab].objects)
        mine = {self.address(slab, index): index for index in span}
        return [mine[entry] for box in self.boxes for entry in box.entries if entry in mine]

    def settle(self) -> None:
        """Make all counts true."""
        for box in self.boxes:
            box.count = len(box.entries)
        ledger = self.ledger()
        self.counters = {(c.name, c.node): c.summed for c in ledger.counters}

    def ledger(self) -> Ledger:
        """Return the ledger that an allocator fills from these words."""
        same = (
            "page",
            "base",
            "nid",
            "order",
            "word",
            "cache_pointer",
            "transit",
            "busy",
            "fresh",
            "excused",
        )
        slabs = [
            {
                **{name: getattr(slab, name) for name in same},
                "objects": self.objects_by_order(slab),
                "counted": self.counted(slab),
                "marked": self.marked(slab),
                "told": slab.cache_pointer == CACHE,
                "allowed": int(self.allowed(slab)),
            }
            for slab in self.slabs
        ]
        objects = (PAGE << self.order) // self.stride
        facts = Facts("made-up", CACHE, self.stride, self.stride, objects, self.in_flight)
        facts.refill = self.refill
        ledger = Ledger(facts, self.places, table(Slabs, slabs), breaks=list(self.breaks))
        self.fill_own(ledger)
        self._fill_boxes(ledger)
        stands = [
            {"slab": row, "page": slab.page, "kind": int(kind), "owner": owner}
            for row, slab in enumerate(self.slabs)
            for kind, owner in slab.stands
        ]
        ledger.memberships = table(Memberships, stands)
        for row, slab in enumerate(self.slabs):
            if slab.order not in (0, self.order):
                ledger.suspects.append(Suspect("slab-order-wrong", "order", row))
            if slabs[row]["objects"] != slab.objects:
                ledger.suspects.append(Suspect("slab-objects-wrong", "objects", row))
        for (code, name, node), total in self.sums(ledger).items():
            kept = self.counters.get((name, node), total)
            ledger.counters.append(Counter(code, name, node, kept, total))
        return ledger

    def _fill_boxes(self, ledger: Ledger) -> None:
        slab_at = {slab.pfn // SLAB_PAGES: row for row, slab in enumerate(self.slabs)}
        boxes: List[Dict[str, Any]] = []
        claims: List[Dict[str, Any]] = []
        for number, box in enumerate(self.boxes, len(ledger.containers)):
            of_box = {"place": box.place, "owner": box.owner, "nid": box.nid, "busy": box.busy}
            counts = {"counted": box.count, "limit": box.limit, "walked": len(box.entries)}
            boxes.append({**of_box, **counts})
            for position, address in enumerate(box.entries):
                row = slab_at.get((address - LINEAR) // PAGE // SLAB_PAGES, -1)
                where = {"address": address, "slab": row, "index": self._index_of(row, address)}
                of_claim = {"place": box.place, "container": number, "state": box.state}
                of_claim["passing"] = box.busy
                claims.append({**of_claim, **where, "position": position})
        ledger.containers = Containers.join([ledger.containers, table(Containers, boxes)])
        ledger.claims = Claims.join([ledger.claims, table(Claims, claims)])

    def _index_of(self, row: int, address: int) -> int:
        if row < 0:
            return -1
        index, rest = divmod(address - self.slabs[row].base, self.stride)
        return index if not rest and 0 <= index < self.objects_by_order(self.slabs[row]) else -1

    def marked(self, slab: Slab) -> bool:
        """Return whether the page of a slab has the slab mark."""
        if not self.encoding.has_slab_type:
            return slab.flagged
        return self.encoding.is_type(slab.word, "slab")

    # What the two allocators do in their own way.

    @abstractmethod
    def objects_by_order(self, slab: Slab) -> int:
        """Return how many objects the allocator module takes a slab to have."""

    @abstractmethod
    def counted(self, slab: Slab) -> int:
        """Return the slab's own count."""

    @abstractmethod
    def set_count(self, slab: Slab, count: int) -> None:
        """Store a slab's own count, wherever it is kept."""

    @abstractmethod
    def allowed(self, slab: Slab) -> int:
        """Return the lists that the state of a slab asks for."""

    @abstractmethod
    def fill_own(self, ledger: Ledger) -> None:
        """Enter the slabs' own freelists, and those that take from the same slabs."""

    @abstractmethod
    def sums(self, ledger: Ledger) -> Dict[Tuple[str, str, int], int]:
        """Return what the nodes' counters must be, by (finding code, name, node)."""


class ArrayMachine(Machine):
    """SLAB: the free objects are the tail of an array of indexes."""

    places = ARRAY_PLACES
    node_lists = ListKind.PARTIAL | ListKind.FULL | ListKind.FREE

    def objects_by_order(self, slab: Slab) -> int:
        return slab.objects

    def counted(self, slab: Slab) -> int:
        return self.encoding.active(slab.word) if self.encoding.carries_active else slab.count

    def set_count(self, slab: Slab, count: int) -> None:
        slab.count = count & 0xFFFFFFFF
        if self.encoding.carries_active:
            slab.word = self.encoding.with_active(slab.word, count)
        else:
            slab.word = slab.count

    def allowed(self, slab: Slab) -> int:
        count = self.counted(slab)
        if not 0 <= count <= slab.objects:
            return int(self.node_lists)
        if count == slab.objects:
            return int(ListKind.FULL)
        return int(ListKind.PARTIAL if count else ListKind.FREE)

    def fill_own(self, ledger: Ledger) -> None:
        claims: List[Dict[str, Any]] = []
        boxes: List[Dict[str, Any]] = []
        for row, slab in enumerate(self.slabs):
            count = self.counted(slab)
            has_free = 0 <= count < slab.objects
            placed = slab.head == slab.base + PAGE * SLAB_PAGES - slab.objects
            box = {"place": 0, "slab": row, "limit": slab.objects, "state": int(Walk.WHOLE)}
            box.update(culprit=-1, value=0)
            if has_free and not placed:
                box.update(state=int(Walk.MISPLACED), value=slab.head)
            kept: List[int] = []
            for position, index in enumerate(slab.array[count:] if has_free and placed else []):
                if index >= slab.objects or index in kept:
                    bad = Walk.CYCLE if index in kept else Walk.POINTER
                    box.update(state=int(bad), culprit=count + position, value=index)
                    continue
                kept.append(index)
                claim = {"place": 0, "container": row, "slab": row, "index": index}
                claim.update(position=position, address=self.address(row, index))
                claims.append(claim)
            boxes.append({**box, "walked": len(kept)})
        ledger.containers, ledger.claims = table(Containers, boxes), table(Claims, claims)

    def sums(self, ledger: Ledger) -> Dict[Tuple[str, str, int], int]:
        found = {}
        for node in range(self.nodes):
            on = [
                (slab, kind) for slab in self.slabs for kind, owner in slab.stands if owner == node
            ]
            found["node-list-length", "total_slabs", node] = len(on)
            empty = [slab for slab, kind in on if kind == ListKind.FREE]
            found["node-list-length", "free_slabs", node] = len(empty)
            free = sum(slab.objects - self.counted(slab) for slab, _ in on)
            found["node-free-objects", "free_objects", node] = free
        return found


class ChainMachine(Machine):
    """SLUB: each free object points at the next."""

    def objects_by_order(self, slab: Slab) -> int:
        return (PAGE << slab.order) // self.stride

    def counted(self, slab: Slab) -> int:
        return slab.count

    def set_count(self, slab: Slab, count: int) -> None:
        slab.count = count & 0xFFFF

    def allowed(self, slab: Slab) -> int:
        if slab.frozen:
            return int(ListKind.CPU_SLAB | ListKind.CPU_PARTIAL)
        return int(ListKind.PARTIAL if slab.head else ListKind.NOWHERE)

    def fill_own(self, ledger: Ledger) -> None:
        rows = np.arange(len(self.slabs))
        own = self._follow(ledger, 0, rows, [slab.head for slab in self.slabs])
        own.counted = ledger.slabs.objects - ledger.slabs.counted
        own.limit, own.busy = ledger.slabs.objects, ledger.slabs.fresh
        homes = np.array([chain.slab for chain in self.chains], np.int64)
        cpus = self._follow(ledger, 1, homes, [chain.head for chain in self.chains])
        cpus.owner = np.array([chain.cpu for chain in self.chains], np.int64)
        ledger.containers = Containers.join([own, cpus])

    def _follow(self, ledger: Ledger, place: int, rows: Any, heads: Sequence[int]) -> Containers:
        slabs = ledger.slabs
        most = max(len(slab.array) for slab in self.slabs)
        most = max(most, int(slabs.objects.max()))
        words = [self.slabs[row].array for row in rows]
        words = [array + [0] * (most - len(array)) for array in words]
        chains = follow(
            Geometry(
                slabs.base[rows], slabs.objects[rows], self.stride, 0, PointerEncoding.PLAIN, 0
            ),
            np.array(heads, np.uint64),
            np.array(words, np.uint64).reshape(len(rows), most),
            np.ones(len(rows), np.bool_),
        )
        claims = Claims.build(
            len(chains.slab),
            place=place,
            container=chains.slab + place * len(self.slabs),
            position=chains.position,
            address=chains.address,
            slab=rows[chains.slab],
            index=chains.index,
            passing=slabs.busy[rows[chains.slab]],
        )
        ledger.claims = Claims.join([ledger.claims, claims])
        return Containers.build(
            len(rows),
            place=place,
            slab=rows,
            walked=chains.length,
            state=chains.state,
            culprit=chains.culprit,
            value=chains.value,
        )

    def sums(self, ledger: Ledger) -> Dict[Tuple[str, str, int], int]:
        found = {}
        for node in range(self.nodes):
            on = [slab for slab in self.slabs if (ListKind.PARTIAL, node) in slab.stands]
            here = [slab for slab in self.slabs if slab.nid == node and not slab.excused]
            found["node-list-length", "nr_partial", node] = len(on)
            found["node-slabs", "nr_slabs", node] = len(here)
            objects = sum(self.objects_by_order(slab) for slab in here)
            found["node-objects", "total_objects", node] = objects
        return found


def table(type: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    """Return a table of the ledger; columns that the rows leave out have their default."""
    columns = {}
    for name in rows[0] if rows else ():
        dtype = np.uint64 if name in _UNSIGNED else np.int64
        columns[name] = np.array([row[name] for row in rows], dtype)
    return type.build(len(rows), **columns)
