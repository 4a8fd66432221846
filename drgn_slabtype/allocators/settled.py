# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a cache is read by
-----------------------

Everything about a cache is read by its ``size``, and all of SLAB's by the order and
the number of objects of its slabs: where objects begin, whose an address is, whether a
pointer of another cache leads to an object at all. One bit of them wrong would be told
of all of that. But these words follow from each other, and others from them: where
all others agree on what one should be, the cache is read by that, and the word in
memory is damaged.
"""

from __future__ import annotations

from typing import Dict, Mapping, Optional, Set

import numpy as np

from ..codes import OBJECTS, SIZE, Measure
from ..ledger import Bools, Suspect
from ..machine.columns import Rows
from ..rules.members import MAX_OBJECTS, MAX_ORDER
from ..rules.reciprocal import Reciprocal, reciprocal_values
from .members import at_member

_INDEX_SIZES = (1, 2)  # bytes that an object has in an index array of SLAB
_ORDERS = range(11)  # of slabs that are made


def settle_caches(rows: Rows, page_size: int) -> Mapping[int, Suspect]:
    """
    Put members right, in this copy of the caches, that all else of their cache contradicts.

    :param rows: ``struct kmem_cache`` each.
    :param page_size: Bytes of a page.
    :return: What is to be said of the words in memory, by row.
    """
    found: Dict[int, Suspect] = {}
    is_slub = rows.structure.has("oo")
    for row in np.flatnonzero(_odd_sizes(rows, is_slub)).tolist():
        size = _reciprocal(rows, row, is_slub).divisor
        if size is None or int(rows["object_size"][row]) > size:
            continue
        if (_fits_slub if is_slub else _fits_slab)(rows, row, size, page_size):
            by = "reciprocal_size and oo" if is_slub else "reciprocal_buffer_size and num"
            found[row] = _put(rows, row, "size", size, by, SIZE)
    if not is_slub:
        for row in np.flatnonzero(rows.ok & ~_fit(rows, page_size)).tolist():
            _settle_slab(rows, row, page_size, found)
    return found


def _put(
    rows: Rows, row: int, member: str, value: int, by: str, measure: Optional[Measure]
) -> Suspect:
    kept = int(rows[member][row])
    what = f"{member} is {kept}, where {by} say {value}"
    said = Suspect("cache-wrong", what, expected=value, found=kept, member=member, measure=measure)
    (suspect,) = at_member(rows, row, [said])
    rows.put(member, row, value)
    return suspect


# Sizes -----------------------------------------------------------------------


def _reciprocal(rows: Rows, row: int, is_slub: bool) -> Reciprocal:
    name = "reciprocal_size" if is_slub else "reciprocal_buffer_size"
    return Reciprocal(*(int(rows[f"{name}.{part}"][row]) for part in Reciprocal._fields))


def _odd_sizes(rows: Rows, is_slub: bool) -> Bools:
    name = "reciprocal_size" if is_slub else "reciprocal_buffer_size"
    if not rows.structure.has(name):
        return np.zeros(len(rows), np.bool_)
    kept = np.array([rows[f"{name}.{part}"] for part in Reciprocal._fields])
    odd: Bools = rows.ok & (reciprocal_values(rows["size"]) != kept).any(axis=0)
    return odd


def _fits_slub(rows: Rows, row: int, size: int, page_size: int) -> bool:
    for name in ("oo.x", "min.x"):
        order, objects = divmod(int(rows[name][row]), 1 << 16)
        if min((page_size << min(order, MAX_ORDER)) // size, MAX_OBJECTS) != objects:
            return False
    return True


def _fits_slab(rows: Rows, row: int, size: int, page_size: int) -> bool:
    span = page_size << min(int(rows["gfporder"][row]), MAX_ORDER)
    return int(rows["num"][row]) in {span // (size + index) for index in (0, *_INDEX_SIZES)}


# Orders and numbers of SLAB --------------------------------------------------


def _fit(rows: Rows, page_size: int) -> Bools:
    # Where so many objects, with or without their indexes, are what a slab has room for.
    order = np.minimum(rows["gfporder"], np.uint64(MAX_ORDER))
    span, size = np.uint64(page_size) << order, np.maximum(rows["size"], np.uint64(1))
    fit = np.zeros(len(rows), np.bool_)
    for index in (0, *_INDEX_SIZES):
        fit |= span // (size + np.uint64(index)) == rows["num"]
    return fit


def _settle_slab(rows: Rows, row: int, page_size: int, found: Dict[int, Suspect]) -> None:
    num, order = int(rows["num"][row]), min(int(rows["gfporder"][row]), MAX_ORDER)
    numbers = _numbers(rows, row, page_size << order)
    if len(numbers) == 1:
        by = "freelist_size, gfporder and size"
        found[row] = _put(rows, row, "num", numbers.pop(), by, OBJECTS)
        return
    orders = [one for one in _ORDERS if num in _numbers(rows, row, page_size << one)]
    if len(orders) == 1:
        found[row] = _put(rows, row, "gfporder", orders[0], "num, freelist_size and size", None)


def _numbers(rows: Rows, row: int, span: int) -> Set[int]:
    # How many objects a slab can have by the bytes of its index array.
    size, bytes = max(int(rows["size"][row]), 1), int(rows["freelist_size"][row])
    return {
        bytes // index
        for index in _INDEX_SIZES
        if bytes % index == 0 and bytes // index in (span // size, span // (size + index))
    }
