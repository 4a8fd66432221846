# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The slabs of a cache
--------------------

Each with the list that it stands on or the CPU that has it, how full it is,
and where its free objects are recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Annotated, Dict, Iterator, List, Optional, Tuple

import numpy as np
from drgn import IntegerLike, Program

from ..arguments import CacheLike, address_of, at_least, named
from ..errors import ArgumentError
from ..ledger import I64, U64, Ledger, ListKind
from ..machine import Machine, machine
from ..machine.told import require_cpu, require_node
from ..records import Listing, Record
from ..shapes import HIDDEN, Address
from .describe import describe, spell
from .lookup import Judged, Lookup, lookup
from .missing import missing_of_cache, missing_of_machine
from .names import known_as
from .states import LISTS, ObjectState, SlabObject, tally

ON_CPU = ListKind.CPU_SLAB | ListKind.CPU_PARTIAL


@dataclass(frozen=True)
class SlabUsage(Record):
    """One slab."""

    FIRST = "slab address list owner in_use objects free"

    slab: Address
    """``struct slab *`` (the head ``struct page *`` before Linux 5.17)."""
    address: Address
    """Of its memory."""
    node: int
    """NUMA node of its memory."""
    list: Optional[str]
    """The list that it stands on: ``partial``, ``full``, ``free``, ``cpu`` (a CPU allocates
    from it), ``cpu partial``, ``deferred``; ``None`` for none."""
    owner: Optional[int]
    """The CPU, or the node, whose list that is."""
    order: int
    """It has ``1 << order`` pages."""
    objects: int
    """Objects of the slab."""
    counted: int
    """In use by the slab's own count."""
    in_use: int
    """What users hold."""
    free: Dict[str, int] = field(default_factory=dict)
    """Free objects by the place that records them."""
    waiting: int = 0
    """Freed by their users; a grace period has to pass."""
    unknown: int = 0
    """Objects about which the structures contradict each other."""
    finding: Optional[str] = None
    """Code of the first finding about it."""


@dataclass(frozen=True)
class SlabsAnswer(Listing):
    """Slabs of one cache, by address."""

    LISTED = "slabs"

    cache: str
    """Name of the slab cache."""
    slab_cache: Address
    """``struct kmem_cache *``"""
    slabs: List[SlabUsage]
    """Those that were asked for."""
    objects: Tuple[SlabObject, ...] = ()
    """Every object, where one slab was asked for."""
    unavailable: Tuple[str, ...] = ()
    """What is missing because it is not in the target, or cannot be reached."""
    found: Optional[int] = None
    """How many there are, those included that are not told."""
    why_none: Optional[str] = None
    """What there is instead, if no slab is as those that were asked for."""
    damaged: Annotated[bool, HIDDEN] = False
    """Whether there is a finding about one that was asked for, told or not."""


def slabs(
    prog: Program,
    cache: CacheLike,
    *,
    partial: bool = False,
    full: bool = False,
    cpu: Optional[int] = None,
    node: Optional[int] = None,
    slab: Optional[IntegerLike] = None,
    most: Optional[int] = None,
) -> SlabsAnswer:
    """
    Return the slabs of a cache.

    >>> for slab in slabs(prog, "kmalloc-64", partial=True)[:2]:
    ...     print(hex(slab.slab), slab.in_use, slab.objects, slab.free)
    0xffffea00000263c0 14 64 {'freelist': 48, 'cpu array': 2}
    0xffffea000002bc00 46 64 {'freelist': 3, 'cpu array': 15}

    :param cache: Its name, that of a cache merged into it, or ``struct kmem_cache *``.
    :param partial: Only those on partial lists, of a node or a CPU.
    :param full: Only those all of whose objects are counted as in use. With *partial*:
        both kinds.
    :param cpu: Only those that a CPU has.
    :param node: Only those in the memory of a NUMA node.
    :param slab: Only this one, with its objects: its address, or any in its memory.
    :param most: Tell no more than so many, with *slab* so many of its objects; all are counted.
    :raises ArgumentError: if there is no such cache, CPU or node, or no such slab in it.
    """
    at_least("most", most)
    partial, full = bool(partial), bool(full)
    reading = lookup(machine(prog))
    if cpu is not None:
        require_cpu(reading.machine, cpu)
    if node is not None:
        require_node(reading.machine, node)
    number = reading.number(cache)
    judged = reading.judged(number)
    ledger = judged.ledger
    kind, owner = _standing(ledger)
    wanted = np.ones(len(ledger.slabs), np.bool_)
    if partial or full:
        wanted &= (partial & ((kind & (ListKind.PARTIAL | ListKind.CPU_PARTIAL)) != 0)) | (
            full & (ledger.slabs.counted == ledger.slabs.objects)
        )
    if cpu is not None:
        wanted &= ((kind & ON_CPU) != 0) & (owner == cpu)
    if node is not None:
        wanted &= ledger.slabs.nid == node
    objects: Tuple[SlabObject, ...] = ()
    if slab is not None:
        row = _row(reading, ledger, address_of(slab))
        wanted &= np.arange(len(wanted)) == row
        objects = tuple(judged.objects.take(judged.objects.slab == row))[:most]
    rows = np.flatnonzero(wanted)
    told_rows = rows[:most] if slab is None else rows
    found = list(_usages(reading.machine, judged, kind, owner, told_rows))
    missing = missing_of_machine(reading.whole), missing_of_cache(reading.whole, number, ledger)
    told = tuple(chain(*missing))
    facts = ledger.facts
    why = None if len(rows) else _why_none(ledger, kind, partial, full, cpu, node)
    damaged = not {*_codes(judged)}.isdisjoint(ledger.slabs.page[rows].tolist())
    return SlabsAnswer(facts.name, facts.address, found, objects, told, len(rows), why, damaged)


