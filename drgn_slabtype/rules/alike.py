# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What all caches of a machine have in common
-------------------------------------------

A cache is made by the same code as all others, so that a formula that holds for
them holds for it. Each formula here first asks the machine: what many caches
break is not understood, and says nothing.
"""

from __future__ import annotations

from typing import Iterator, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..arguments import named
from ..distinct import among, distinct
from ..ledger import I64, U64, Bools
from .reciprocal import Reciprocal, reciprocal_values

_FEWEST = 8  # caches that can tell what is usual
# Pointers to what one cache has alone, and of that what one node or CPU has.
_OWN_POINTERS = ("random_seq", "kobj.name", "kobj.sd", "cpu_", "node[", "barn[")
_NO_POINTERS = ("cpu_partial", "cpu_partial_slabs")
_MOST_REFERENCES = 1 << 16  # aliases of a cache
_MOST_SLABS = 1 << 31  # that a node would keep by min_partial


class Odd(NamedTuple):
    """A member of one cache that is not as all others say."""

    row: int
    what: str
    expected: Optional[int]
    found: int
    member: Optional[str] = None
    """Its name, as the kernel spells it."""
    bits: bool = False
    """Whether it is bits or an address, and no number."""
    beside: Optional[Tuple[int, str]] = None
    """Row and member that lead where this leads."""


class Flags(NamedTuple):
    """Bits of ``kmem_cache.flags`` that follow from others; 0 for what a kernel has not."""

    known: int
    """All bits that there are."""
    unchecked: int
    """Of debugging that needs a lock: such a cache does without ``cmpxchg_double``."""
    cmpxchg: int
    poison: int
    object_poison: int
    typesafe: int
    red_zone: int
    kmalloc: int
    no_sheaves: int
    inside: int
    """Those with which a cache can say itself where its free pointers are."""
    zones: int
    """Those that decide of which memory slabs are made."""


Columns = Mapping[str, U64]
"""Members of the caches by name, those that the kernel has."""


def understood(wrong: Bools, of: Optional[Bools] = None) -> Bools:
    """
    Return what is wrong, if few enough are for the formula to be believed.

    :param of: Which the formula is about; all if ``None``.
    """
    count = len(wrong) if of is None else int(np.count_nonzero(of))
    believed = count >= _FEWEST and 10 * int(np.count_nonzero(wrong)) <= count
    return wrong if believed else np.zeros_like(wrong)


def usual(values: U64) -> Optional[int]:
    """Return what nine of ten agree on; ``None`` if they do not."""
    found, times = np.unique(values, return_counts=True)
    if len(values) < _FEWEST or 10 * int(times.max()) < 9 * len(values):
        return None
    return int(found[times.argmax()])


def _odd(
    wrong: Bools,
    member: str,
    found: U64,
    why: str,
    should: Optional[U64] = None,
    hexa: bool = False,
) -> Iterator[Odd]:
    for row in np.flatnonzero(wrong).tolist():
        is_number, asked = int(found[row]), None if should is None else int(should[row])
        told = f"0x{is_number:x}" if hexa else str(is_number)
        end = "" if asked is None else f", not {f'0x{asked:x}' if hexa else asked}"
        yield Odd(row, f"{member} is {told}{end}{why}", asked, is_number, member, hexa)


# Both allocators -------------------------------------------------------------


def judge_common(cache: Columns, are_all: bool = True) -> Iterator[Odd]:
    """
    Yield what neither allocator can have left in a cache that is on ``slab_caches``.

    :param are_all: Whether these are all caches, so that what no other has is nobody's.
    """
    yield from _references(cache["refcount"], cache["early"] != 0)
    for name in ("reciprocal_size", "reciprocal_buffer_size"):
        if f"{name}.m" in cache:
            yield from _reciprocal(cache, name)
    none = cache["object_size"] == 0
    yield from _odd(none, "object_size", cache["object_size"], ", which no object has")
    if "usersize" in cache:
        first, size = cache["useroffset"], cache["usersize"]
        beyond = (first > cache["object_size"]) | (size > cache["object_size"] - first)
        beyond |= (size == 0) & (first != 0)
        yield from _odd(beyond, "useroffset", first, ", of no bytes of an object")
    align, size = cache["align"], cache["size"]
    wrong = (align == 0) | (align & (align - np.uint64(1)) != 0)
    wrong |= size % np.maximum(align, np.uint64(1)) != 0
    yield from _odd(understood(wrong), "align", align, ", to which no slot is aligned")
    yield from _allocation(cache, are_all)
    for kind in _OWN_POINTERS:
        names = [name for name in cache if name.startswith(kind) and name not in _NO_POINTERS]
        if names:
            yield from _shared(cache, names)
    if "random_seq" in cache:
        # A cache that gets none is not made; slabs of one object need none.
        several = cache["objects"] > 1
        none = several & (cache["random_seq"] == 0)
        yield from _odd(understood(none, several), "random_seq", cache["random_seq"], "")
    if "ctor" in cache:
        yield from _code(cache["ctor"], cache["linear"], cache["inside"])


def _references(count: U64, early: Bools) -> Iterator[Odd]:
    # -1: it came before caches could be merged, or is one of kmalloc()'s, and is not. What 0
    # means is told by the objects that are left.
    signed = count.astype(np.uint32).view(np.int32).astype(np.int64)
    wrong = (signed < -1) | (signed > _MOST_REFERENCES)
    wrong |= understood((signed == -1) & ~early)
    for row in np.flatnonzero(wrong).tolist():
        yield Odd(row, f"refcount is {signed[row]}", None, int(signed[row]), "refcount")


def _reciprocal(cache: Columns, name: str) -> Iterator[Odd]:
    for part, asked in zip(Reciprocal._fields, reciprocal_values(cache["size"])):
        member = f"{name}.{part}"
        wrong = cache[member] != asked
        yield from _odd(understood(wrong), member, cache[member], ", by its size", asked)


def _allocation(cache: Columns, are_all: bool) -> Iterator[Odd]:
    # allocflags follows from the order and some of the flags.
    if "allocflags" not in cache:
        return
    kinds = (cache["flags"] & cache["zones"]) << np.uint64(1) | (cache["order"] != 0)
    wrong, should = np.zeros(len(kinds), np.bool_), cache["allocflags"].copy()
    for kind in distinct(kinds).tolist():
        mine = kinds == kind
        most = usual(cache["allocflags"][mine])
        if most is not None:
            should[mine] = most
            wrong |= mine & (cache["allocflags"] != np.uint64(most))
    # What belongs to few caches is known by its bits: each is some other's, too.
    bits = np.bitwise_or.reduce(should[~wrong & (_times(should) > 1)], initial=np.uint64(0))
    alien = are_all & ~wrong & (cache["allocflags"] & ~bits != 0)
    yield from _odd(
        understood(wrong), "allocflags", cache["allocflags"], ", by its order", should, hexa=True
    )
    yield from _odd(
        understood(alien), "allocflags", cache["allocflags"], ", which no other has", hexa=True
    )


def _times(values: U64) -> I64:
    _, which, times = np.unique(values, return_inverse=True, return_counts=True)
    return times[which.reshape(-1)].astype(np.int64)


def _shared(columns: Columns, names: Sequence[str]) -> Iterator[Odd]:
    # Of two pointers to the same the later one is told.
    pointers = np.concatenate([columns[name] for name in names])
    _, first, which = np.unique(pointers, return_index=True, return_inverse=True)
    first = first[which.reshape(-1)]
    wrong = understood((first != np.arange(len(first))) & (pointers != 0))
    caches = max(len(columns[names[0]]), 1)
    for at in np.flatnonzero(wrong).tolist():
        (number, row), (other, beside) = divmod(at, caches), divmod(int(first[at]), caches)
        what = f"{names[number]} is {named(pointers[at])}"
        found = int(pointers[at])
        yield Odd(row, what, None, found, names[number], True, (beside, names[other]))


def judge_home(pointers: U64, astray: Bools, member: str) -> Iterator[Odd]:
    """
    Yield the pointers to what lies in slabs that lead elsewhere.

    :param astray: Which lead to pages that are in no slab.
    """
    yield from _odd(understood(astray), member, pointers, ", which is in no slab", hexa=True)


def _code(pointer: U64, linear: U64, inside: U64) -> Iterator[Odd]:
    # Where code does not lie in the direct map, nothing there is code.
    there = pointer != 0
    wrong = there & (linear != 0)
    yield from _odd(understood(wrong, there), "ctor", pointer, ", which is no code", hexa=True)
    # Symbols are right about all of them or about none.
    within = inside != 0
    if 2 * int(within.sum()) <= int(there.sum()):
        yield from _odd(within, "ctor", pointer, ", where no function begins", hexa=True)


# SLAB ------------------------------------------------------------------------


def judge_slab_caches(cache: Columns, flags: Flags) -> Iterator[Odd]:
    """Yield what ``__kmem_cache_create()`` of SLAB cannot have left in a cache."""
    yield from _unknown(cache["flags"], flags)
    if "obj_offset" in cache:
        # Red zones are words of 64 bits.
        askew = cache["obj_offset"] % np.uint64(8) != 0
        yield from _odd(understood(askew), "obj_offset", cache["obj_offset"], ", in mid-word")
    colour, align = cache["colour_off"], cache["align"]
    line = np.uint64(int(np.min(colour)) if len(colour) else 0)
    values, times = np.unique(colour, return_counts=True)
    if len(values):
        line = values[times.argmax()]
    should = np.maximum(align, line)
    wrong = colour != should
    yield from _odd(understood(wrong), "colour_off", colour, ", by its align", should)
    # Without debugging, slots are objects and what aligns the next one.
    plain = (cache["flags"] & np.uint64(flags.red_zone | flags.unchecked | flags.poison)) == 0
    plain &= cache["size"] > np.uint64(32)
    step = np.maximum(align, np.uint64(8))
    fit = (cache["object_size"] + step - np.uint64(1)) // step * step
    wrong = plain & (fit != cache["size"])
    why = ", which makes no slots of its size"
    yield from _odd(understood(wrong, plain), "object_size", cache["object_size"], why)


# SLUB ------------------------------------------------------------------------


def judge_slub_caches(cache: Columns, flags: Flags, is_kmalloc: Bools) -> Iterator[Odd]:
    """
    Yield what ``kmem_cache_open()`` and ``calculate_sizes()`` cannot have left in a cache.

    :param is_kmalloc: Which caches have the name of one of kmalloc's.
    """
    own = cache["flags"]
    yield from _unknown(own, flags)

    def has(bits: int) -> Bools:
        return (own & np.uint64(bits)) != 0

    outside = has(flags.typesafe | flags.poison) | (cache["ctor"] != 0)
    for bit, name, should in (
        (flags.cmpxchg, "__CMPXCHG_DOUBLE", ~has(flags.unchecked)),
        (
            flags.object_poison,
            "__OBJECT_POISON",
            has(flags.poison) & ~has(flags.typesafe) & (cache["ctor"] == 0),
        ),
        # Others may ask for it as well, as SLUB's own tests do.
        (flags.kmalloc, "SLAB_KMALLOC", is_kmalloc | has(flags.kmalloc)),
    ):
        if bit:
            wrong = has(bit) != should
            yield from _odd(understood(wrong), "flags", own, f", by {name}", hexa=True)
    # Free pointers lie behind what the cache's own code may read in free objects.
    behind = cache["offset"] >= cache["inuse"]
    must = has(flags.poison) if flags.inside else outside
    for some, wrong, where in (
        (must, must & ~behind, "before"),
        (~outside, ~outside & behind & ~has(flags.red_zone), "behind"),
    ):
        why = f", with free pointers {where} its inuse"
        yield from _odd(understood(wrong, some), "flags", own, why, hexa=True)
    # Under debugging every object goes the slow way, past what CPUs keep.
    debugging = flags.unchecked | flags.red_zone | flags.poison
    for name, bits in (
        ("sheaf_capacity", debugging | flags.no_sheaves),
        ("cpu_partial", debugging),
    ):
        if name in cache:
            wrong = has(bits) & (cache[name] != 0)
            why = f", and its {name} is not 0"
            yield from _odd(understood(wrong), "flags", own, why, hexa=True)
    nodes = usual(cache["nodes"]) if "barns" in cache else None
    if nodes is not None:
        should = np.where(cache["sheaf_capacity"] != 0, np.uint64(nodes), np.uint64(0))
        wrong = cache["barns"] != should
        yield from _odd(understood(wrong), "number of barns", cache["barns"], "", should)
    yield from _judge_tunables(cache)
    yield from _judge_kobjects(cache)


def _judge_tunables(cache: Columns) -> Iterator[Odd]:
    least = cache["min_partial"]
    yield from _odd(least >= np.uint64(_MOST_SLABS), "min_partial", least, " slabs")
    if "remote_node_defrag_ratio" in cache:
        # Written as per cent, kept as tenths.
        ratio = cache["remote_node_defrag_ratio"]
        wrong = (ratio > 1000) | (ratio % np.uint64(10) != 0)
        yield from _odd(wrong, "remote_node_defrag_ratio", ratio, ", which cannot be set")
    if "cpu_partial_slabs" in cache:
        objects = cache["cpu_partial"] * np.uint64(2)
        each = np.maximum(cache["oo.x"] & np.uint64(0xFFFF), np.uint64(1))
        should = (objects + each - np.uint64(1)) // each
        kept = cache["cpu_partial_slabs"]
        wrong = kept != should
        yield from _odd(understood(wrong), "cpu_partial_slabs", kept, ", by cpu_partial", should)
    if "max.x" in cache:
        wrong = cache["max.x"] != cache["oo.x"]
        why = ", more than which no slab has"
        yield from _odd(understood(wrong), "max", cache["max.x"], why, cache["oo.x"], hexa=True)


def _judge_kobjects(cache: Columns) -> Iterator[Odd]:
    for name, column in cache.items():
        same = name in ("kobj.parent", "kobj.kset", "kobj.ktype")
        same |= name.startswith("kobj.state_") or name == "kobj.uevent_suppress"
        most = usual(column) if same else None
        if most is not None:
            should = np.full(len(column), most, np.uint64)
            why = ", as all other caches have"
            yield from _odd(column != np.uint64(most), name, column, why, should, hexa=True)
    name = "kobj.kref.refcount.refs.counter"
    if name in cache:
        count = cache[name]
        wrong = (count == 0) | (count > np.uint64(_MOST_REFERENCES))
        yield from _odd(understood(wrong), name, count, "")
    for name in ("kobj.name", "kobj.sd"):
        if name in cache:
            # All pointers of a machine have one highest byte, which is 0 on s390x.
            byte = cache[name] >> np.uint64(56)
            most = usual(byte)
            if most is None:
                continue
            wrong = byte != np.uint64(most)
            yield from _odd(understood(wrong), name, cache[name], ", no pointer", hexa=True)


def _unknown(own: U64, flags: Flags) -> Iterator[Odd]:
    wrong = own & ~np.uint64(flags.known) != 0
    yield from _odd(understood(wrong), "flags", own, ", with bits that do not exist", hexa=True)


# Links -----------------------------------------------------------------------


class Ring(NamedTuple):
    """The links of all caches in a list of theirs, as columns."""

    entry: U64
    """Where they are."""
    next: U64
    prev: U64
    back: U64
    """``prev`` of what ``next`` leads to; 0 if that cannot be read."""
    forth: U64
    """``next`` of what ``prev`` leads to."""
    beyond: U64
    """``next`` of what :attr:`back` is: the entry, unless something else is right there."""
    before: U64
    """``prev`` of what :attr:`forth` is."""
    head: Optional[int]
    """Where the list begins, which is no cache; ``None`` if that is not known."""
    gone_next: Bools
    """Whether ``next`` leads to an object that is not in the target."""
    gone_prev: Bools
    """Whether ``prev`` does."""


def judge_ring(ring: Ring, member: str) -> Iterator[Odd]:
    """
    Yield the links that lead where nothing leads back.

    Of two that disagree the one is wrong that nothing else agrees with. What is
    being put between two entries, or taken out, agrees with one of both.
    """
    for name, link, back, answer, other, gone in (
        ("next", ring.next, ring.prev, ring.back, ring.beyond, ring.gone_next),
        ("prev", ring.prev, ring.next, ring.forth, ring.before, ring.gone_prev),
    ):
        # What it leads to stands elsewhere, where that is agreed upon, or is on no list,
        # while another leads here.
        elsewhere = (other == link) | (answer == 0) | (link % np.uint64(8) != 0)
        elsewhere |= among(ring.entry, back) & (answer != link) & ~among(link, ring.entry)
        wrong = (answer != ring.entry) & elsewhere & ~gone
        if ring.head is not None:
            wrong &= link != np.uint64(ring.head)
        yield from _odd(
            understood(wrong), f"{member}.{name}", link, ", not its neighbour", hexa=True
        )


# Nodes of SLAB ---------------------------------------------------------------


def judge_slab_nodes(node: Columns, colour: U64, jiffies: Optional[int]) -> Iterator[Odd]:
    """
    Yield what the nodes of SLAB cannot hold.

    :param node: Members of ``struct kmem_cache_node``.
    :param colour: ``colour`` of the cache of each.
    :param jiffies: The time, if it is known.
    """
    most = np.maximum(colour, np.uint64(1))
    kept = node["colour_next"]
    yield from _odd(kept > most, "colour_next", kept, ", more than there are colours")
    yield from _odd(node["free_touched"] > 1, "free_touched", node["free_touched"], "")
    if jiffies is not None:
        reap = node["next_reap"]
        late = reap > np.uint64(min(jiffies + _REAP_JIFFIES, _LAST_JIFFIES))
        early = reap < np.uint64(_FIRST_JIFFIES) if jiffies >= _FIRST_JIFFIES else late
        why = f", far from now, which is {jiffies}"
        yield from _odd(understood(late | early), "next_reap", reap, why)


# Caches are reaped every four seconds, at first after up to eight; jiffies begin
# five minutes before 2^32. At most 1000 of them make a second.
_REAP_JIFFIES = 60 * 1000
_FIRST_JIFFIES = (1 << 32) - 300 * 1000
_LAST_JIFFIES = (1 << 64) - 1


# Nodes of SLUB ---------------------------------------------------------------


def judge_slub_nodes(node: Columns) -> Iterator[Odd]:
    """
    Yield what the nodes of SLUB cannot hold.

    :param node: Members of ``struct kmem_cache_node``.
    """
    # Since Linux kernel commit 5ba6bc27b1f9 (in v7.1), caches lead to barns themselves.
    if "barn" in node:
        yield from _shared(node, ["barn"])


# CPUs of SLUB ----------------------------------------------------------------


def wrong_transactions(tid: U64, cpu: I64, step: int) -> Bools:
    """
    Return which transaction numbers are no number of their CPU.

    Where it can be preempted, a CPU counts in steps (``TID_STEP``) from its own
    number on; elsewhere by one, which those that have moved show.

    :param step: CONFIG_NR_CPUS, rounded up to a power of two.
    """
    first = cpu.astype(np.uint64)
    wrong = (tid & np.uint64(step - 1)) != first
    return understood(wrong, tid != first)


__all__: Sequence[str] = [
    "Columns",
    "Flags",
    "Odd",
    "Ring",
    "judge_common",
    "judge_home",
    "judge_ring",
    "judge_slab_caches",
    "judge_slab_nodes",
    "judge_slub_caches",
    "judge_slub_nodes",
    "understood",
    "usual",
    "wrong_transactions",
]
