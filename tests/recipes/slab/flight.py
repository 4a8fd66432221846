# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Work in progress
----------------

States in which a kernel can be stopped, put together by hand in a dump. None
of them is damage: a check may say that something is changing, and no more.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, Callable, Iterator, List, NamedTuple

from drgn import offsetof

from ..changes import LIST_POISON, Change, Edit, Number, Spot, add, put, unlink
from ..language import Victim
from ..pages import kernel_page
from ..things import Beside, Container
from ..victims import first, picks, slab, stands
from .counts import marked
from .machine import Machine, Slab
from .suite import state


class _Supply(NamedTuple):
    # An array of a CPU, and objects that lie on freelists of its node.
    array: Container
    free: List[int]

    @property
    def batch(self) -> int:
        return self.array.limit // 2


def _supplies(machine: Machine) -> Iterator[_Supply]:
    for cache in machine.caches:
        free = [
            slab.slot(index)
            for slab in machine.slabs_of(cache)
            if slab.nid == 0
            for index in slab.free
        ]
        for array in machine.arrays_of(cache, "cpu"):
            if array.entries and machine.node_of(array.entries[0]) == 0:
                yield _Supply(array, free)


def _half_full(machine: Machine) -> Iterator[_Supply]:
    # Those whose array can be made full.
    for supply in _supplies(machine):
        if 2 * len(supply.array.entries) > supply.array.limit < len(supply.free):
            yield supply


def _full(machine: Machine) -> Iterator[_Supply]:
    for supply in _half_full(machine):
        if len(supply.array.entries) == supply.array.limit:
            yield supply


def _edits(victim: Any) -> List[Edit]:
    array, entries = victim.victim, victim.other
    filled = [Edit(array.entry(at), entry) for at, entry in enumerate(entries)]
    return [Edit(array.spot("avail"), len(entries)), *filled]


_FILL = Change(_edits)
"""Puts what is beside an array into it."""


def _filled(
    supplies: Callable[[Machine], Iterator[_Supply]], entries: Callable[[_Supply], List[int]]
) -> Victim[Any]:
    # An array, and what is to be in it.
    return first(
        "array beside enough free objects",
        lambda machine: (Beside(supply.array, entries(supply)) for supply in supplies(machine)),
    )


def _some_taken(supply: _Supply) -> List[int]:
    # Another CPU has handed out some of the batch meanwhile.
    free, entries = supply.free, supply.array.entries
    return [(free if at % 3 else entries)[at] for at in range(supply.batch)]


