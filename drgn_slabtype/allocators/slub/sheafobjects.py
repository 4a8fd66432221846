# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is in the sheaves of a cache
---------------------------------

From the arrays of the sheaves that :mod:`.sheaves` has found to claims.
"""

from __future__ import annotations

from typing import Iterator, List, Mapping

import numpy as np

from ...codes import OBJECTS
from ...index import SlabIndex
from ...ledger import I64, U64, Containers, Ledger, State, Suspect, Walk
from ...machine.columns import Rows
from ..arrays import enter_arrays
from ..caches import Caches
from ..members import at_member
from .barns import Found
from .sheaves import Sheaves

_MAX_CAPACITY = 1 << 16
_SEVERAL = 3  # sheaves that are not damaged alike by chance


def enter_sheaves(
    sheaves: Sheaves,
    caches: Caches,
    cache: int,
    rows: I64,
    index: SlabIndex,
    owner: I64,
    ledger: Ledger,
    places: Mapping[str, int],
) -> None:
    """
    Enter one cache's sheaves into its ledger.

    :param cache: Position of the cache.
    :param rows: Rows of the index that are the rows of ``ledger.slabs``.
    :param owner: Position of the cache of each row of the index.
    :param places: Position in ``ledger.places`` by name.
    """
    ledger.suspects += sheaves.suspects.get(cache, [])
    mine = sheaves.by_cache.get(cache, [])
    if not mine:
        return
    machine, source = index.machine, index.machine.memory
    addresses = np.array([sheaf.address for sheaf in mine], np.uint64)
    room = _room(addresses, caches, index, owner)
    capacity, fits = int(caches.rows["sheaf_capacity"][cache]), int(room.max())
    readable = min(capacity, fits if fits >= 0 else _MAX_CAPACITY)
    layout = machine.structure("struct slab_sheaf")
    width = layout.offset("objects") + readable * source.word_size
    content = machine.rows("struct slab_sheaf", addresses, width)
    size = content["size"].astype(np.int64)
    ledger.suspects += _judge(capacity, mine, content, size)
    # The bootstrap sheaf stands in for one where a cache has none.
    own = (content["cache"] == caches.addresses[cache]) & content.ok
    own_known = own & (room >= 0)
    wrong = _judge_capacity(capacity, room[own_known], size[own_known])
    ledger.suspects += at_member(caches.rows, cache, wrong)
    count = np.where(own, np.minimum(size, readable), 0)
    boxes = Containers.build(
        len(mine),
        place=np.array([places[sheaf.place] for sheaf in mine], np.int64),
        owner=np.array([sheaf.owner for sheaf in mine], np.int64),
        address=addresses,
        counted=np.where(own, size, 0),
        limit=readable,
        walked=count,
        state=np.where(content.ok, Walk.WHOLE, Walk.UNREADABLE),
        busy=np.array([sheaf.busy for sheaf in mine], np.bool_),
    )
    objects = np.ascontiguousarray(content.raw[:, layout.offset("objects") :])
    entries = objects.view(source.word).astype(np.uint64)
    waiting = np.array([sheaf.place == "rcu_free sheaf" for sheaf in mine], np.bool_)
    states = np.where(waiting, State.WAITING, State.FREE).astype(np.uint8)
    before, first_box = len(ledger.claims), len(ledger.containers)
    enter_arrays(ledger, index, rows, boxes, entries.reshape(len(mine), -1), count, states)
    # A sheaf counts an object a moment before the object is there: its last
    # entry then is an old one, or none.
    claims = ledger.claims
    claims.passing = claims.passing.copy()
    box = claims.container[before:] - first_box
    last = boxes.busy[box] & (claims.position[before:] == count[box] - 1)
    old = claims.address[before:]
    claims.passing[before:] = last & ((old == 0) | source.is_kernel_address(old))


def _room(addresses: U64, caches: Caches, index: SlabIndex, owner: I64) -> I64:
    # How many objects there is room for in the memory of each sheaf; -1 for
    # one that is in pages of its own, or in KFENCE's.
    room = np.full(len(addresses), -1, np.int64)
    rows = index.rows_of_addresses(addresses)
    known = np.flatnonzero(rows >= 0)
    known = known[owner[rows[known]] >= 0]
    header = index.machine.structure("struct slab_sheaf").offset("objects")
    sizes = caches.rows["object_size"].astype(np.int64)
    bytes_left = sizes[owner[rows[known]]] - header
    room[known] = np.maximum(bytes_left // index.machine.memory.word_size, -1)
    return room


def _judge(capacity: int, mine: List[Found], content: Rows, size: I64) -> Iterator[Suspect]:
    for at, sheaf in enumerate(mine):
        if sheaf.place == "empty barn" and size[at]:
            yield sheaf.suspect("is not empty", 0, int(size[at]), measure=OBJECTS)
        elif sheaf.place == "full barn" and content.ok[at] and not size[at]:
            yield sheaf.suspect("is empty", capacity, 0, measure=OBJECTS)


def _judge_capacity(capacity: int, room: I64, size: I64) -> Iterator[Suspect]:
    # All sheaves of a cache are allocated for its capacity.
    if not len(room):
        return
    fits = int(room.max())
    over = int(np.count_nonzero(size > capacity))
    if capacity > fits:
        what = f"sheaf_capacity is {capacity}, and its sheaves have room for {fits} objects"
        yield _capacity(what, capacity)
    elif over >= _SEVERAL and size.max() <= fits:
        what = f"sheaf_capacity is {capacity}, and {over} of its sheaves hold more"
        yield _capacity(what, capacity)


def _capacity(what: str, capacity: int) -> Suspect:
    return Suspect("cache-wrong", what, found=capacity, member="sheaf_capacity", measure=OBJECTS)
