# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where a SLUB slab may stand
---------------------------

What ``frozen``, the freelist and the partial mark say together about where a
slab must be has changed twice; see :class:`Era`.
"""

from __future__ import annotations

import enum

import numpy as np
from drgn import Program

from ..columns import structure
from ..index import SlabIndex
from ..ledger import I64, U64, Bools, ListKind
from .slubcache import SlubCache


class Era(enum.Enum):
    """How the state of a slab shows."""

    FROZEN = "frozen"
    """To Linux 6.7: a frozen slab belongs to a CPU, as its slab or in its chain."""
    MARKED = "marked"
    """Since Linux kernel commit 8cd3fa428b56 ("slub: Delay freezing of partial
    slabs") (in v6.8): frozen is the CPU slab alone, and a slab on a node's
    partial list carries a mark (PG_workingset, later SL_partial)."""
    CPULESS = "cpuless"
    """Since Linux kernel commit 32c894c7274b ("slab: remove struct
    kmem_cache_cpu") (in v7.0): no CPU has slabs."""
    UNKNOWN = "unknown"
    """FROZEN or MARKED: no slab of the machine tells which."""


def partial_mark(prog: Program) -> int:
    """Return the bit of ``slab->flags`` that marks a slab on a partial list."""
    # Since Linux kernel commit 5efd3ac2d5e8 (in v6.17), enum slab_flags names
    # the bits that slabs use of the page flags.
    for name in ("SL_partial", "PG_workingset"):
        try:
            return 1 << int(prog[name])
        except LookupError:
            pass
    return 0


def detect_era(prog: Program, index: SlabIndex, on_partial: I64) -> Era:
    """
    Tell the eras apart by the slabs themselves: no type or symbol does.

    :param on_partial: Rows of all slabs on node partial lists.
    """
    cache = structure(prog, "struct kmem_cache")
    if not cache.has("cpu_slab") and cache.has("cpu_sheaves"):
        return Era.CPULESS
    mark = np.uint64(partial_mark(prog))
    if not len(on_partial):
        return Era.UNKNOWN
    marked = np.count_nonzero(index.flags[on_partial] & mark)
    return Era.MARKED if 2 * marked > len(on_partial) else Era.FROZEN


def allowed_lists(
    era: Era, cache: SlubCache, frozen: Bools, marked: Bools, freelist: U64, full: Bools
) -> I64:
    """
    Return the :class:`~drgn_slabtype.ledger.ListKind` bits each slab may stand on.

    :param frozen: ``slab->frozen``.
    :param marked: Whether the partial mark is set.
    :param full: Whether every object is in use by the slab's own count.
    """
    resting = ListKind.FULL if cache.store_user else ListKind.NOWHERE
    taken = freelist == 0
    cpu = ListKind.CPU_SLAB
    if era is Era.FROZEN or era is Era.UNKNOWN:
        cpu |= ListKind.CPU_PARTIAL
    out = np.full(len(frozen), ListKind.PARTIAL, np.int64)
    if era is Era.MARKED:
        out[~marked] = ListKind.CPU_PARTIAL
    elif era is Era.CPULESS:
        out[~marked] = ListKind.DEFERRED
    elif era is Era.UNKNOWN:
        out[~marked] = ListKind.PARTIAL | ListKind.CPU_PARTIAL
    out[taken] = resting
    out[frozen] = cpu
    # The kernel's own checks freeze a slab they take out of service.
    if cache.debug:
        out[frozen & full & taken] |= ListKind.NOWHERE
    return out


def in_transit(era: Era, frozen: Bools, marked: Bools, freelist: U64) -> Bools:
    """
    Return which slabs have the state of one taken off its list, or not yet on one.

    A slab being loaded, flushed, refilled from, shrunk or new is in no list
    that can be found from the cache.
    """
    if era is Era.FROZEN:
        return frozen
    if era is Era.UNKNOWN:
        return frozen | (freelist != 0)
    return frozen | (~marked & (freelist != 0))
