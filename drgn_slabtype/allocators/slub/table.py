# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The slabs of one cache, as a table
----------------------------------

What their struct pages say, which of them are being made just now, and which
are made unlike others of the cache.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Set

import numpy as np

from ...codes import OBJECTS
from ...index import SlabIndex
from ...ledger import I64, U64, Bools, Counter, Ledger, ListKind, Slabs, Suspect
from ...machine.activities import SLUB_NEW_SLABS
from ...records import plural
from ...rules.members import MAX_OBJECTS, MAX_ORDER
from ..base import Ownership
from ..caches import Caches
from ..misfits import wrong_slabs
from ..nodes import Nodes
from .cache import SlubCache
from .fit import readable_orders, slab_orders
from .state import Era, States, allowed_lists, fitting_lists, in_transit, partial_mark

_NODES = "kmem_cache_node"
_COUNTED = ("nr_slabs", "total_objects")
"""What the slabs of a node are counted in."""


def read_slabs(
    index: SlabIndex,
    caches: Caches,
    cache: SlubCache,
    rows: I64,
    ownership: Ownership,
    era: Era,
    nodes: Nodes,
) -> Slabs:
    """
    Return the table of some slabs.

    :param rows: Of the index.
    """
    if not len(rows):
        return Slabs.empty()
    machine = index.machine
    order = slab_orders(index, caches, rows, np.full(len(rows), cache.number))
    objects = np.minimum((machine.memory.page_size << order) // cache.size, MAX_OBJECTS)
    inuse = index["inuse"][rows].astype(np.int64)
    frozen = index["frozen"][rows] != 0
    marked = (index.flags[rows] & np.uint64(machine.fact(partial_mark))) != 0
    states = States(frozen, marked, index["freelist"][rows], inuse == objects)
    return Slabs.build(
        len(rows),
        page=index.pages[rows],
        base=index.addresses[rows] + np.uint64(cache.red_left_pad),
        objects=objects,
        counted=inuse,
        nid=index.nids[rows],
        order=order,
        readable=readable_orders(index, rows, order),
        word=index.words[rows].astype(np.int64),
        marked=index.marked[rows],
        cache_pointer=index["slab_cache"][rows],
        told=ownership.told[rows] == cache.number,
        allowed=allowed_lists(era, cache, states),
        fits=fitting_lists(era, cache, states),
        transit=in_transit(era, states),
        busy=_busy(index, cache, rows, nodes),
    )


def _busy(index: SlabIndex, cache: SlubCache, rows: I64, nodes: Nodes) -> Bools:
    # Without cmpxchg16b, freelist and counters change one after the other
    # under the page lock; debug caches change all under the list lock.
    bit = np.uint64(1 << index.machine.enumerators("pageflags")["PG_locked"])
    mine = (nodes.cache == cache.number) & nodes.held
    locked: Bools = (index.flags[rows] & bit) != 0
    return locked | np.isin(index.nids[rows], nodes.nid[mine]) if mine.any() else locked


def excuse_slabs(
    ledger: Ledger, cache: SlubCache, era: Era, nodes: Nodes, freelist: U64, cpus_take_slabs: bool
) -> None:
    """
    Mark the slabs that are on no list for a reason: being made, or waiting for RCU.

    :param ledger: With slabs and memberships.
    :param freelist: ``slab->freelist`` of each slab.
    :param cpus_take_slabs: Whether CPUs have slabs of their own.
    """
    slabs = ledger.slabs
    if not len(slabs):
        return
    listed = _listed(ledger)
    fresh = _being_made(slabs, cache, era, nodes, freelist, listed, cpus_take_slabs)
    if _can_be_fresh(ledger, fresh):
        slabs.transit |= fresh
        slabs.busy |= fresh
        slabs.fresh |= fresh
    # An empty slab of a TYPESAFE_BY_RCU cache leaves its list and the counters
    # at once, and its pages after a grace period.
    if cache.typesafe_by_rcu:
        slabs.excused |= slabs.transit & (slabs.counted == 0) & ~listed


def _can_be_fresh(ledger: Ledger, fresh: Bools) -> bool:
    slabs, facts = ledger.slabs, ledger.facts
    few = np.count_nonzero(fresh) <= facts.in_flight
    return bool(few or np.maximum(slabs.objects - slabs.counted, 1)[fresh].sum() <= facts.refill)


def note_failed(ledger: Ledger, cache: SlubCache, frozen: Bools, freelist: U64) -> None:
    """
    Mark the slabs that the kernel's own checks have taken out of service.

    It calls all their objects used, forgets their freelist and takes them off
    their list, so that nobody meets the damage again; since Linux 6.13, and in
    6.12's stable releases, it freezes them as well, which nothing else does in
    a cache with debugging. What is left of objects says nothing any more.

    :param ledger: With slabs and memberships.
    :param frozen: ``slab->frozen`` of each slab.
    :param freelist: ``slab->freelist`` of each slab.
    """
    slabs = ledger.slabs
    if not cache.debug:
        return
    listed = _listed(ledger)
    full = (slabs.counted == slabs.objects) & (freelist == 0)
    slabs.failed |= frozen & full & ~listed & ~slabs.excused
    for slab in slabs.failed.nonzero()[0].tolist():
        what = f"the kernel calls all {slabs.objects[slab]} objects used and no longer touches them"
        ledger.notes.append(Suspect("slab-failed", what, slab=slab))


def _being_made(
    slabs: Slabs,
    cache: SlubCache,
    era: Era,
    nodes: Nodes,
    freelist: U64,
    listed: Bools,
    cpus_take_slabs: bool,
) -> Bools:
    # A slab that is being made is on no list yet and has no object in use, or,
    # to Linux 6.7 and at the end of it, all of them. Its free pointers are being
    # written.
    fresh = slabs.counted == 0
    if era in (Era.FROZEN, Era.UNKNOWN):
        fresh |= slabs.transit & (slabs.counted == slabs.objects) & (freelist != 0)
    else:
        fresh &= slabs.transit
    fresh &= ~listed
    # At its beginning there is no freelist, and no node counts it.
    first = (slabs.counted == 0) & (freelist == 0)
    # Where no CPU takes whole slabs, the first object is taken before it is
    # put on a list, since Linux kernel commit c7323a5ad078 ("mm/slub:
    # restrict sysfs validation to debug caches and make it safe") (in v6.1).
    asks = (slabs.allowed & ListKind.NOWHERE) == 0
    if cache.debug or not cpus_take_slabs:
        first |= (slabs.counted == 1) & asks
    first &= ~listed
    fresh |= first & _uncounted(slabs, cache, nodes, first, int(np.count_nonzero(first)))
    # Since Linux kernel commit dc795d4c0282 ("mm/slub: defer freelist
    # construction until after bulk allocation from a new slab") (in v7.2), as
    # many objects as are asked for are taken before that, and where the freelist
    # will be stands meanwhile what the page held before, be that NULL. Slabs that a
    # sheaf is filled from are counted, and look alike.
    if not cache.debug and cache.hands_out_several:
        handed = (asks | ((freelist == 0) & (slabs.counted < slabs.objects))) & ~listed
        fresh |= handed & _uncounted(slabs, cache, nodes, handed, 1)
    return fresh


def _uncounted(slabs: Slabs, cache: SlubCache, nodes: Nodes, first: Bools, least: int) -> Bools:
    # Slabs of nodes that count fewer slabs than there are, by as many as
    # are new, or by *least*. Without CONFIG_SLUB_DEBUG no node counts any.
    out = np.ones(len(slabs), np.bool_)
    if not nodes.rows.structure.has("nr_slabs"):
        return out
    kept = nodes.rows["nr_slabs.counter"].astype(np.int64)
    for row in ((nodes.cache == cache.number) & nodes.rows.ok).nonzero()[0].tolist():
        mine = slabs.nid == nodes.nid[row]
        missing = np.count_nonzero(mine) - int(kept[row])
        out[mine] = missing >= min(np.count_nonzero(mine & first), least)
    return out


def misfits(index: SlabIndex, cache: SlubCache, rows: I64, slabs: Slabs) -> Iterator[Suspect]:
    """Yield what is made unlike the cache says: its own orders, and slabs."""
    page_size = index.machine.memory.page_size
    for member, (order, told) in zip(("oo", "min"), cache.orders):
        fit = min((page_size << min(order, MAX_ORDER)) // cache.size, MAX_OBJECTS)
        if told != fit:
            what = f"a slab of order {order} holds {plural(fit, 'object')}, not {told}"
            yield Suspect(
                "cache-wrong", what, expected=fit, found=told, member=member, measure=OBJECTS
            )
    orders, kept = index.orders[rows], index["objects"][rows].astype(np.int64)
    for code, what, expected, found in (
        (
            "slab-order-wrong",
            "compound order does not fit its cache and its object count",
            slabs.order,
            orders,
        ),
        (
            "slab-objects-wrong",
            "object count does not follow from the slab's order",
            slabs.objects,
            kept,
        ),
    ):
        yield from wrong_slabs(code, what, found != expected, expected, found)


def enter_counters(ledger: Ledger, cache: SlubCache, nodes: Nodes, cpus_take_slabs: bool) -> None:
    """
    Enter what the nodes count beside what their slabs add up to.

    :param cpus_take_slabs: Whether CPUs have slabs of their own.
    """
    members, slabs = ledger.memberships, ledger.slabs
    there = ~slabs.excused

    listed, largest = _listed(ledger), int(slabs.objects.max(initial=0))

    def partial(nid: int) -> int:
        on_list = (members.owner == nid) & (members.slab >= 0)
        return int((on_list & (members.kind == ListKind.PARTIAL)).sum())

    counters = nodes.counters(
        cache.number,
        {
            "nr_partial": ("node-list-length", partial),
            "nr_slabs": ("node-slabs", lambda nid: int((there & (slabs.nid == nid)).sum())),
            "total_objects": (
                "node-objects",
                lambda nid: int(slabs.objects[there & (slabs.nid == nid)].sum()),
            ),
        },
        _slack(ledger, listed, largest),
        _moves(ledger, listed, largest),
    )
    if cache.facts.name == _NODES:
        counters = _of_boot(counters, largest)
    if cache.debug or not cpus_take_slabs:
        counters = _handed_out(counters, {*slabs.objects.tolist()}, ledger.facts.in_flight)
    ledger.counters += counters


def _handed_out(counters: List[Counter], sizes: Set[int], most: int) -> List[Counter]:
    # A new slab of which all objects are handed out at once is as full as any other on no list,
    # before its node counts it. It has as many as slabs of the cache have.
    slabs, objects = (
        {one.node: one.summed - one.kept for one in counters if one.name == name}
        for name in _COUNTED
    )
    nodes = {
        node
        for node, short in slabs.items()
        if 0 < short <= most and objects[node] in {short * size for size in sizes}
    }
    return [
        one._replace(slack=one.difference, activity=SLUB_NEW_SLABS)
        if one.name in _COUNTED and one.node in nodes and not one.passes
        else one
        for one in counters
    ]


def _of_boot(counters: List[Counter], largest: int) -> List[Counter]:
    # early_kmem_cache_node_alloc() counts a slab for the node that it asked for; where that
    # had no memory yet the slab is another's, which will count it down and never up.
    slabs, objects = (
        {one.node: one.kept - one.summed for one in counters if one.name == name}
        for name in _COUNTED
    )
    as_many = {node: number * largest for node, number in slabs.items()}
    if sum(slabs.values()) or max(slabs.values(), default=0) > 1 or objects != as_many:
        return counters
    return [one if one.name not in _COUNTED else one._replace(summed=one.kept) for one in counters]


def _slack(ledger: Ledger, listed: Bools, largest: int) -> Dict[str, int]:
    # A slab is counted a moment before or after it can be found.
    slabs = ledger.slabs
    adrift = np.count_nonzero(slabs.transit & ~listed & ~slabs.excused)
    slabs_adrift = min(int(adrift), ledger.facts.in_flight)
    return {"nr_slabs": slabs_adrift, "total_objects": slabs_adrift * largest}


def _moves(ledger: Ledger, listed: Bools, largest: int) -> Dict[str, int]:
    # Under the lock a slab goes on a list or leaves it, and is counted, or all
    # that shrinking a cache takes off its list; they are on no list meanwhile.
    # CPUs count slabs that they make or give back beside it.
    slabs = ledger.slabs
    asks = (slabs.allowed & ListKind.NOWHERE) == 0
    off = int(np.count_nonzero(asks & ~listed & ~slabs.excused))
    made = ledger.facts.in_flight + off
    return {"nr_partial": 1 + off, "nr_slabs": made, "total_objects": made * largest}


def _listed(ledger: Ledger) -> Bools:
    listed = np.zeros(len(ledger.slabs) + 1, np.bool_)  # the last one for slabs of other caches
    listed[ledger.memberships.slab] = True
    return listed[:-1]
