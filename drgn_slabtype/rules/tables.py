# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Tables of caches that are written at boot
-----------------------------------------

``kmalloc()`` looks its cache up by size in ``kmalloc_caches``, small sizes by
``kmalloc_size_index``; the allocator takes its
own structures from ``kmem_cache`` and ``kmem_cache_node``. All are written once, and
what else is known of the caches says what they must hold.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from ..distinct import among
from ..ledger import I64, U8, U64, Bools

_ODD_SIZES = {1: 96, 2: 192}  # bytes, in front of the powers of two
_FIRST_POWER = 3
_STEP = 8  # bytes from one entry of kmalloc_size_index to the next
_PLAIN = re.compile(r"kmalloc-\d+[kM]?")
_NAMED = re.compile(r"(.*kmalloc-(?:.+-)?)(\d+)([kM]?)")
_UNITS = {"": 1, "k": 1 << 10, "M": 1 << 20}
_ALIKE = 3  # entries that are not called alike by chance
_FEWEST = 8  # structures that can tell where all come from


class Entry(NamedTuple):
    """An entry that cannot be what the kernel wrote."""

    row: int
    column: int
    found: int
    why: str


def sizes(columns: int) -> U64:
    """
    Return the bytes that each entry of a row of ``kmalloc_caches`` is for; 0 for none.

    >>> sizes(8).tolist()
    [0, 96, 192, 8, 16, 32, 64, 128]
    """
    told = [_ODD_SIZES.get(at, 1 << at if at >= _FIRST_POWER else 0) for at in range(columns)]
    return np.array(told, np.uint64)


def judge_kmalloc(
    table: U64, addresses: U64, object_sizes: U64, names: Sequence[str] = ()
) -> Optional[List[Entry]]:
    """
    Return the entries of ``kmalloc_caches`` that are wrong; ``None`` if it is not understood.

    Each leads to a cache for objects as large as its place in the row says. Where an
    architecture aligns objects for DMA, it leads to the larger one that stands in its own
    place in the same row. Within a row the powers of two have no gap.

    :param table: A row for each kind of memory.
    :param addresses: ``struct kmem_cache *`` of all caches.
    :param object_sizes: ``object_size`` of each, in bytes.
    :param names: Of each. The first row has those of ``kmalloc-`` and a size.
    """
    wanted = np.broadcast_to(sizes(table.shape[1]), table.shape)
    order = np.argsort(addresses, kind="stable")
    at = np.searchsorted(addresses[order], table)
    at = order[np.minimum(at, len(order) - 1)]
    there = table != 0
    known = there & (addresses[at] == table)
    bytes_of = np.where(known, object_sizes[at], np.uint64(0))
    exact = known & (bytes_of == wanted)
    fine = exact | (known & (wanted > 0) & (bytes_of > wanted) & _elsewhere(table, bytes_of, exact))
    wrong = (there & ~fine) | _gaps(there)
    for cache, name in enumerate(names):
        if _PLAIN.fullmatch(name) and addresses[cache] not in table:
            wrong[0] |= ~there[0] & (wanted[0] == object_sizes[cache])
    if not exact.any() or 2 * np.count_nonzero(wrong) > np.count_nonzero(there):
        return None
    return [
        Entry(row, column, int(table[row, column]), _why(known, bytes_of, wanted, row, column))
        for row, column in np.argwhere(wrong).tolist()
    ]


def judge_size_index(index: U8, row: U64) -> Optional[List[Tuple[int, int]]]:
    """
    Return the entries of ``kmalloc_size_index`` that lead to the wrong place, and the right one.

    Each is for eight bytes more than the one before, and holds the column of the smallest
    cache for as many. ``None`` if it is not understood.

    >>> judge_size_index(np.array([3, 4, 6], np.uint8), np.array([0, 0, 0, 1, 1, 1, 1], np.uint64))
    [(2, 5)]

    :param index: One entry for every eight bytes, from 8 on.
    :param row: A row of ``kmalloc_caches``, without anything wrong.
    """
    places = np.where(row != 0, sizes(len(row)), np.uint64(0))
    order = np.argsort(places, kind="stable")[np.count_nonzero(places == 0) :]
    asked = np.arange(1, len(index) + 1, dtype=np.uint64) * np.uint64(_STEP)
    at = np.searchsorted(places[order], asked)
    if not len(order) or at[-1] == len(order):
        return None
    right = order[at]
    wrong = np.flatnonzero(index != right)
    if 2 * len(wrong) > len(index):
        return None
    return [(entry, int(right[entry])) for entry in wrong.tolist()]


