# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a slab keeps beside its objects
------------------------------------

A vector with an entry for each object: who is charged for it, and where it was
allocated. It lies in an object of kmalloc(), in what the slab has left over, or in
the slots themselves.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Tuple, Union

import numpy as np

from ..distinct import distinct
from ..index import SlabIndex
from ..ledger import I64, U64, Bools, Claims, State
from ..machine import Machine
from ..machine.columns import Structure

_FLAGS = 7
_IS_VECTOR = 1
_BATCH_WORDS = 1 << 20
_MARKS = 1 << 20  # bytes that the processor still has in its cache


def vector_words(index: SlabIndex) -> U64:
    """
    Return the word of each slab that leads to its vector, flags and all.

    ``obj_cgroups`` to Linux 5.10; ``memcg_data`` since Linux kernel commit
    87944e2992bd ("mm: Introduce page memcg flags") (in v5.11); ``obj_exts`` since
    21c690a349ba ("mm: introduce slabobj_ext to support slab object extensions")
    (in v6.10).
    """
    member = _member(index.structure)
    return np.zeros(len(index), np.uint64) if member is None else index[member]


def _member(slab: Structure) -> Optional[str]:
    return next((one for one in ("obj_exts", "memcg_data", "obj_cgroups") if slab.has(one)), None)


class Held(NamedTuple):
    """The vectors of slabs, wherever they lie, sorted by address."""

    address: U64
    row: I64
    """Row of the index of the slab that each belongs to."""
    marks: Bools
    """Which of some low bits of an address one of them has: of most others, none."""

    def freed(self, claims: Claims) -> Iterator[Tuple[int, int]]:
        """
        Yield the rows of slabs whose vector a place calls free.

        :param claims: Of the cache whose objects such vectors may be.
        :return: Row of the index, and of the claim.
        """
        if not len(self.address) or not len(claims):
            return
        some = self.marks[_low_bits(claims.address)].nonzero()[0]
        address = claims.address[some]
        at = np.minimum(self.address.searchsorted(address), len(self.address) - 1)
        same = (self.address[at] == address) & (claims.state[some] != State.LIVE)
        same &= claims.index[some] >= 0
        yield from zip(self.row[at[same]].tolist(), some[same].tolist())


def _low_bits(addresses: U64) -> I64:
    return (addresses >> np.uint64(3) & np.uint64(_MARKS - 1)).astype(np.int64)


def held_vectors(index: SlabIndex, owner: I64) -> Held:
    """
    Return the vectors of slabs that have a mark and a cache.

    A slab loses its mark before its vector is freed.

    :param owner: Position of the cache of each row of the index; -1 for none.
    """
    word = vector_words(index)
    there = index.marked & (owner >= 0) & (word > np.uint64(_FLAGS))
    there &= word & np.uint64(_IS_VECTOR) != 0
    rows = np.flatnonzero(there)
    address = word[rows] & ~np.uint64(_FLAGS)
    order = np.argsort(address, kind="stable")
    marks = np.zeros(_MARKS, np.bool_)
    marks[_low_bits(address)] = True
    return Held(address[order], rows[order], marks)


def vectors(machine: Machine, pages: U64, stride: Union[int, U64]) -> Tuple[U64, U64]:
    """
    Return where the record of object 0 of each slab lies, and how far apart they are.

    :param pages: ``struct slab *`` of slabs: shape (n,).
    :param stride: Bytes from one object to the next, of all or of each.
    :return: Address of a ``struct obj_cgroup *``, 0 where a slab has none, and bytes
        from one to the next: shapes (n,).
    """
    name = f"struct {machine.layout.slab_struct}"
    rows = machine.rows(name, pages)
    layout = rows.structure
    zeroes = np.zeros(len(rows), np.uint64)
    member = _member(layout)
    if member is None:
        return zeroes, zeroes
    word = rows[member]
    pointer = word & ~np.uint64(_FLAGS)
    good = rows.ok & (word & np.uint64(_IS_VECTOR) != 0) & machine.memory.is_kernel_address(pointer)
    size, offset = entry_of(machine)
    step = np.full(len(rows), size, np.uint64)
    if layout.has("stride"):
        # Linux 7.0 to 7.2: in the slots themselves they are a slot apart.
        step = rows["stride"]
    elif layout.has("obj_exts_in_object"):
        # Since Linux 7.3 an entry is a pointer for each of what a slab needs.
        needed = rows["obj_exts_needs_objcg"] != 0
        profiled = machine.structure("struct slabobj_ext").has("_ctref")
        within = rows["obj_exts_in_object"] != 0
        step = np.where(within, np.asarray(stride, np.uint64), step * (1 + np.uint64(profiled)))
        good &= needed
    return np.where(good, pointer + np.uint64(offset), np.uint64(0)), step


def entry_of(machine: Machine) -> Tuple[int, int]:
    """Return the bytes of an entry of a vector, and where in it the object cgroup is."""
    try:
        # Since Linux kernel commit 21c690a349ba ("mm: introduce slabobj_ext to
        # support slab object extensions") (in v6.10).
        entry = machine.structure("struct slabobj_ext")
    except LookupError:
        return machine.memory.word_size, 0
    return entry.size, entry.offset("objcg") if entry.has("objcg") else 0


def names_cgroups(machine: Machine) -> bool:
    """Return whether entries of vectors name object cgroups; some are for profiling alone."""
    try:
        if not machine.prog.type("struct obj_cgroup").is_complete():
            return False
        entry = machine.prog.type("struct slabobj_ext")
    except LookupError:
        return True
    return entry.has_member("objcg") or entry.has_member("_objcg")


def vector_entries(
    machine: Machine, starts: U64, steps: U64, counts: U64
) -> Iterator[Tuple[I64, U64]]:
    """
    Read the entries of vectors, those of several at a time.

    :param starts: Where the first entry of each is; 0 where there is none.
    :param steps: Bytes from one to the next.
    :param counts: Entries of each.
    :return: Positions of vectors, and their entries: shapes (n,) and (n, count). Those of
        which anything is not in the target are left out.
    """
    there = ((starts != 0) & (steps != 0) & (counts != 0)).nonzero()[0]
    # Few pairs of many numbers: each number has its place among those of its kind.
    each_step, of_step = np.unique(steps[there], return_inverse=True)
    each_count, of_count = np.unique(counts[there], return_inverse=True)
    of_pair = of_step * len(each_count) + of_count
    for pair in distinct(of_pair).tolist():
        step, count = (
            int(each_step[pair // len(each_count)]),
            int(each_count[pair % len(each_count)]),
        )
        rows = there[of_pair == pair]
        apart = np.arange(count, dtype=np.uint64) * np.uint64(step)
        most = max(_BATCH_WORDS // count, 1)
        for first in range(0, len(rows), most):
            some = rows[first : first + most]
            places = (starts[some][:, None] + apart).reshape(-1)
            gathered = machine.memory.gather(places, machine.memory.word_size)
            words = gathered.bytes.view(machine.memory.word)[:, 0].astype(np.uint64)
            whole = gathered.ok.reshape(-1, count).all(axis=1)
            yield some[whole], words.reshape(-1, count)[whole]
