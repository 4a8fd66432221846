# SPDX-License-Identifier: LGPL-2.1-or-later
"""SLAB's freelists: from index arrays to claims, and what the arrays themselves show."""

from __future__ import annotations

from typing import Iterator, List, Tuple

import numpy as np

from ...ledger import (
    I64,
    U8,
    U64,
    Bools,
    Claims,
    Containers,
    Ledger,
    Place,
    Slabs,
    State,
    Suspect,
    Walk,
)
from .cache import SlabCache
from .indexes import IndexArrays, Tails

PLACE = Place("freelist", counted=False, bad="freelist-index", repeat="freelist-duplicate")


def half_written(arrays: IndexArrays, tails: Tails, slabs: Slabs) -> Bools:
    """
    Return which slabs' index arrays are as they are for a moment while they are changed.

    An array that is being made holds anything. Else a slab counts an object as
    free before it has an array, if it is its first, and before that names the
    object: its first live entry is an old one.

    :param tails: By the counts that slabs have.
    """
    unsound = tails.live & ~tails.sound
    first = np.arange(unsound.shape[1])[None, :] == tails.active[:, None]
    one = ~(unsound & ~first).any(axis=1) & (arrays.in_place | (arrays.pointer == 0))
    return slabs.fresh | (slabs.busy & (one | arrays.left_over(tails.active)))


def enter_freelists(
    cache: SlabCache, ledger: Ledger, arrays: IndexArrays, tails: Tails, busy: Bools, place: int
) -> None:
    """
    Enter the freelists of all slabs into the ledger.

    :param tails: By the counts that slabs should have.
    :param busy: Which slabs can be changing just now.
    :param place: Position of :data:`PLACE` in ``ledger.places``.
    """
    slabs = ledger.slabs
    state, culprit, value = _walks(arrays, tails)
    boxes = Containers.build(
        len(slabs),
        place=place,
        address=arrays.pointer,
        slab=np.arange(len(slabs), dtype=np.int64),
        limit=cache.num,
        walked=np.count_nonzero(tails.sound, axis=1),
        state=state,
        culprit=culprit,
        value=value,
        word=_words(arrays, culprit, state),
        busy=busy,
    )
    claims = _claims(cache, ledger, arrays, tails, busy, place)
    # The longest table there is, and never there twice.
    ledger.claims = Claims.melt([ledger.claims, claims])
    ledger.containers = Containers.melt([ledger.containers, boxes])


def _claims(
    cache: SlabCache, ledger: Ledger, arrays: IndexArrays, tails: Tails, busy: Bools, place: int
) -> Claims:
    # Of what the arrays name, before they have containers.
    slabs = ledger.slabs
    slab, at = np.nonzero(tails.sound)
    which = arrays.entries[slab, at]
    return Claims.build(
        len(slab),
        place=place,
        container=len(ledger.containers) + slab,
        position=at - tails.active[slab],
        address=slabs.base[slab] + which.astype(np.uint64) * np.uint64(cache.size),
        slab=slab,
        index=which,
        state=State.FREE,
        passing=busy[slab] | slabs.busy[slab],
    )


def _walks(arrays: IndexArrays, tails: Tails) -> Tuple[U8, I64, U64]:
    # How the walk through each array ended, at which entry, and what was there.
    count, needed = len(tails.active), arrays.needed(tails.active)
    state: U8 = np.full(count, Walk.WHOLE, np.uint8)
    culprit = np.full(count, -1, np.int64)
    value = np.zeros(count, np.uint64)
    for wrong, kind in ((tails.repeats, Walk.CYCLE), (tails.bad, Walk.POINTER)):
        hit = wrong.any(axis=1)
        first = wrong.argmax(axis=1)
        state[hit] = kind
        culprit[hit] = first[hit]
        value[hit] = arrays.entries[hit, first[hit]]
    misplaced = arrays.misplaced(tails.active)
    state[needed & ~arrays.read] = Walk.UNREADABLE
    state[misplaced] = Walk.MISPLACED
    value[misplaced] = arrays.pointer[misplaced]
    return state, culprit, value


def _words(arrays: IndexArrays, culprit: I64, state: U8) -> U64:
    # Where the index stands at which each walk ended.
    at = arrays.pointer + (culprit * arrays.width).astype(np.uint64)
    ended = (state == Walk.CYCLE) | (state == Walk.POINTER)
    return np.where(ended, at, np.uint64(0))


def suspect_counts(ledger: Ledger, believed: I64) -> Iterator[Suspect]:
    """
    Yield the slabs that count other than they should.

    :param believed: Objects in use that each should count.
    """
    slabs = ledger.slabs
    for slab in np.flatnonzero(believed != slabs.counted).tolist():
        yield Suspect(
            "count-mismatch",
            f"counts {slabs.counted[slab]} of {slabs.objects[slab]} objects in use, but its lists, "
            f"freelist and node agree on {believed[slab]}",
            slab=slab,
            expected=int(believed[slab]),
            found=int(slabs.counted[slab]),
        )


def suspect_arrays(arrays: IndexArrays, tails: Tails, busy: Bools) -> Iterator[Suspect]:
    """
    Yield the index arrays that lie where they must not.

    :param tails: By the counts that slabs should have.
    :param busy: Which slabs can be changing just now.
    """

    def suspect(slab: int, what: str) -> Suspect:
        pointer = int(arrays.pointer[slab])
        message = f"freelist array at 0x{pointer:x} {what}"
        return _suspect(slab, message, pointer, bool(busy[slab]))

    # An array in the wrong object is full of nonsense; a single wrong
    # entry is no reason to doubt where the array lies.
    active, live, sound = tails.active, tails.live, tails.sound
    unsound = np.count_nonzero(live & ~sound, axis=1)
    several = (unsound > 1) | (np.count_nonzero(live, axis=1) == 1)
    for slab in np.flatnonzero(arrays.not_host(active) & (sound[:, -1] | several)).tolist():
        last = int(arrays.entries[slab, -1])
        yield suspect(slab, f"lies in another object than {last}, which its last entry names")
    for slab in np.flatnonzero(arrays.left_over(active)).tolist():
        yield suspect(slab, "is there though no object is free")
    # Of others, what cannot be read tells it.
    for slab in np.flatnonzero(arrays.astray & ~arrays.needed(active)).tolist():
        yield suspect(slab, "lies where this cache has no index array")


def suspect_shared(pointer: U64, off_slab: U64, unsound: Bools) -> Iterator[Suspect]:
    """
    Yield the slabs whose index array is that of another slab, too.

    :param pointer: ``slab->freelist`` of each slab.
    :param off_slab: The same where it leads to memory that kmalloc gave for one; else 0.
    :param unsound: Which cannot be what their count, array and list make of them.
    """
    for slab in _shared_arrays(off_slab, unsound):
        at = int(pointer[slab])
        yield _suspect(slab, f"shares its freelist array at 0x{at:x} with another slab", at)


def _shared_arrays(pointer: U64, unsound: Bools) -> List[int]:
    # One slab for each array that several share: an unsound one, if there is one.
    known = np.flatnonzero(pointer)
    _, which, times = np.unique(pointer[known], return_inverse=True, return_counts=True)
    found = []
    for value in np.flatnonzero(times > 1).tolist():
        group = known[which == value]
        worse = group[unsound[group]]
        found.append(int(worse[0] if len(worse) else group[-1]))
    return found


def _suspect(slab: int, what: str, pointer: int, moving: bool = False) -> Suspect:
    place = PLACE.name
    return Suspect("freelist-array", what, slab=slab, place=place, found=pointer, moving=moving)
