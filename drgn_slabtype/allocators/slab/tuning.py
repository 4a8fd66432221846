# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How SLAB's array caches are tuned
---------------------------------

Every array says how many objects it may hold. All arrays of a cache's CPUs are
made together and say the same; shared and alien arrays have a mark where those
of CPUs have the number of objects they give away at a time.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np

from ...ledger import I64, Bools, Suspect
from ...rules.members import Tuning
from ..pointers import wild_pointer
from .arrays import CPU, PLACES, ArrayCaches

# What shared and alien arrays hold in batchcount, which they do not use.
_NO_BATCHCOUNT = 0xBAADF00D
_MOST_ENTRIES = 1 << 16  # more than any array cache is tuned to


class Tuned(NamedTuple):
    """What is known of the arrays before their entries are: columns beside theirs."""

    limit: I64
    """What the limit of each must be; its own where nothing tells."""
    sound: Bools
    """Which are what they should be."""
    trusted: Bools
    """Which count no more entries than they may have, so that those can be read."""


def judge_arrays(arrays: ArrayCaches, limits: I64) -> Tuned:
    """
    Tell which arrays are what they should be.

    :param limits: ``limit`` of every cache.
    """
    is_cpu = arrays.kind == CPU
    limit = np.where(is_cpu, limits[arrays.cache], arrays.limit)
    # While a cache is tuned, all of them are new, and its own limit still the old one.
    for number in np.unique(arrays.cache[is_cpu]).tolist():
        mine = arrays.rows_of(number)
        tuning = common_tuning(arrays, mine)
        if tuning is not None:
            limit[mine[is_cpu[mine]]] = tuning.limit
    own_batch = is_cpu | (arrays.batchcount == _NO_BATCHCOUNT)
    sound = arrays.ok & own_batch & (arrays.limit == limit)
    trusted = sound & (arrays.avail <= arrays.limit) & (arrays.avail <= _MOST_ENTRIES)
    return Tuned(limit, sound, trusted)


def common_tuning(arrays: ArrayCaches, mine: I64) -> Optional[Tuning]:
    """
    Return how the arrays of all CPUs are tuned, if they agree on what a cache can be tuned to.

    :param mine: The arrays of one cache.
    """
    cpus = mine[arrays.kind[mine] == CPU]
    limits, batches = arrays.limit[cpus], arrays.batchcount[cpus]
    if not len(cpus) or (limits != limits[0]).any() or (batches != batches[0]).any():
        return None
    limit, batchcount = int(limits[0]), int(batches[0])
    return Tuning(limit, batchcount) if 0 < batchcount <= limit <= _MOST_ENTRIES else None


def lost_arrays(arrays: ArrayCaches, mine: I64) -> Iterator[Suspect]:
    """
    Yield the arrays that are nowhere.

    :param mine: The arrays of one cache.
    """
    for row in mine[arrays.wild[mine]].tolist():
        node, cpu = _owners(arrays, row)
        at, place = int(arrays.address[row]), PLACES[arrays.kind[row]].name
        yield wild_pointer(arrays.name(row), at, node=node, cpu=cpu, place=place)


def unsound_arrays(arrays: ArrayCaches, tuned: Tuned, mine: I64) -> Iterator[Suspect]:
    """
    Yield the arrays that are not what they should be.

    :param mine: The arrays of one cache.
    """
    for row in mine[arrays.ok[mine] & ~tuned.sound[mine] & ~arrays.wild[mine]].tolist():
        yield _unsound(arrays, tuned, row)


def _unsound(arrays: ArrayCaches, tuned: Tuned, row: int) -> Suspect:
    expected, found = int(tuned.limit[row]), int(arrays.limit[row])
    what = f"limit {found}, not {expected}"
    if found == expected:
        expected, found = _NO_BATCHCOUNT, int(arrays.batchcount[row])
        what = f"batchcount 0x{found:x}, not 0x{expected:x}"
    node, cpu = _owners(arrays, row)
    return Suspect(
        "container-state",
        f"{arrays.name(row)} at 0x{arrays.address[row]:x} has {what}",
        node=node,
        cpu=cpu,
        place=PLACES[arrays.kind[row]].name,
        expected=expected,
        found=found,
        address=int(arrays.address[row]),
    )


def _owners(arrays: ArrayCaches, row: int) -> Tuple[Optional[int], Optional[int]]:
    # Node and CPU: one of them owns it.
    owner = int(arrays.owner[row])
    return (None, owner) if arrays.kind[row] == CPU else (owner, None)
