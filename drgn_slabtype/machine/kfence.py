# SPDX-License-Identifier: LGPL-2.1-or-later
"""
KFENCE's pool
-------------

The pool's object pages carry the slab mark but are slabs of no cache: on no
list, in no counter, with fields that go stale. They are recognised first and
accounted for by KFENCE's own metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Tuple

import numpy as np
from drgn import FaultError, TypeKind, sizeof

from ..regions import Region, region
from .columns import Rows
from .memory import U64, Bools

if TYPE_CHECKING:
    from . import Machine

_LARGEST_POOL = 1 << 33  # 65535 objects of two pages, of 64 KiB each
_STEP = 256  # metadata entries read at a time; CONFIG_KFENCE_NUM_OBJECTS is 255 by default


class KfencePool(NamedTuple):
    """The pool and the state of its objects."""

    start: int
    """Virtual address of the pool in the direct map; 0 if there is none."""
    end: int
    metadata: Tuple[Rows, ...]
    """``struct kfence_metadata`` of all objects, in pieces."""

    def contains(self, addresses: U64) -> np.ndarray[Tuple[int], np.dtype[np.bool_]]:
        """Return which addresses lie in the pool."""
        return (addresses >= np.uint64(self.start)) & (addresses < np.uint64(self.end))


def kfence_pool(machine: Machine) -> KfencePool:
    """
    Find KFENCE's pool (Linux 5.12 on).

    The number of objects is a configuration value that no symbol tells. Each
    object's metadata holds an address in that object's own page, so the
    metadata itself tells where it ends; not one of them alone.
    """
    try:
        start = machine.prog["__kfence_pool"].value_()
        metadata = machine.prog["kfence_metadata"]
    except LookupError:
        return KfencePool(0, 0, ())
    # Since Linux kernel commit cabdf74e6b31 ("mm: kfence: allocate
    # kfence_metadata at runtime") (in v6.6), kfence_metadata is a pointer.
    if metadata.type_.unaliased_kind() == TypeKind.ARRAY:
        first, known = metadata.address_, metadata.type_.length or 0
    else:
        try:
            first, known = metadata.value_(), 0
        except FaultError:
            first = 0
    # What is no address is another finding's business (told.py).
    if not machine.memory.is_kernel_address(np.array([start, first], np.uint64)).all():
        return KfencePool(0, 0, ())
    if start >= (1 << 64) - _LARGEST_POOL:
        return KfencePool(0, 0, ())
    name = "struct kfence_metadata"
    step = sizeof(machine.prog.type(name))
    page = machine.memory.page_size
    pieces: List[Rows] = []
    there: List[int] = []
    at = 0
    while not known or at < known:
        want = min(_STEP, known - at) if known else _STEP
        addresses = first + np.arange(at, at + want, dtype=np.uint64) * np.uint64(step)
        rows = machine.rows(name, addresses)
        fits = (rows.ok & in_place(rows, start, at, page)).nonzero()[0]
        if not len(fits) and not known:
            break
        pieces.append(rows)
        there += (fits + at).tolist()
        at += want
    # One damaged word in the midst of them does not end the pool.
    count = known if known and there else there[-1] + 1 if there else 0
    if 2 * len(there) < count:
        count = next((at for at, one in enumerate(there) if one != at), len(there))
    return KfencePool(start, start + 2 * (count + 1) * page, tuple(pieces))


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


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the pool, masked, and what KFENCE knows about each of its objects."""
    pool = machine.settled(kfence_pool)
    if pool.start:
        yield region("KFENCE", pool.start, pool.end - pool.start, masked=True)
        for rows in pool.metadata:
            yield region("KFENCE", rows.addresses[rows.ok], rows.structure.size, code=True)
