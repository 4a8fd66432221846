# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage to freelists and array caches."""

from __future__ import annotations

from typing import Any, Callable, Iterable, Iterator

from .. import both
from ..changes import LIST_POISON, enter, entry, put, when
from ..language import Root
from ..things import PAGE, Beside, Item
from ..victims import PARTIAL, container, first, quiet, slab
from .machine import Machine, Slab
from .suite import ANY, SUITE, recipe

_FREELIST = frozenset({"freelist-index", "freelist-duplicate", "freelist-array", "claim-twice"})


def _index(after: int) -> Callable[[Any], Any]:
    # Where so many free objects lie before the victim in its index array.
    return lambda slab: slab.entry(slab.counted + after)


def _index_root(code: str) -> Root:
    return Root(code, place="freelist", also=_FREELIST)


_DUPLICATE = _index_root("freelist-duplicate")
_OUT_OF_RANGE = _index_root("freelist-index")
recipe("index-twice", PARTIAL, put(_index(1), lambda slab: slab.free[0]), _DUPLICATE)
recipe("index-out-of-range", PARTIAL, put(_index(0), lambda slab: slab.objects), _OUT_OF_RANGE)
recipe("index-ff", PARTIAL, put(_index(1), 0xFF), _OUT_OF_RANGE)


def _explained(array: Any) -> bool:
    # Whether a CPU giving back a batch could have left an entry there.
    count = len(array.entries)
    return count in (array.limit, array.limit // 2) or count < 2


# A double free: once to the slab, once to the CPU.
recipe(
    "index-of-object-in-array",
    first(
        "partial slab with objects in a CPU's array",
        lambda machine: (
            Beside(slab, index)
            for slab in filter(quiet, machine.all_slabs())
            for index, array in slab.parked().items()
            if array.place == "cpu array" and not _explained(array)
        ),
    ),
    put(_index(0), lambda v: v.other),
    Root("claim-twice", also=_FREELIST),
)
recipe(
    "last-index-names-object-in-use",
    first(
        "index array in an object of a slab with objects in use",
        lambda machine: (
            Beside(slab, item)
            for slab in filter(quiet, machine.all_slabs())
            if slab.cache.mode == "objfreelist"
            for item in slab.used()
        ),
    ),
    put(lambda v: v.entry(v.objects - 1), lambda v: v.index(v.other.slot)),
    _index_root("freelist-array"),
)

# The pointer to the index array.


def _of_mode(mode: str) -> Any:
    return slab(
        f"partial slab whose array is {mode}",
        lambda slab: slab.cache.mode == mode and 0 < slab.counted < slab.objects,
    )


def _inside(index: int) -> Callable[[Any], int]:
    return lambda slab: slab.slot(index) + slab.cache.lead


def _another_host(slab: Slab) -> int:
    # Not object 0: its zeroes would name it as the host.
    return _inside(next(index for index in slab.free if index not in (0, slab.free[-1])))(slab)


_ARRAY = Root("freelist-array", also=ANY, others=frozenset("*"))
_ON_SLAB, _OFF_SLAB, _IN_OBJECT = map(_of_mode, ("on-slab", "off-slab", "objfreelist"))
for _name, _victim, _to in (
    ("on-slab-array-shifted", _ON_SLAB, lambda slab: slab.freelist + 8),
    ("on-slab-array-null", _ON_SLAB, 0),
    ("off-slab-array-shifted", _OFF_SLAB, lambda slab: slab.freelist + 8),
    ("off-slab-array-in-the-slab", _OFF_SLAB, lambda slab: slab.first),
    (
        "off-slab-array-of-another-slab",
        first(
            "two slabs with arrays of their own",
            lambda machine: (
                Beside(one, other)
                for one in machine.all_slabs()
                if one.cache.mode == "off-slab"
                for other in machine.slabs_of(one.cache)
                if other.counted != one.counted
            ),
        ),
        lambda v: v.other.freelist,
    ),
    (
        "objfreelist-array-in-another-object",
        slab(
            "partial slab with its array in an object",
            lambda slab: slab.cache.mode == "objfreelist" and quiet(slab) and len(slab.free) > 3,
        ),
        _another_host,
    ),
    ("objfreelist-array-in-another-slab", _IN_OBJECT, lambda slab: slab.freelist + slab.span),
    ("objfreelist-array-misaligned", _IN_OBJECT, lambda slab: slab.freelist + 8),
    ("objfreelist-array-null", _IN_OBJECT, 0),
    (
        "objfreelist-array-in-full-slab",
        slab(
            "full slab that keeps its array in an object",
            lambda s: s.cache.mode == "objfreelist" and s.where == "full" and s.objects > 4,
        ),
        _inside(1),
    ),
):
    recipe(_name, _victim, put("freelist", _to), _ARRAY)

# Entries of array caches, in an array that no work explains.

_SPARE = first("array with entries and room", lambda machine: machine.spare_arrays())
# Which object an entry would be depends on what debugging puts before objects.
_FOREIGN = both.on_container("claim-foreign")
_NAMES = {
    "null": "entry-null",
    "garbage": "entry-not-the-kernels",
    "user": "entry-in-page-of-no-slab",
    "misaligned": "entry-misaligned",
    "another": "entry-of-another-cache",
    "twice": "entry-twice-in-one-array",
}
both.entries(SUITE, _NAMES, _SPARE, _FOREIGN)
recipe("entry-poison", _SPARE, put(entry(1), LIST_POISON[0]), _FOREIGN)
recipe(
    "entry-behind-last-object",
    first(
        "slab with room behind its last object",
        lambda machine: (
            Beside(array, machine.home(array.entries[1]))
            for array in machine.spare_arrays()
            if (PAGE << array.cache.order) - array.cache.num * array.cache.size > array.cache.size
        ),
    ),
    put(entry(1), lambda v: v.other.slot(v.cache.num)),
    _FOREIGN.but(slab=lambda v: v.other.page, node=lambda v: v.other.nid),
)

# Entries that are free elsewhere, too: the object is the victim, the array beside it.


def _also_in(kind: str) -> Any:
    def candidates(machine: Machine) -> Iterator[Beside]:
        for array in machine.spare_arrays():
            nid = machine.node_of(array.entries[2])
            for other in machine.arrays_of(array.cache, kind):
                far = other is not array and len(other.entries) > 4
                if far and machine.node_of(other.entries[1]) == nid:
                    yield Beside(machine.item(other.entries[1]), array)

    return first(f"second array of the same node: {kind}", candidates)


_TWICE = Root("claim-twice")
recipe("entry-also-on-another-cpu", _also_in("cpu"), enter(2), _TWICE)
recipe("entry-also-in-shared-array", _also_in("shared"), enter(2), _TWICE)
recipe(
    "entry-also-in-freelist",
    first(
        "array with entries and room beside a partial slab",
        lambda machine: (
            Beside(Item(slab, slab.slot(slab.free[1])), array)
            for slab in filter(quiet, machine.all_slabs())
            for array in machine.spare_arrays([slab.cache], slab.nid)
        ),
    ),
    enter(1),
    _TWICE,
)

# What an array says of itself.

for _name, _kind, _member, _number, _code in (
    ("avail-over-limit", "cpu", "avail", 121, "container-limit"),
    ("avail-below-zero", "cpu", "avail", 0xFFFFFFFF, "container-limit"),
    ("shared-avail-over-limit", "shared", "avail", 0x10000, "container-limit"),
    ("limit-wrong", "cpu", "limit", 0x7FFFFFFF, "container-state"),
    ("limit-zero", "cpu", "limit", 0, "container-state"),
    ("shared-array-overwritten", "shared", "batchcount", 0x6B6B6B6B, "container-state"),
):
    _root = Root(_code, also=frozenset({"not-judged"}))
    recipe(_name, container(f"{_kind} array", 2), put(_member, _number), _root)

recipe(
    "shared-array-elsewhere",
    container("shared array", 0),
    put(lambda a: a.cache.node(a.owner).spot("shared"), lambda a: a.address + 8),
    Root("container-state", others=frozenset("*")),
)

# Objects the allocator lives in.


def _freed(name: str, addresses: Callable[[Machine], Iterable[int]]) -> None:
    # An object, with an array of its cache beside it.
    def candidates(machine: Machine) -> Iterator[Beside]:
        for address in addresses(machine):
            slab = machine.home(address)
            if slab is None:
                continue
            several = sum(map(bool, slab.cache.nodes)) > 1
            for array in machine.arrays_of(slab.cache, "cpu"):
                count = len(array.entries)
                far = machine.node_of(array.entries[0]) != slab.nid if count else several
                if count not in (array.limit, array.limit // 2) and not far:
                    yield Beside(Item(slab, slab.slot(slab.index(address))), array)

    def place(victim: Any) -> Any:
        return victim.other.entry(min(1, max(len(victim.other.entries) - 1, 0)))

    recipe(
        name,
        first("array of its cache that no work explains", candidates),
        put(place, lambda v: v.slot) + when(lambda v: not v.other.entries, put("other.avail", 1)),
        Root("claim-live"),
    )


_freed("node-freed", lambda machine: machine.cache("dentry").nodes[:1])
_freed("cache-freed", lambda machine: [machine.caches[0].address])
_freed("shared-array-freed", lambda m: [a.address for a in m.containers if "shared" in a.place])
_freed("index-array-freed", lambda machine: [_OFF_SLAB(machine).freelist])
