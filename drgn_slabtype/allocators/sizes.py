# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The size of a cache's slots, by more than one word
--------------------------------------------------

Everything about a cache is read by its ``size``: where objects begin, whose an
address is, whether a pointer of another cache leads to an object at all. One bit
of it wrong would be told of all of that. But two other words of a cache follow
from it: what is multiplied with instead of dividing by it, and how many objects a
slab has. Where both say another size, it is that one that the cache is read by,
and the word in memory is damaged.
"""

from __future__ import annotations

from typing import Dict, Iterator, Mapping, Tuple

import numpy as np

from ..codes import SIZE
from ..ledger import Suspect
from ..machine.columns import Rows
from ..rules.members import MAX_OBJECTS, MAX_ORDER
from ..rules.reciprocal import Reciprocal, reciprocal_values

_MOST_INDEX = 2  # bytes that an object's index takes in a slab of SLAB


def settle_sizes(rows: Rows, page_size: int) -> Mapping[int, int]:
    """
    Put sizes right, in this copy of the caches, that all else of their cache contradicts.

    :param rows: ``struct kmem_cache`` each.
    :param page_size: Bytes of a page.
    :return: The sizes in memory, by row.
    """
    kept: Dict[int, int] = {}
    is_slub = rows.structure.has("oo")
    member = "reciprocal_size" if is_slub else "reciprocal_buffer_size"
    if not rows.structure.has(member):
        return kept
    parts = [rows[f"{member}.{part}"] for part in Reciprocal._fields]
    wrong = rows.ok & (reciprocal_values(rows["size"]) != np.array(parts)).any(axis=0)
    for row in np.flatnonzero(wrong).tolist():
        size = Reciprocal(*(int(part[row]) for part in parts)).divisor
        if size is None or int(rows["object_size"][row]) > size:
            continue
        if (_fits_slub if is_slub else _fits_slab)(rows, row, size, page_size):
            kept[row] = int(rows["size"][row])
            rows.put("size", row, size)
    return kept


def _fits_slub(rows: Rows, row: int, size: int, page_size: int) -> bool:
    for name in ("oo.x", "min.x"):
        order, objects = divmod(int(rows[name][row]), 1 << 16)
        if min((page_size << min(order, MAX_ORDER)) // size, MAX_OBJECTS) != objects:
            return False
    return True


def _fits_slab(rows: Rows, row: int, size: int, page_size: int) -> bool:
    span = page_size << min(int(rows["gfporder"][row]), MAX_ORDER)
    return int(rows["num"][row]) in {span // (size + index) for index in range(_MOST_INDEX + 1)}


def damaged_sizes(rows: Rows, kept: Mapping[int, int]) -> Iterator[Tuple[int, Suspect]]:
    """
    Yield what is to be said of sizes that were put right, with the row of each.

    :param kept: The sizes in memory, by row.
    """
    names = "reciprocal_buffer_size and num"
    if rows.structure.has("oo"):
        names = "reciprocal_size and oo"
    for row, found in kept.items():
        size = int(rows["size"][row])
        what = f"size is {found}, where {names} say {size}"
        yield (
            row,
            Suspect("cache-wrong", what, expected=size, found=found, member="size", measure=SIZE),
        )
