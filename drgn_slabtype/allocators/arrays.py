# SPDX-License-Identifier: LGPL-2.1-or-later
"""Arrays of object addresses: from raw pointers to claims."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..index import KnownBy, SlabIndex
from ..ledger import I64, U8, U64, Bools, Claims, Containers, Ledger, State
from .over import slabs_over


def local_rows(rows: I64, wanted: I64) -> I64:
    """
    Return the rows of a cache's slabs that rows of the index have; else -1.

    :param rows: Rows of the index, ascending, that are the rows of ``ledger.slabs``.
    :param wanted: Rows of the index; -1 stays -1.
    """
    if not len(rows) or not len(wanted):
        return np.full(len(wanted), -1, np.int64)
    at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return np.where(rows[at] == wanted, at, -1).astype(np.int64)


def object_index(ledger: Ledger, slabs: I64, addresses: U64) -> I64:
    """
    Return the index of the object that begins at each address; else -1.

    :param slabs: Row of ``ledger.slabs`` that each address lies in, or -1.
    """
    table = ledger.slabs
    if not len(table):
        return np.full(len(addresses), -1, np.int64)
    offset = addresses - table.base[slabs]
    stride = np.uint64(ledger.facts.stride)
    index = (offset // stride).astype(np.int64)
    good = (slabs >= 0) & (offset % stride == 0) & (index >= 0) & (index < table.objects[slabs])
    return np.where(good, index, -1)


def enter_arrays(
    ledger: Ledger,
    index: SlabIndex,
    rows: I64,
    boxes: Containers,
    entries: U64,
    count: I64,
    states: U8,
) -> None:
    """
    Append containers that are arrays of object addresses, and their claims.

    :param rows: Rows of the index, ascending, that are the rows of ``ledger.slabs``.
    :param entries: Shape (containers, most entries).
    :param count: How many entries of each are valid.
    :param states: What each container says of its objects.
    """
    first_box = len(ledger.containers)
    valid: npt.NDArray[np.bool_] = np.arange(entries.shape[1])[None, :] < count[:, None]
    box, position = np.nonzero(valid)
    address = entries[box, position]
    # kfree_rcu() puts objects of KFENCE's pool into sheaves as any others; they
    # are in no slab of the cache, and KFENCE accounts for them.
    home = index.rows_of_addresses(address)
    # A reading of some slabs says nothing about the objects of others.
    ours = ~_guarded(ledger, index, home) & (index.whole | (local_rows(rows, home) >= 0))
    ours &= ~_since(ledger, index, rows, address, home)
    box, position, address, home = box[ours], position[ours], address[ours], home[ours]
    slab = local_rows(rows, home)
    # The allocator's own structures are in no order.
    position = np.where(states[box] == State.LIVE, -1, position)
    ledger.claims = Claims.join(
        [
            ledger.claims,
            Claims.build(
                len(box),
                place=boxes.place[box],
                container=first_box + box,
                position=position,
                address=address,
                slab=slab,
                index=object_index(ledger, slab, address),
                state=states[box],
            ),
        ]
    )
    ledger.containers = Containers.join([ledger.containers, boxes])


def _since(ledger: Ledger, index: SlabIndex, rows: I64, addresses: U64, home: I64) -> Bools:
    # Which addresses lie in slabs that the cache has got after the reading that
    # the index is from.
    since = np.zeros(len(addresses), np.bool_)
    if not index.stale.any():
        return since
    other = np.flatnonzero((local_rows(rows, home) < 0) & (addresses != 0))
    slabs = slabs_over(index, addresses[other])
    since[other] = slabs.marked & (slabs.told == np.uint64(ledger.facts.address))
    return since


def _guarded(ledger: Ledger, index: SlabIndex, rows: I64) -> Bools:
    # Which addresses lie in pages of KFENCE's pool that hold an object of the cache.
    if not len(index):
        return np.zeros(len(rows), np.bool_)
    kfence = (index.known_by[rows] & np.uint8(KnownBy.KFENCE)) != 0
    same = index["slab_cache"][rows] == np.uint64(ledger.facts.address)
    return (rows >= 0) & kfence & same
