# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Vectors that slabs keep beside their objects.

One word of a slab leads to a vector with an entry for each object: who is charged
for it, and where it was allocated. The vector lies in an object that ``kmalloc()``
gave out, in what is left over of the slab behind its objects, or, since Linux 7.0,
in the slots themselves. Nothing in it says whose it is: where it lies, how much room it
has there, its marks, and what its entries lead to can be wrong.
"""

from __future__ import annotations

import enum
from dataclasses import replace
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence

import numpy as np

from ..findings import Finding
from ..ledger import I64, Bools, Ledger
from ..machine.memory import U64

_FLAGS = 7
_IS_VECTOR, _IS_NO_SLAB = 1, 2


class Wrong(enum.IntEnum):
    """What speaks against a vector."""

    BITS = 1
    NO_ADDRESS = 2
    IN_NO_SLAB = 3
    TWICE = 4
    NOT_GIVEN_OUT = 5
    MARKED_BUT_NONE = 6
    NO_OBJECT = 7
    MARK = 8
    STRIDE = 9
    ENTRIES = 10


SAID: Dict[Wrong, str] = {
    Wrong.BITS: "has bits set that no vector has, or lacks one that all have",
    Wrong.NO_ADDRESS: "leads to what is no address of the kernel's",
    Wrong.IN_NO_SLAB: "leads into no slab, where kmalloc() has put it",
    Wrong.TWICE: "is that of another slab, too",
    Wrong.NOT_GIVEN_OUT: "leads into an object that kmalloc() has not given out",
    Wrong.MARKED_BUT_NONE: "is none, though it is marked as lying in an object",
    Wrong.NO_OBJECT: "leads to no object, or to one that is too small for it",
    Wrong.MARK: "is marked as lying in an object and does not, or is not and does",
    Wrong.STRIDE: "has entries that are as far apart as neither slots nor entries are",
    Wrong.ENTRIES: "holds what is no object cgroup",
}
"""Each as a sentence goes on after the vector."""


class Vectors(NamedTuple):
    """The words of slabs that lead to vectors, and where these lie: columns, a row a slab."""

    word: U64
    """``obj_cgroups``, ``memcg_data`` or ``obj_exts``."""
    extended: bool
    """Whether they are ``obj_exts``, of which bits can say why there is none."""
    kernel: Bools
    """Whether the address in the word is one of the kernel's."""
    in_slab: Bools
    """Whether it lies in a slab of a cache."""
    in_pool: Bools
    """Whether it lies in KFENCE's pool, or in a slab of no cache that is known."""
    own: Bools
    """Whether it lies in the slab that it belongs to."""
    kmalloc: Bools
    """Whether it lies in a slab of ``kmalloc()``."""
    fits: Bools
    """Whether an object begins there that is large enough for it."""
    small: Bools
    """Whether ``kmalloc()`` takes so many bytes from a slab."""
    objects: U64
    """How many objects the slab has."""
    room: U64
    """Bytes that each of them can take at most."""
    offset: U64
    """Bytes from the beginning of the slab to the vector, where that is :attr:`own`."""
    entry: int
    """Bytes of an entry."""
    marked: Optional[Bools] = None
    """``obj_exts_in_object``; ``None`` where a kernel has no such mark."""
    stride: Optional[U64] = None
    """``stride``, the bytes from one entry to the next, from Linux 7.0 to 7.2."""
    foreign: Optional[Bools] = None
    """Whether an entry leads to what is no object cgroup; ``None`` if nobody has looked."""