def _why_none(
    ledger: Ledger,
    kind: I64,
    partial: bool,
    full: bool,
    cpu: Optional[int],
    node: Optional[int],
) -> str:
    if not len(ledger.slabs):
        return "the cache has no slab"
    asked = [name for name, is_asked in (("partial", partial), ("full", full)) if is_asked]
    told = [" or ".join(asked)] if asked else []
    told += [] if cpu is None else [f"a slab of CPU {cpu}"]
    told += [] if node is None else [f"in memory of node {node}"]
    many = len(ledger.slabs)
    why = f"of its {many} slab{'s' if many > 1 else ''} none is {' and '.join(told)}"
    if cpu is not None and not (kind & ON_CPU).any():
        why += "; no CPU has slabs of this cache"
    return why


def _row(reading: Lookup, ledger: Ledger, address: int) -> int:
    machine, pages = reading.machine, ledger.slabs.page
    starts = _addresses(machine, ledger)
    reach = np.uint64(machine.memory.page_size) << ledger.slabs.order.astype(np.uint64)
    inside = (np.uint64(address) - starts) < reach
    rows = np.flatnonzero((pages == np.uint64(address)) | inside)
    if not len(rows):
        info = describe(reading, address)
        known = f": {spell(info)}" if info.is_known else known_as(machine, address)
        raise ArgumentError(
            f"{named(address)} is no slab of {ledger.facts.name}, and in none{known}"
        )
    return int(rows[0])


def _addresses(machine: Machine, ledger: Ledger) -> U64:
    memory, page = machine.memory, machine.page
    pfns = (ledger.slabs.page - np.uint64(page.vmemmap)) // np.uint64(page.size)
    return memory.phys_to_virt(pfns << np.uint64(memory.page_shift))


def _standing(ledger: Ledger) -> Tuple[I64, I64]:
    # The list that each slab stands on, as ListKind, and whose that is; 0 and -1 for none.
    members = ledger.memberships
    kind = np.zeros(len(ledger.slabs), np.int64)
    owner = np.full(len(ledger.slabs), -1, np.int64)
    known = members.slab >= 0
    kind[members.slab[known]] = members.kind[known]
    owner[members.slab[known]] = members.owner[known]
    return kind, owner


def _codes(judged: Judged) -> Dict[int, str]:
    # Of the first finding about each slab that has one.
    codes: Dict[int, str] = {}
    for finding in judged.findings:
        if finding.slab is not None and finding.rule not in ("note", "unavailable"):
            codes.setdefault(finding.slab, finding.code)
    return codes


def _usages(
    machine: Machine, judged: Judged, kind: I64, owner: I64, rows: I64
) -> Iterator[SlabUsage]:
    ledger, slabs = judged.ledger, judged.ledger.slabs
    by_state, by_place = (counted[rows] for counted in tally(ledger))
    names = [place.name for place in ledger.places]
    codes = _codes(judged)
    columns = (
        slabs.page[rows].tolist(),
        _addresses(machine, ledger)[rows].tolist(),
        slabs.nid[rows].tolist(),
        kind[rows].tolist(),
        owner[rows].tolist(),
        slabs.order[rows].tolist(),
        slabs.objects[rows].tolist(),
        slabs.counted[rows].tolist(),
        by_state.tolist(),
        by_place.tolist(),
    )
    for page, address, nid, on, of, order, objects, counted, state, places in zip(*columns):
        yield SlabUsage(
            page,
            address,
            nid,
            LISTS.get(on),
            of if of >= 0 else None,
            order,
            objects,
            counted,
            state[ObjectState.IN_USE],
            {name: count for name, count in zip(names, places) if count},
            state[ObjectState.WAITING],
            state[ObjectState.UNKNOWN],
            codes.get(page),
        )
