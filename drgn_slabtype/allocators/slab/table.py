# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The slabs of one cache, as a table
----------------------------------

What their struct pages say, which of them are made unlike others of the cache,
and what their nodes count of them.
"""

from __future__ import annotations

from typing import Dict, Iterator

import numpy as np

from ...index import SlabIndex
from ...ledger import I64, Ledger, ListKind, Memberships, Slabs, Suspect
from ..base import Ownership
from ..members import at_member
from ..misfits import wrong_slabs
from ..nodes import Nodes
from .cache import SlabCache
from .state import allowed_lists, in_transit
from .view import SlabView

_MOST_ENTRIES = 1 << 16  # more than any array cache is tuned to


def read_slabs(
    view: SlabView, index: SlabIndex, cache: SlabCache, rows: I64, owner: Ownership, nodes: Nodes
) -> Slabs:
    """
    Return the table of some slabs.

    :param rows: Of the index.
    """
    active = view.active[rows]
    held = nodes.nid[(nodes.cache == cache.number) & nodes.held]
    return Slabs.build(
        len(rows),
        page=index.pages[rows],
        base=view.first[rows] + np.uint64(cache.obj_offset),
        objects=np.full(len(rows), cache.num, np.int64),
        counted=active,
        nid=index.nids[rows],
        order=cache.order,
        readable=cache.order,
        word=index.words[rows].astype(np.int64),
        marked=index.marked[rows],
        cache_pointer=index["slab_cache"][rows],
        told=owner.told[rows] == cache.number,
        allowed=allowed_lists(active, cache.num),
        transit=in_transit(cache, active, view.loose[rows]),
        busy=np.isin(index.nids[rows], held),
        excused=view.detached[rows],
    )


def misfits(view: SlabView, index: SlabIndex, cache: SlabCache, rows: I64) -> Iterator[Suspect]:
    """Yield the slabs that are made unlike the cache says."""
    start, first = index.addresses[rows], view.told[rows]
    colour = first - start
    off_colour = colour % np.uint64(cache.colour_off) != 0
    off_colour |= colour >= np.uint64(cache.colours * cache.colour_off)
    what = "first object is on no colour of this cache"
    yield from wrong_slabs("slab-base-wrong", what, off_colour, start, first)
    orders, should = index.orders[rows], np.full(len(rows), cache.order)
    what = "compound order is not the cache's"
    yield from wrong_slabs("slab-order-wrong", what, orders != should, should, orders)


def node_misfits(cache: SlabCache, nodes: Nodes) -> Iterator[Suspect]:
    """Yield the nodes of a cache that say neither yes nor no where they can say nothing else."""
    touched = nodes.rows["free_touched"]
    for row in np.flatnonzero((nodes.cache == cache.number) & (touched > 1)).tolist():
        found = int(touched[row])
        what = f"free_touched is 0x{found:x}, neither 0 nor 1"
        one = Suspect(
            "container-state",
            what,
            node=int(nodes.nid[row]),
            place="free_touched",
            found=found,
            member="free_touched",
        )
        yield from at_member(nodes.rows, row, [one])


def note_detached(ledger: Ledger) -> None:
    """Note how many slabs are outside the accounting."""
    detached = np.count_nonzero(ledger.slabs.excused)
    if detached:
        what = f"{detached} empty slabs wait on no list for RCU to give back their pages"
        ledger.notes.append(Suspect("slab-detached", what))


def enter_counters(ledger: Ledger, cache: SlabCache, nodes: Nodes) -> None:
    """Enter what the nodes count beside what their slabs add up to."""
    members, slabs = ledger.memberships, ledger.slabs
    free = slabs.objects - slabs.counted

    def on_lists(nid: int) -> Memberships:
        return members.take((members.owner == nid) & (members.slab >= 0))

    def empty(nid: int) -> int:
        return int((on_lists(nid).kind == ListKind.FREE).sum())

    ledger.counters += nodes.counters(
        cache.number,
        {
            "total_slabs": ("node-list-length", lambda nid: len(on_lists(nid))),
            "free_slabs": ("node-list-length", empty),
            "free_objects": ("node-free-objects", lambda nid: int(free[on_lists(nid).slab].sum())),
        },
        moves=_moves(cache),
    )


def _moves(cache: SlabCache) -> Dict[str, int]:
    # Slabs are counted one by one; objects by the arrayful, or by the slab.
    objects = max(cache.num, *(min(most, _MOST_ENTRIES) for most in cache.arrayfuls))
    return {"total_slabs": 1, "free_slabs": 1, "free_objects": objects}