class Named(NamedTuple):
    """A cache that is called otherwise than where ``kmalloc()`` finds it."""

    cache: int
    """Its position."""
    row: int
    column: int
    kind: str
    """What the names of the others in its row begin with."""


def judge_kinds(
    table: U64, addresses: U64, object_sizes: U64, names: Sequence[str]
) -> Tuple[List[Entry], List[Named]]:
    """
    Return the entries that lead to a cache of another row, and caches of a wrong name.

    All caches of a row are called after its kind of memory and their size. One that stands
    in its own row as well is in the wrong place here; one that stands nowhere else has
    another's name.

    :param table: As :func:`judge_kmalloc` has it; entries that are wrong by that are not judged.
    """
    wanted = sizes(table.shape[1])
    positions = {address: at for at, address in enumerate(addresses.tolist())}
    cells = {
        (row, column): positions[table[row, column]]
        for row, column in np.argwhere(among(table, addresses)).tolist()
        if object_sizes[positions[table[row, column]]] == wanted[column]
        # What caches of cgroups are called after is not where they stand (to Linux 5.8).
        and "(" not in names[positions[table[row, column]]]
    }
    called = {at: _called(names[at], int(object_sizes[at])) for at in set(cells.values())}
    kinds = {
        row: _usual_kind(called[at] for (r, _), at in cells.items() if r == row) for row, _ in cells
    }
    at_home = {at for (row, _), at in cells.items() if called[at] and called[at] == kinds[row]}
    entries: List[Entry] = []
    renamed: List[Named] = []
    for (row, column), at in cells.items():
        kind = kinds[row]
        if kind is None or called[at] == kind:
            continue
        if at in at_home:
            why = f"leads to {names[at]}, and the others of its row to {kind}…"
            entries.append(Entry(row, column, int(table[row, column]), why))
        else:
            renamed.append(Named(at, row, column, kind))
    return entries, renamed


def _called(name: str, size: int) -> Optional[str]:
    # What a name of kmalloc()'s begins with, if it ends in the size.
    found = _NAMED.fullmatch(name)
    return found[1] if found and int(found[2]) * _UNITS[found[3]] == size else None


def _usual_kind(kinds: Iterable[Optional[str]]) -> Optional[str]:
    counted = Counter(kinds)
    kind, times = counted.most_common(1)[0]
    return kind if times >= _ALIKE and 2 * times > sum(counted.values()) else None


def _elsewhere(table: U64, bytes_of: U64, exact: Bools) -> Bools:
    # Whether the same cache stands in the place of its own size, further on in the row.
    found = np.zeros(table.shape, np.bool_)
    for row in range(len(table)):
        own = dict(zip(table[row][exact[row]].tolist(), bytes_of[row][exact[row]].tolist()))
        found[row] = [pointer in own for pointer in table[row].tolist()]
    return found


def _gaps(there: Bools) -> Bools:
    # Entries for powers of two between others of the row that are there.
    gaps = np.zeros(there.shape, np.bool_)
    for row in range(len(there)):
        columns = np.flatnonzero(there[row][_FIRST_POWER:]) + _FIRST_POWER
        if len(columns):
            gaps[row, columns[0] : columns[-1]] = ~there[row, columns[0] : columns[-1]]
    return gaps


def _why(known: Bools, bytes_of: U64, wanted: U64, row: int, column: int) -> str:
    size = int(wanted[row, column])
    if not known[row, column]:
        return "leads to no slab cache" if size else "is for no size, and is there"
    if not size:
        return "is for no size, and is there"
    return f"leads to a cache for objects of {int(bytes_of[row, column])} bytes, not {size}"


def usual_owner(owners: I64) -> Optional[int]:
    """
    Return the position of the cache that structures of one kind are from.

    ``None`` unless nine of ten of those that lie in a slab lie in one of it.

    :param owners: Of the slab that each structure lies in, the cache; -1 for none.
    """
    inside = owners[owners >= 0]
    found, times = np.unique(inside, return_counts=True)
    if len(inside) < _FEWEST or 10 * int(times.max()) < 9 * len(inside):
        return None
    return int(found[times.argmax()])
