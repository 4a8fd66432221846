# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where a SLUB slab may stand
---------------------------

What ``frozen``, the freelist and the partial mark say together about where a
slab must be has changed twice; see :class:`Era`.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

import numpy as np

from ...index import SlabIndex
from ...ledger import I64, U64, Bools, ListKind
from ...machine import Machine
from .cache import SlubCache


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


def partial_mark(machine: Machine) -> int:
    """Return the bit of ``slab->flags`` that marks a slab on a partial list."""
    # Since Linux kernel commit 5efd3ac2d5e8 (in v6.17), enum slab_flags names
    # the bits that slabs use of the page flags.
    for name in ("SL_partial", "PG_workingset"):
        try:
            return 1 << int(machine.prog[name])
        except LookupError:
            pass
    return 0


def detect_era(machine: Machine, index: SlabIndex, on_partial: I64) -> Era:
    """
    Tell the eras apart by the slabs themselves: no type or symbol does.

    :param on_partial: Rows of all slabs on node partial lists.
    """
    cache = machine.structure("struct kmem_cache")
    # With CONFIG_SLUB_TINY, no CPU has slabs either, since Linux 6.2.
    marking = Era.MARKED if cache.has("cpu_slab") else Era.CPULESS
    if marking is Era.CPULESS and cache.has("cpu_sheaves"):
        return Era.CPULESS
    mark = np.uint64(partial_mark(machine))
    if not len(on_partial):
        return Era.UNKNOWN
    marked = np.count_nonzero(index.flags[on_partial] & mark)
    return marking if 2 * marked > len(on_partial) else Era.FROZEN


class States(NamedTuple):
    """What slabs say about where they stand."""

    frozen: Bools
    """``slab->frozen``."""
    marked: Bools
    """Whether the partial mark is set."""
    freelist: U64
    full: Bools
    """Whether every object is in use by the slab's own count."""


def allowed_lists(era: Era, cache: SlubCache, states: States) -> I64:
    """Return the :class:`~drgn_slabtype.ledger.ListKind` bits each slab may stand on."""
    frozen, marked, freelist, full = states
    taken = freelist == 0
    cpu = ListKind.CPU_SLAB
    if era is Era.FROZEN or era is Era.UNKNOWN:
        cpu |= ListKind.CPU_PARTIAL
    if era is Era.CPULESS:
        cpu = ListKind.DEFERRED
    out = np.full(len(frozen), ListKind.PARTIAL, np.int64)
    if era is Era.MARKED:
        out[~marked] = ListKind.CPU_PARTIAL
    elif era is Era.CPULESS:
        out[~marked] = ListKind.DEFERRED
    elif era is Era.UNKNOWN:
        out[~marked] = ListKind.PARTIAL | ListKind.CPU_PARTIAL
    out[taken] = _resting(cache)
    out[frozen] = cpu
    # The kernel's own checks freeze a slab they take out of service.
    if cache.debug:
        out[frozen & full & taken] |= ListKind.NOWHERE
    if era in (Era.MARKED, Era.CPULESS):
        out[marked] &= ListKind.PARTIAL
    return out


def fitting_lists(era: Era, cache: SlubCache, states: States) -> I64:
    """Return the same by the slabs' freelists alone."""
    cpus = ListKind(0) if era is Era.CPULESS else ListKind.CPU_SLAB
    some = ListKind.PARTIAL | cpus
    if era is not Era.CPULESS:
        some |= ListKind.CPU_PARTIAL
    return np.where(states.freelist == 0, _resting(cache) | cpus, some).astype(np.int64)


def _resting(cache: SlubCache) -> ListKind:
    # Where a slab without a free object of its own stands.
    return ListKind.FULL if cache.store_user else ListKind.NOWHERE


def in_transit(era: Era, states: States) -> Bools:
    """
    Return which slabs have the state of one taken off its list, or not yet on one.

    A slab being loaded, flushed, refilled from, shrunk or new is in no list
    that can be found from the cache.
    """
    free = states.freelist != 0
    if era is Era.FROZEN:
        return states.frozen
    if era is Era.UNKNOWN:
        return states.frozen | free
    if era is Era.CPULESS:
        return ~states.frozen & ~states.marked & free
    return (states.frozen | free) & ~states.marked