def judge_vectors(vectors: Vectors) -> I64:
    """Return what speaks against each, a :class:`Wrong`; 0 for nothing."""
    bits, there = vectors.word & np.uint64(_FLAGS), vectors.word > np.uint64(_FLAGS)
    wrong = np.zeros(len(bits), np.int64)

    def tell(what: Wrong, hits: Bools) -> None:
        wrong[hits & (wrong == 0)] = what

    tell(Wrong.BITS, _odd_bits(vectors, bits, there))
    tell(Wrong.NO_ADDRESS, there & ~vectors.kernel)
    sound = there & (wrong == 0)
    tell(Wrong.IN_NO_SLAB, sound & vectors.small & ~vectors.in_slab & ~vectors.in_pool)
    away = sound & vectors.in_slab & ~vectors.own
    tell(Wrong.NOT_GIVEN_OUT, _few(away & ~vectors.kmalloc, sound))
    # Every slab has its own.
    address = vectors.word & ~np.uint64(_FLAGS)
    _, which, times = np.unique(address[sound], return_inverse=True, return_counts=True)
    twice = np.zeros(len(bits), np.bool_)
    twice[sound] = times[which.reshape(-1)] > 1
    tell(Wrong.TWICE, twice)
    tell(Wrong.NO_OBJECT, _few(away & ~vectors.fits & (wrong == 0), away))
    # One in the slots begins in the first of them; what is left over lies behind the last.
    several = sound & (vectors.objects > 1)
    within = vectors.own & (vectors.offset < vectors.room)
    if vectors.stride is not None:
        apart, count = vectors.stride, vectors.objects
        # With slots as short as that there were one more.
        far = (apart > vectors.room) | (apart * (count + np.uint64(1)) <= vectors.room * count)
        tell(
            Wrong.STRIDE,
            _few(several & np.where(within, far, apart != np.uint64(vectors.entry)), several),
        )
    if vectors.marked is not None:
        tell(Wrong.MARKED_BUT_NONE, vectors.marked & ~there)
        tell(Wrong.MARK, _few(several & (vectors.marked != within), several))
    if vectors.foreign is not None:
        tell(Wrong.ENTRIES, _few(vectors.foreign & sound, sound))
    return wrong


class Freed(NamedTuple):
    """The vector of a slab in an object that a place calls free."""

    cache: str
    """Name of the slab's cache."""
    page: int
    """``struct slab *``."""
    word: int
    """What leads to the vector, flags and all."""
    claim: int
    """Row of the claims of the ledger that the object is in."""


def judge_freed(ledger: Ledger, freed: Iterable[Freed], found: Sequence[Finding]) -> List[Finding]:
    """
    Return what is known of a cache, and a finding for each vector in a free object of it.

    :param ledger: Of the cache whose object it is.
    :param found: What is known of that cache; numbering goes on after it. What is said of
        the contents of that object follows from the vector in it; the vector's finding
        follows from the first root that is left.
    """
    told, last = [*found], max((one.id for one in found), default=0)
    for at, one in enumerate(freed, 1):
        vector, number = one.word & ~_FLAGS, last + at
        told = [
            replace(each, because=number)
            if each.because is None and each.object == vector and each.rule == "content"
            else each
            for each in told
        ]
        roots = (each for each in told if each.because is None)
        root = next((each.id for each in roots if each.rule not in ("note", "unavailable")), None)
        place = ledger.places[ledger.claims.place[one.claim]].name
        told.append(
            Finding(
                "slab-vector-wrong",
                f"{one.cache}: slab 0x{one.page:x} has 0x{one.word:x} for its vector, which leads "
                f"into an object of {ledger.facts.name} that is free: in {place}",
                cache=one.cache,
                slab=one.page,
                found=one.word,
                id=number,
                because=root,
            )
        )
    return told


class Cgroups(NamedTuple):
    """What entries of vectors lead to: columns, a row for each of them."""

    address: U64
    kernel: Bools
    """Whether it is an address of the kernel's."""
    linear: Bools
    """Whether it lies in the direct map."""
    pool: Bools
    """Whether it lies in KFENCE's pool."""
    kmalloc: Bools
    """Whether an object begins there that ``kmalloc()`` gives out, and is large enough."""


def no_cgroups(entries: Cgroups) -> Bools:
    """
    Return which entries cannot lead to a ``struct obj_cgroup``.

    ``obj_cgroup_alloc()`` has it from ``kzalloc()``, and ``memcg_slab_free_hook()``
    clears the entry of an object that is freed.
    """
    found: Bools = (entries.address != 0) & ~entries.pool
    found &= ~entries.kernel | (entries.linear & ~entries.kmalloc)
    return found


def _odd_bits(vectors: Vectors, bits: U64, there: Bools) -> Bools:
    # Bit 1 says that the page is no slab; of obj_exts, bit 2 or any of them alone say how
    # one was allocated, or why there is none.
    if not vectors.extended:
        return (vectors.word != 0) & ((bits != _IS_VECTOR) | ~there)
    odd = there & (bits & np.uint64(_IS_NO_SLAB) != 0)
    # Where bit 0 is set with most of them, none is without.
    without = there & (bits & np.uint64(_IS_VECTOR) == 0)
    found: Bools = odd | _few(without, there)
    return found


def _few(hits: Bools, of: Bools) -> Bools:
    # What many break is not damage of each, but a cache that is damaged or a layout that
    # is not understood.
    few = 10 * int(np.count_nonzero(hits)) <= max(int(np.count_nonzero(of)), 10)
    return hits if few else np.zeros_like(hits)
