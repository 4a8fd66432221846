# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Freelists of CPUs (SLUB to Linux 6.19)
--------------------------------------

The free objects of a CPU's slab that are the CPU's own, ``kmem_cache_cpu.freelist``.
"""

from __future__ import annotations

from typing import Mapping, Tuple

import numpy as np

from ...codes import ADDRESS
from ...index import SlabIndex
from ...ledger import I64, U64, Containers, Ledger, Suspect, Walk
from ..arrays import local_rows
from .cache import SlubCache
from .cpuslabs import CpuSlabs
from .freelists import FreelistReader


def enter_cpu_freelists(
    cpus: CpuSlabs,
    reader: FreelistReader,
    cache: SlubCache,
    rows: I64,
    index: SlabIndex,
    ledger: Ledger,
    places: Mapping[str, int],
) -> Tuple[Containers, U64]:
    """
    Enter the freelists that CPUs have of one cache, and return them and what they begin with.

    :param rows: Rows of the index that are the rows of ``ledger.slabs``.
    :param places: Numbers of places, by name.
    """
    mine = cpus.rows_of(cache.number)
    mine = mine[cpus.freelist[mine] != 0]
    home = local_rows(rows, cpus.slab_row[mine])
    theirs = Containers.build(
        len(mine),
        place=places["cpu freelist"],
        owner=cpus.cpu[mine],
        address=cpus.rows.addresses[mine],
        slab=home,
        walked=0,
        state=Walk.WHOLE,
    )
    # A CPU whose slab is none of the cache's is told of elsewhere.
    homeless = (home < 0) & (cpus.slab[mine] == 0)
    for box in np.flatnonzero(homeless).tolist():
        ledger.suspects.append(_homeless(cache, theirs, box, cpus.freelist[mine], index))
    at, first = cpus.rows.structure.offset("freelist"), len(ledger.claims)
    theirs, heads = theirs.take(home >= 0), cpus.freelist[mine][home >= 0]
    reader.enter(ledger, theirs, heads, at)
    if not index.machine.structure("struct kmem_cache_cpu").has("lock"):
        # deactivate_slab() gives all back, one by one, from the first on, which leads to what
        # is free already, before the CPU has none. Since Linux 5.15, in which CPUs have a lock
        # for their slabs, they have none by then.
        claims = ledger.claims
        claims.passing[first:] |= claims.position[first:] <= 1
    return theirs, heads


def _homeless(
    cache: SlubCache, boxes: Containers, box: int, heads: U64, index: SlabIndex
) -> Suspect:
    # While a CPU slab is given back, slab is cleared just before freelist.
    head = int(heads[box])
    row = int(index.rows_of_addresses(np.array([head], np.uint64))[0])
    ours = row >= 0 and int(index["slab_cache"][row]) == cache.facts.address
    return Suspect(
        "container-state",
        f"freelist of CPU {boxes.owner[box]} begins at 0x{head:x}, but the CPU has no slab",
        cpu=int(boxes.owner[box]),
        place="cpu slab",
        address=int(boxes.address[box]),
        found=head,
        word=int(boxes.address[box])
        + index.machine.structure("struct kmem_cache_cpu").offset("freelist"),
        measure=ADDRESS,
        moving=ours and bool(index["frozen"][row]),
    )
