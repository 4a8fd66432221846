# SPDX-License-Identifier: LGPL-2.1-or-later
"""
KFENCE's pool
-------------

The pool's object pages carry the slab mark but are slabs of no cache: on no
list, in no counter, with fields that go stale. They are recognised first and
accounted for by KFENCE's own metadata.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from drgn import FaultError, Object, TypeKind, sizeof

from ..regions import Region, region
from .columns import Rows
from .memory import U64, Bools

if TYPE_CHECKING:
    from . import Machine

_LARGEST_POOL = 1 << 33  # 65535 objects of two pages, of 64 KiB each
_MOST_OBJECTS = 65535
_MOST_BEFORE = 4096  # objects in front of one, where nothing else tells where they begin
_FEWEST = 8  # objects whose addresses agree
_BY_CHANCE = 2
_GIVEN_OUT = ("KFENCE_OBJECT_ALLOCATED", "KFENCE_OBJECT_RCU_FREEING")
_STEP = 256  # metadata entries read at a time; CONFIG_KFENCE_NUM_OBJECTS is 255 by default


class KfencePool(NamedTuple):
    """The pool and the state of its objects."""

    start: int
    """Virtual address of the pool in the direct map; 0 if there is none."""
    end: int
    metadata: Tuple[Rows, ...]
    """``struct kfence_metadata`` of all objects, in pieces."""
    contradicted: str = ""
    """The variable that the objects, or the marks of their pages, contradict."""

    def contains(self, addresses: U64) -> np.ndarray[Tuple[int], np.dtype[np.bool_]]:
        """Return which addresses lie in the pool."""
        return (addresses >= np.uint64(self.start)) & (addresses < np.uint64(self.end))


_NO_POOL = KfencePool(0, 0, ())


def kfence_pool(machine: Machine) -> KfencePool:
    """
    Find KFENCE's pool (Linux 5.12 on).

    The number of objects is a configuration value that no symbol tells. Each
    object's metadata holds an address in that object's own page, so the
    metadata itself tells where it ends; not one of them alone. It tells where the
    pool begins, too; where there is none, the marks of its pages tell where it ends.
    """
    try:
        told, metadata = machine.prog["__kfence_pool"], machine.prog["kfence_metadata"]
    except LookupError:
        return _NO_POOL
    # Since Linux kernel commit cabdf74e6b31 ("mm: kfence: allocate
    # kfence_metadata at runtime") (in v6.6), kfence_metadata is a pointer.
    if metadata.type_.unaliased_kind() == TypeKind.ARRAY:
        leads, known = metadata.address_, metadata.type_.length or 0
    else:
        leads, known = _value(metadata), 0
    first = leads or 0
    said, page = _value(told), machine.memory.page_size
    if leads is None and said is None:
        first = _first_of_free(machine, page)
    start = said
    if machine.memory.is_kernel_address(np.array([first], np.uint64))[0]:
        if said == 0 and not _entries(machine, first, 0, _FEWEST)["addr"].any():
            return _NO_POOL
        start = _home(_entries(machine, first, 0, known), said, page)
    if said == 0 and start and _marked(machine, start) < _FEWEST:
        return _NO_POOL  # given up before it was complete (kfence_init_pool())
    # What is no address is another finding's business (told.py).
    if start is None or not machine.memory.is_kernel_address(np.array([start], np.uint64))[0]:
        return _NO_POOL
    if start >= (1 << 64) - _LARGEST_POOL:
        return _NO_POOL
    pieces: List[Rows] = []
    there: List[int] = []
    at = lost = 0
    while not known or at < known:
        rows = _entries(machine, first, at, known)
        fits = (rows.ok & in_place(rows, start, at, page)).nonzero()[0]
        if not len(fits) and not known:
            break
        pieces.append(rows)
        there += (fits + at).tolist()
        lost += int(np.count_nonzero(~rows.ok))
        at += len(rows)
    # One damaged word in the midst of them does not end the pool.
    count = known if known and there else there[-1] + 1 if there else 0
    if 2 * len(there) < count:
        count = next((at for at, one in enumerate(there) if one != at), len(there))
    if count and lost and not known:
        # What is missing may be the last of them. Unless the pool's pages are reserved, as those
        # of slabs never are, slabs behind it would be taken for it.
        count = max(count, _marked(machine, start, only_reserved=True))
    wrong = "" if said in (None, start) else "__kfence_pool"
    if not count:
        count = _marked(machine, start)
        # An architecture may have set memory aside for a pool that is not made.
        if (known or not first) and (count < _FEWEST or start % page):
            return _NO_POOL._replace(contradicted="__kfence_pool" if start % page else "")
        if count and leads is not None and _is_of_none(machine, leads, known):
            wrong = wrong or "kfence_metadata"
    return KfencePool(start, start + 2 * (count + 1) * page, tuple(pieces), wrong)


def _is_of_none(machine: Machine, first: int, known: int) -> bool:
    # Whether that is no metadata of a pool that has objects: it can be read, or a pointer to it
    # leads where neither pages nor memblock's memory is.
    if not known and not machine.memory.in_direct_map(np.array([first], np.uint64))[0]:
        return True
    return bool(_entries(machine, first, 0, known).ok.any())


def _value(variable: Object) -> Optional[int]:
    # None if it is not in the target.
    try:
        return int(variable.value_())
    except FaultError:
        return None


def _entries(machine: Machine, first: int, at: int, known: int) -> Rows:
    name = "struct kfence_metadata"
    step = np.uint64(sizeof(machine.prog.type(name)))
    want = min(_STEP, known - at) if known else _STEP
    return machine.rows(name, np.uint64(first) + np.arange(at, at + want, dtype=np.uint64) * step)


def _home(rows: Rows, told: Optional[int], page: int) -> Optional[int]:
    # Where the pool begins by most of the objects' own addresses, which have been there since
    # boot; what the variable says, unless they agree on another place.
    number = np.arange(1, len(rows) + 1, dtype=np.uint64)
    homes = (rows["addr"] & ~np.uint64(page - 1)) - number * np.uint64(2 * page)
    votes = Counter(homes[rows.ok & (rows["addr"] != 0)].tolist())
    for home, times in votes.most_common(1):
        if times >= _FEWEST and 2 * votes[told or 0] < times:
            return int(home)
    return told


def _first_of_free(machine: Machine, page: int) -> int:
    # Where the metadata begins by that of an object that is free: what is before it is of
    # objects before that one. 0 if none is.
    structure = machine.structure("struct kfence_metadata")
    try:
        at = int(machine.prog["kfence_freelist"].next) - structure.offset("list")
    except (FaultError, LookupError):
        return 0
    before = np.arange(min(_MOST_BEFORE, at // structure.size), dtype=np.uint64)
    if not len(before):
        return 0
    addresses = np.uint64(at) - before * np.uint64(structure.size)
    rows = machine.rows("struct kfence_metadata", addresses)
    pages = rows["addr"] & ~np.uint64(page - 1)
    fits = rows.ok & (pages == pages[0] - before * np.uint64(2 * page))
    return int(addresses[fits.argmin() - 1]) if fits[0] and not fits.all() else 0


def _marked(machine: Machine, start: int, only_reserved: bool = False) -> int:
    # How many objects there are where no metadata tells: every other page is marked, from the
    # third on, and the page behind the last may be so by chance. So is what is not there
    # between others.
    fields, memory = machine.page, machine.memory
    first = (start - memory.linear_base) >> memory.page_shift
    steps = np.arange(2 * _STEP, dtype=np.uint64) * np.uint64(fields.size)
    reserved = np.uint64(1 << machine.enumerators("pageflags").get("PG_reserved", 0))
    found = 0
    while found < _MOST_OBJECTS:
        at = fields.vmemmap + (first + 2 * (found + 1)) * fields.size
        if not 0 <= at < (1 << 64) - _LARGEST_POOL:
            break
        raw, there = memory.gather(np.uint64(at) + steps, fields.size)
        if not there.any():
            break
        cut = {
            name: np.ascontiguousarray(raw[:, where : where + size]).view(
                f"{memory.byteorder}u{size}"
            )
            for name, where, size in (
                ("flags", fields.flags, memory.word_size),
                ("words", fields.word, 4),
            )
        }
        flags = cut["flags"][:, 0].astype(np.uint64)
        marks = machine.layout.is_slab(flags, cut["words"][:, 0].astype(np.uint32))
        if only_reserved:
            marks &= flags & reserved != 0
        run = (marks[::2] | ~there[::2]) & ~(marks[1::2] & there[1::2])
        found += int(run.argmin()) if not run.all() else _STEP
        if not run.all():
            break
    usual = 1 << (found + 1).bit_length() - 1
    return usual - 1 if found + 1 - usual <= _BY_CHANCE else found


def in_place(rows: Rows, start: int, first: int, page: int) -> Bools:
    """
    Return which objects of the pool have an address in their own page.

    :param rows: Their ``struct kfence_metadata``, in a row.
    :param start: Address of the pool.
    :param first: Position of the first of them.
    :param page: Bytes of a page.
    """
    number = np.arange(first + 1, first + len(rows) + 1, dtype=np.uint64)
    home = np.uint64(start) + number * np.uint64(2 * page)
    found: Bools = rows["addr"] & ~np.uint64(page - 1) == home
    return found


def given_out(machine: Machine, rows: Rows) -> Bools:
    """
    Return which objects of the pool have not come back to it.

    :param rows: Their ``struct kfence_metadata``.
    """
    states = machine.enumerators("kfence_object_state")
    used = [states[name] for name in _GIVEN_OUT if name in states]
    found: Bools = rows.ok & np.isin(rows["state"], np.array(used, np.uint64))
    return found


def regions(machine: Machine) -> Iterator[Region]:
    """
    Yield the pool, masked, and what KFENCE knows about each of its objects.

    Of a page whose object is given out, what is beside that is kept.
    """
    pool = machine.settled(kfence_pool)
    if pool.start:
        yield region("KFENCE", pool.start, pool.end - pool.start, masked=True)
        for rows in pool.metadata:
            yield region("KFENCE", rows.addresses[rows.ok], rows.structure.size, code=True)
            yield from _beside(machine, pool, rows)


def _beside(machine: Machine, pool: KfencePool, rows: Rows) -> Iterator[Region]:
    page = np.uint64(machine.memory.page_size)
    start, size = rows["addr"], rows["size"]
    home = start & ~(page - np.uint64(1))
    inside = (home - np.uint64(pool.start) < np.uint64(pool.end - pool.start)) & (size <= page)
    some = given_out(machine, rows) & inside & (start + size <= home + page)
    start, end, home = start[some], (start + size)[some], home[some]
    yield region("KFENCE", home, start - home)
    yield region("KFENCE", end, home + page - end)
