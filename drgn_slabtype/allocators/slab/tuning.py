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

from ...codes import OBJECTS
from ...distinct import distinct
from ...ledger import I64, Bools, Suspect
from ...records import plural
from ...rules.alike import usual
from ...rules.members import Tuning
from ..nodes import Nodes
from ..pointers import as_shared, wild_pointer
from .arrays import ALIEN, CPU, PLACES, SHARED, ArrayCaches

# What shared and alien arrays hold in batchcount, which they do not use.
_NO_BATCHCOUNT = 0xBAADF00D
_MOST_ENTRIES = 1 << 16  # more than any array cache is tuned to


class Tuned(NamedTuple):
    """What is known of the arrays before their entries are: columns beside theirs."""

    limit: I64
    """What the limit of each must be; its own where nothing tells."""
    batchcount: I64
    """What the batchcount of each must be."""
    sound: Bools
    """Which are what they should be."""
    trusted: Bools
    """Which count no more entries than they may have, so that those can be read."""


def judge_arrays(arrays: ArrayCaches, limits: I64, batches: I64) -> Tuned:
    """
    Tell which arrays are what they should be.

    :param limits: ``limit`` of every cache.
    :param batches: ``batchcount`` of every cache.
    """
    is_cpu = arrays.kind == CPU
    limit = np.where(is_cpu, limits[arrays.cache], arrays.limit)
    batch = np.where(is_cpu, batches[arrays.cache], _NO_BATCHCOUNT)
    alien = arrays.kind == ALIEN
    agreed = usual(arrays.limit[alien & arrays.ok].astype(np.uint64))
    if agreed is not None:
        # One that holds single objects has alien arrays for one.
        limit[alien] = np.where(limits[arrays.cache[alien]] > 1, agreed, arrays.limit[alien])
    # While a cache is tuned, all of them are new, and its own limit still the old one.
    for number in distinct(arrays.cache[is_cpu]).tolist():
        mine = arrays.rows_of(number)
        tuning = common_tuning(arrays, mine)
        if tuning is not None:
            limit[mine[is_cpu[mine]]] = tuning.limit
            batch[mine[is_cpu[mine]]] = tuning.batchcount
    sound = arrays.ok & (arrays.batchcount == batch) & (arrays.limit == limit)
    sound &= (arrays.limit <= _MOST_ENTRIES) & (arrays.touched <= 1)
    trusted = sound & (arrays.avail <= arrays.limit) & (arrays.avail <= _MOST_ENTRIES)
    return Tuned(limit, batch, sound, trusted)


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
    Yield the arrays that are nowhere, or another's as well.

    :param mine: The arrays of one cache.
    """
    # All CPUs' follow from one pointer, which is compared with that of other caches.
    for row in mine[arrays.wild[mine] | arrays.again[mine]].tolist():
        node, cpu = _owners(arrays, row)
        at, place = int(arrays.address[row]), PLACES[arrays.kind[row]].name
        word = int(arrays.holder[row]) or None
        one = wild_pointer(arrays.name(row), at, node=node, cpu=cpu, place=place, word=word)
        yield one if arrays.wild[row] else as_shared(one)


def unsound_arrays(arrays: ArrayCaches, tuned: Tuned, mine: I64) -> Iterator[Suspect]:
    """
    Yield the arrays that are not what they should be.

    :param mine: The arrays of one cache.
    """
    for row in mine[arrays.ok[mine] & ~tuned.sound[mine] & ~arrays.wild[mine]].tolist():
        yield _unsound(arrays, tuned, row)


def untuned_arrays(
    arrays: ArrayCaches,
    tuned: Tuned,
    mine: I64,
    shared: int,
    own: Tuning,
    agreed: Tuning,
    limit: int,
) -> Iterator[Suspect]:
    """
    Yield the shared arrays, and the cache's own numbers, that do not fit the CPUs' arrays.

    While a cache is tuned, some of these are new and some are not.

    :param mine: The arrays of one cache.
    :param shared: ``shared`` of the cache: how many batches a shared array may hold.
    :param own: What the cache itself says.
    :param agreed: What :func:`common_tuning` says.
    :param limit: Where an array has its limit, in bytes.
    """
    for member, kept, should in (
        ("limit", own.limit, agreed.limit),
        ("batchcount", own.batchcount, agreed.batchcount),
    ):
        if kept != should and 0 < own.batchcount <= own.limit:
            what = f"{member} is {kept}, and the arrays of its CPUs have {should}"
            yield Suspect(
                "container-state",
                what,
                place="tuning",
                expected=should,
                found=kept,
                moving=kept <= _MOST_ENTRIES,
                member=member,
                measure=OBJECTS,
            )
    should = shared * agreed.batchcount
    theirs = mine[(arrays.kind[mine] == SHARED) & tuned.sound[mine] & ~arrays.wild[mine]]
    for row in theirs[arrays.limit[theirs] != should].tolist():
        found, node = int(arrays.limit[row]), int(arrays.owner[row])
        what = f"{arrays.name(row)} has limit {found}, and shared is {shared}"
        yield Suspect(
            "container-state",
            what,
            node=node,
            place="tuning",
            expected=should,
            found=found,
            measure=OBJECTS,
            moving=True,
            member="limit",
            word=int(arrays.address[row]) + limit,
        )


def wrong_limits(
    nodes: Nodes, number: int, num: int, batchcount: int, cpus: int
) -> Iterator[Suspect]:
    """
    Yield the nodes of a cache that may not keep as many free objects as they say.

    ``free_limit`` is a slab and a batch for each CPU of the node, as many as there
    were when one last came up, and one more. While a cache is tuned, it is the old one.

    :param number: Position of the cache.
    :param num: Objects of its slabs.
    :param batchcount: What the arrays of all its CPUs agree on.
    """
    for row in np.flatnonzero((nodes.cache == number) & nodes.rows.ok).tolist():
        kept = int(nodes.rows["free_limit"][row])
        times, beside = divmod(kept - num, batchcount)
        if beside or not 1 <= times <= 1 + cpus:
            what = f"free_limit is {kept}, with {plural(num, 'object')} a slab and a batchcount of "
            yield Suspect(
                "container-state",
                f"{what}{batchcount}",
                node=int(nodes.nid[row]),
                place="tuning",
                found=kept,
                moving=True,
                member="free_limit",
                word=int(nodes.rows.addresses[row]) + nodes.rows.structure.offset("free_limit"),
                measure=OBJECTS,
            )


def _unsound(arrays: ArrayCaches, tuned: Tuned, row: int) -> Suspect:
    member, expected, found = "limit", int(tuned.limit[row]), int(arrays.limit[row])
    what = f"limit {found}, not {expected}"
    if found == expected:
        member, expected = "batchcount", int(tuned.batchcount[row])
        found = int(arrays.batchcount[row])
        what = f"batchcount 0x{found:x}, not 0x{expected:x}"
    if found == expected:
        member, expected, found = "touched", 1, int(arrays.touched[row])
        what = f"touched {found}, more than {expected}"
    if found in (0, 1) and expected == 1:
        member, expected, found = "limit", _MOST_ENTRIES, int(arrays.limit[row])
        what = f"limit {found}, more than {expected}"
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
        member=member,
        measure=None if member == "touched" else OBJECTS,
    )


def _owners(arrays: ArrayCaches, row: int) -> Tuple[Optional[int], Optional[int]]:
    # Node and CPU: one of them owns it.
    owner = int(arrays.owner[row])
    return (None, owner) if arrays.kind[row] == CPU else (owner, None)
