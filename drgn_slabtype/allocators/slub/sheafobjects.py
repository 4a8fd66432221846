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
from ...ledger import I64, Containers, Ledger, State, Suspect, Walk
from ...machine.columns import Rows
from ...records import plural
from ..arrays import enter_arrays
from ..caches import Caches
from ..members import at_member
from .barns import Found
from .sheaves import Sheaves

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
    source = index.machine.memory
    content, room, readable = sheaves.contents(caches, index, owner).of(cache)
    capacity, layout = int(caches.rows["sheaf_capacity"][cache]), content.structure
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
        address=content.addresses,
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
        what = (
            f"sheaf_capacity is {capacity}, and its sheaves have room for {plural(fits, 'object')}"
        )
        yield _capacity(what, capacity)
    elif over >= _SEVERAL and size.max() <= fits:
        what = f"sheaf_capacity is {capacity}, and {over} of its sheaves hold more"
        yield _capacity(what, capacity)


def _capacity(what: str, capacity: int) -> Suspect:
    return Suspect("cache-wrong", what, found=capacity, member="sheaf_capacity", measure=OBJECTS)
