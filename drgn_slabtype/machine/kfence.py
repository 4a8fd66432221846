# SPDX-License-Identifier: LGPL-2.1-or-later
"""
KFENCE's pool
-------------

The pool's object pages carry the slab mark but are slabs of no cache: on no
list, in no counter, with fields that go stale. They are recognised first and
accounted for by KFENCE's own metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, NamedTuple, Tuple

import numpy as np
from drgn import FaultError, TypeKind, sizeof

from ..regions import Region, region
from .columns import Rows
from .memory import U64

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
    metadata itself tells where it ends.
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
    pieces = []
    count = 0
    while True:
        want = min(_STEP, known - count) if known else _STEP
        addresses = first + np.arange(count, count + want, dtype=np.uint64) * np.uint64(step)
        rows = machine.rows(name, addresses)
        home = start + np.arange(count + 1, count + want + 1, dtype=np.uint64) * np.uint64(2 * page)
        fits = rows.ok & (rows["addr"] & ~np.uint64(page - 1) == home)
        good = int(np.argmin(fits)) if not fits.all() else want
        pieces.append(rows)
        count += good
        if good < want or (known and count >= known):
            break
    return KfencePool(start, start + 2 * (count + 1) * page, tuple(pieces))


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the pool, masked, and what KFENCE knows about each of its objects."""
    pool = machine.settled(kfence_pool)
    if pool.start:
        yield region("KFENCE", pool.start, pool.end - pool.start, masked=True)
        for rows in pool.metadata:
            yield region("KFENCE", rows.addresses[rows.ok], rows.structure.size, code=True)