state(
    "array-given-back-before-count",
    _filled(_full, lambda s: s.free[: s.batch] + s.array.entries[s.batch :]),
    _FILL,
)
state(
    "array-given-back-some-taken",
    _filled(_full, lambda s: _some_taken(s) + s.array.entries[s.batch :]),
    _FILL,
)
state(
    "array-count-lowered-before-move",
    _filled(_half_full, lambda s: s.free[: s.array.limit - s.batch]),
    _FILL,
)
state(
    "array-half-moved",
    _filled(_half_full, lambda s: s.array.entries[: s.batch // 3] + s.free[s.batch // 3 : s.batch]),
    _FILL,
)


def _drainable(machine: Machine) -> Iterator[_Supply]:
    for supply in _supplies(machine):
        if 1 < len(supply.array.entries) <= len(supply.free):
            yield supply


state("array-drained", _filled(_drainable, lambda s: s.free[: len(s.array.entries)]), _FILL)


@picks("full array beside a shared one with room")
def _given_to_shared(machine: Machine) -> Iterator[Beside]:
    for cache in machine.caches:
        for shared in machine.arrays_of(cache, "shared")[:1]:
            for array in machine.arrays_of(cache, "cpu"):
                room = min(array.limit // 2, shared.limit - len(shared.entries))
                if len(array.entries) != array.limit or not room:
                    continue
                if shared.owner == machine.node_of(array.entries[0]):
                    yield Beside(shared, shared.entries + array.entries[:room])


state("array-given-to-shared", _given_to_shared, _FILL)

# Slabs on no list.


def _leave(link: Number, prev: Number) -> Change:
    # The slab leaves its list and all counters.
    def counters(slab: Slab) -> List[Edit]:
        less = {"total_slabs": 1, "free_objects": slab.objects - slab.counted}
        if slab.where == "free":
            less["free_slabs"] = 1
        spots = {slab.node.spot(name): change for name, change in less.items()}
        return [Edit(spot, spot.number - change) for spot, change in spots.items()]

    links = put("slab_list.next", link) + put("slab_list.prev", prev)
    return unlink() + Change(counters) + links


_LINK = attrgetter("link")
_EMPTY = slab("empty slab", stands("free"))
_POISONED = _leave(*LIST_POISON)
_STACK = 0xFFFFC90000013D50
_FEW = slab("slab with few objects in use", stands("partial"), lambda slab: slab.counted < 10)
state("slab-made-and-filled-not-linked", _FEW, _leave(_LINK, _LINK))
# An objfreelist slab keeps its array until it is linked.
state(
    "slab-made-full-not-linked",
    slab(
        "full slab of few objects that keeps its array in one",
        lambda s: s.where == "full" and 2 < s.objects <= 8 and s.cache.mode == "objfreelist",
    ),
    _POISONED + put("freelist", lambda s: s.slot(s.objects - 1) + s.cache.lead),
)
state("slab-made-array-not-written", _EMPTY, _POISONED + put("freelist", 0))
state("slab-unlinked-to-be-freed", _EMPTY, _POISONED)
state("slab-on-list-of-a-stack", _EMPTY, _leave(_STACK, _STACK))
# A capture has no functions.
state(
    "slab-waits-for-rcu",
    slab(
        "full slab of a SLAB_TYPESAFE_BY_RCU cache",
        lambda slab: slab.cache.flags & 0x80000 and slab.where == "full" and not slab.parked(),
    ),
    _leave(0, lambda slab: slab.machine.prog["kmem_rcu_free"].address_ or 0) + put("active", 0),
)

# A lock is held.


def _lock(victim: Any) -> Spot:
    return Spot(victim.machine.prog, victim.cache.node().spot("list_lock").address, 4)


_LOCK = put(_lock, 1)
state(
    "free-objects-under-lock",
    lambda machine: machine.cache("dentry").node(),
    _LOCK + add("free_objects", 30),
)
_OF_NODE_0 = slab("partial slab of node 0", stands("partial"), lambda slab: slab.nid == 0)
state("slab-moved-under-lock", _OF_NODE_0, _LOCK + unlink())
# Objects are in the array, and on the freelist of their slab as well.
state(
    "array-filled-under-lock",
    _filled(_half_full, lambda s: [*s.array.entries[:-3], *s.free[:3]]),
    _LOCK + _FILL,
)


@picks("alien array beside a shared one with room")
def _emptied_alien(machine: Machine) -> Iterator[Beside]:
    # A shared array, and an alien one whose objects would fit into it.
    for alien in machine.containers:
        if alien.place != "alien array" or not alien.entries:
            continue
        nid = machine.node_of(alien.entries[0])
        for shared in machine.arrays_of(alien.cache, "shared"):
            if shared.owner == nid and shared.limit - len(shared.entries) >= len(alien.entries):
                yield Beside(Beside(shared, shared.entries + alien.entries), alien)


def _alien_lock(victim: Any) -> Spot:
    prog, alien = victim.machine.prog, victim.other
    return Spot(prog, alien.address - offsetof(prog.type("struct alien_cache"), "ac"), 4)


state(
    "alien-array-emptied-under-lock",
    _emptied_alien,
    put(_alien_lock, 1) + Change(lambda victim: _FILL.edits(victim.victim)),
)
state("page-marked-before-its-cache-is-set", kernel_page, put("mark", marked))
