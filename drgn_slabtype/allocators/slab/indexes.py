# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB's freelists
----------------

A slab's free objects are the tail of an array of indexes, ``freelist[active ..
num)``; what stands before the tail is stale. The array of an objfreelist cache
lies in the free object that its own last entry names.
"""

from __future__ import annotations

from typing import Iterator, List

import numpy as np
from drgn import sizeof

from ...index import SlabIndex
from ...ledger import (
    I64,
    U8,
    U64,
    Bools,
    Claims,
    Containers,
    Ledger,
    ListKind,
    State,
    Suspect,
    Walk,
)
from ...machine import Machine
from ...regions import Region, region
from .cache import Mode, SlabCache

_NODE_LISTS = int(ListKind.PARTIAL | ListKind.FULL | ListKind.FREE)


def allowed_lists(active: I64, num: int) -> I64:
    """Return the :class:`~drgn_slabtype.ledger.ListKind` bits a count asks for."""
    out = np.full(len(active), int(ListKind.PARTIAL), np.int64)
    out[active == num] = ListKind.FULL
    out[active == 0] = ListKind.FREE
    out[(active < 0) | (active > num)] = _NODE_LISTS
    return out


class IndexArrays:
    """
    The index arrays of one cache's slabs.

    :param ledger: With slabs, lists and array caches.
    :param pointer: ``slab->freelist`` of each slab.
    :param in_place: Which pointers can be those of an index array of this cache.
    :param unlisted: Which slabs are on no list, so that nobody else sees them.
    """

    def __init__(
        self,
        machine: Machine,
        cache: SlabCache,
        ledger: Ledger,
        pointer: U64,
        in_place: Bools,
        unlisted: Bools,
    ) -> None:
        self._cache = cache
        self._ledger = ledger
        self._pointer = pointer
        self._in_place = in_place
        self._unlisted = unlisted
        self._memory = machine.memory
        index_type = machine.prog.type("freelist_idx_t")
        dtype = np.dtype(f"{self._memory.byteorder}u{sizeof(index_type)}")
        readable = np.flatnonzero(in_place & ~ledger.slabs.excused)
        width = cache.num * dtype.itemsize
        gathered = self._memory.gather(pointer[readable], width)
        self._arrays: I64 = np.zeros((len(pointer), cache.num), np.int64)
        self._arrays[readable] = gathered.bytes.view(dtype)
        self._ok = np.zeros(len(pointer), np.bool_)
        self._ok[readable] = gathered.ok
        self._elsewhere = _claimed_objects(ledger, cache.num)
        self._stands = np.zeros(len(pointer), np.int64)
        members = ledger.memberships.take(ledger.memberships.slab >= 0)
        np.bitwise_or.at(self._stands, members.slab, members.kind)

    # What an array says when a slab counts so many objects in use -------------

    def _has_free(self, active: I64) -> Bools:
        slabs = self._ledger.slabs
        return (active >= 0) & (active < self._cache.num) & ~slabs.excused

    def _live(self, active: I64) -> Bools:
        position = np.arange(self._cache.num)
        return (position >= active[:, None]) & (self._ok & self._has_free(active))[:, None]

    def _valid(self, live: Bools) -> Bools:
        valid: Bools = live & (self._arrays < self._cache.num)
        return valid

    def _repeats(self, valid: Bools) -> Bools:
        # Which valid entries name an index that an earlier one of the row names.
        slab, at = np.nonzero(valid)
        keys = slab * self._cache.num + self._arrays[slab, at]
        again = np.ones(len(keys), np.bool_)
        again[np.unique(keys, return_index=True)[1]] = False
        out = np.zeros_like(valid)
        out[slab[again], at[again]] = True
        return out

    def _not_host(self, active: I64) -> Bools:
        # Which arrays lie in an object that their own last entry does not name.
        if self._cache.mode is not Mode.OBJFREELIST:
            return np.zeros(len(active), np.bool_)
        base = self._ledger.slabs.base
        host = ((self._pointer - base) // np.uint64(self._cache.size)).astype(np.int64)
        other: Bools = self._arrays[:, -1] != host
        return self._ok & self._has_free(active) & other

    def _pointer_wrong(self, active: I64) -> Bools:
        # Where a pointer is missing, or left over.
        needed = self._has_free(active)
        wrong = needed & ~self._in_place
        if self._cache.mode is Mode.OBJFREELIST:
            wrong |= (active == self._cache.num) & (self._pointer != 0)
        return wrong & ~self._ledger.slabs.excused

    def _doubtful(self, active: I64) -> Bools:
        # Which slabs cannot count so many: pointer, array, list or the places
        # that hold the other objects speak against it.
        live = self._live(active)
        valid = self._valid(live)
        bad = (live & ~valid) | self._repeats(valid)
        claimed = np.take_along_axis(self._elsewhere, np.where(valid, self._arrays, 0), axis=1)
        bad |= valid & claimed
        wrong_list = (self._stands & allowed_lists(active, self._cache.num)) == 0
        return bad.any(axis=1) | self._pointer_wrong(active) | self._not_host(active) | wrong_list

    # Entering ----------------------------------------------------------------

    def believed(self) -> I64:
        """
        Return what each slab should count, where that can be told from its own count.

        If a node's ``free_objects`` is off by a number, and one slab alone would
        be sound if it counted so many more or fewer, then that count is wrong.
        """
        ledger, num = self._ledger, self._cache.num
        active = ledger.slabs.counted
        out = active.copy()
        members = ledger.memberships
        for counter in ledger.counters:
            off = counter.summed - counter.kept
            if counter.name != "free_objects" or counter.busy or not 0 < abs(off) <= num:
                continue
            here = np.zeros(len(active), np.bool_)
            here[members.slab[(members.owner == counter.node) & (members.slab >= 0)]] = True
            other = active + off
            here &= (active <= num) & (other >= 0) & (other <= num)
            here &= self._doubtful(active) & ~self._doubtful(np.clip(other, 0, num))
            if np.count_nonzero(here) == 1:
                out[here] = other[here]
        return out

    def enter(self, place: int) -> None:
        """
        Enter the freelists of all slabs into the ledger.

        :param place: Position of the freelists' place in ``ledger.places``.
        """
        ledger, slabs = self._ledger, self._ledger.slabs
        believed = self.believed()
        self._suspect_counts(believed)
        live = self._live(believed)
        valid = self._valid(live)
        repeats = self._repeats(valid)
        self._suspect_pointers(believed, live, valid & ~repeats)
        slab, at = np.nonzero(valid & ~repeats)
        which = self._arrays[slab, at]
        claims = Claims.build(
            len(slab),
            place=place,
            container=len(ledger.containers) + slab,
            position=at - believed[slab],
            address=slabs.base[slab] + which.astype(np.uint64) * np.uint64(self._cache.size),
            slab=slab,
            index=which,
            state=State.FREE,
        )
        ledger.claims = Claims.join([ledger.claims, claims])
        boxes = self._containers(place, believed, live & ~valid, repeats)
        boxes.walked = np.bincount(slab, minlength=len(slabs))
        ledger.containers = Containers.join([ledger.containers, boxes])

    def _containers(self, place: int, active: I64, bad: Bools, repeats: Bools) -> Containers:
        count = len(active)
        state: U8 = np.full(count, Walk.WHOLE, np.uint8)
        culprit = np.full(count, -1, np.int64)
        value = np.zeros(count, np.uint64)
        for wrong, kind in ((repeats, Walk.CYCLE), (bad, Walk.POINTER)):
            hit = wrong.any(axis=1)
            first = wrong.argmax(axis=1)
            state[hit] = kind
            culprit[hit] = first[hit]
            value[hit] = self._arrays[hit, first[hit]]
        needed = self._has_free(active)
        misplaced = needed & ~self._in_place
        state[needed & ~self._ok] = Walk.UNREADABLE
        state[misplaced] = Walk.MISPLACED
        value[misplaced] = self._pointer[misplaced]
        return Containers.build(
            count,
            place=place,
            address=self._pointer,
            slab=np.arange(count, dtype=np.int64),
            limit=self._cache.num,
            state=state,
            culprit=culprit,
            value=value,
            busy=self._busy(),
        )

    def _busy(self) -> Bools:
        # A slab on no list can be one that is just being made.
        return self._ledger.slabs.busy | self._unlisted

    def _suspect_counts(self, believed: I64) -> None:
        active = self._ledger.slabs.counted
        for slab in np.flatnonzero(believed != active).tolist():
            self._ledger.suspects.append(
                Suspect(
                    "count-mismatch",
                    f"counts {active[slab]} of {self._cache.num} objects in use, but its lists, "
                    f"freelist and node agree on {believed[slab]}",
                    slab=slab,
                    expected=int(believed[slab]),
                    found=int(active[slab]),
                )
            )

    def _suspect_pointers(self, active: I64, live: Bools, sound: Bools) -> None:
        # An array in the wrong object is full of nonsense; a single wrong
        # entry is no reason to doubt where the array lies.
        unsound = np.count_nonzero(live & ~sound, axis=1)
        several = (unsound > 1) | (np.count_nonzero(live, axis=1) == 1)
        for slab in np.flatnonzero(self._not_host(active) & (sound[:, -1] | several)).tolist():
            last = int(self._arrays[slab, -1])
            self._suspect(slab, f"lies in another object than {last}, which its last entry names")
        left_over = self._pointer_wrong(active) & ~self._has_free(active)
        for slab in np.flatnonzero(left_over).tolist():
            self._suspect(slab, "is there though no object is free")

    def _suspect(self, slab: int, what: str) -> None:
        pointer = int(self._pointer[slab])
        self._ledger.suspects.append(
            Suspect(
                "freelist-array",
                f"freelist array at 0x{pointer:x} {what}",
                slab=slab,
                place="freelist",
                found=pointer,
                moving=bool(self._busy()[slab]),
            )
        )

    def unsound(self) -> Bools:
        """Return the slabs that cannot be what their count, array and list make of them."""
        return self._doubtful(self._ledger.slabs.counted)


def _claimed_objects(ledger: Ledger, num: int) -> Bools:
    # Which objects of which slabs some place has claimed: shape (slabs, num).
    out = np.zeros((len(ledger.slabs), num), np.bool_)
    claims = ledger.claims
    known = (claims.slab >= 0) & (claims.index >= 0)
    out[claims.slab[known], claims.index[known]] = True
    return out


def right_places(cache: SlabCache, pointer: U64, start: U64, first: U64, off_slab: Bools) -> Bools:
    """
    Return which pointers lead to where the cache's mode puts an index array.

    :param start: ``slab_address()`` of each slab.
    :param first: Address of object 0 of each slab.
    :param off_slab: Which pointers lead to memory that kmalloc gave for one.
    """
    if cache.mode is Mode.OFF_SLAB:
        return off_slab
    if cache.mode is Mode.ON_SLAB:
        return pointer == start + np.uint64(cache.span - cache.freelist_size)
    offset = pointer - first
    return (offset % np.uint64(cache.size) == 0) & (offset < np.uint64(cache.num * cache.size))


def shared_arrays(pointer: U64, unsound: Bools) -> List[int]:
    """
    Return one slab for each index array that several slabs share.

    That is an unsound one, if there is one.

    :param pointer: ``slab->freelist`` of each slab; 0 where it is no matter.
    """
    known = np.flatnonzero(pointer)
    _, which, times = np.unique(pointer[known], return_inverse=True, return_counts=True)
    found = []
    for value in np.flatnonzero(times > 1).tolist():
        group = known[which == value]
        worse = group[unsound[group]]
        found.append(int(worse[0] if len(worse) else group[-1]))
    return found


def regions(index: SlabIndex, cache: SlabCache, rows: I64) -> Iterator[Region]:
    """
    Yield the index arrays of one cache's slabs.

    :param rows: Rows of the index that belong to the cache.
    """
    source, size = index.machine.memory, cache.freelist_size
    pointers = index["freelist"][rows]
    yield region("index arrays", pointers[source.is_kernel_address(pointers)], size)
    # At the end of a slab, where a damaged pointer no longer leads.
    end = index.addresses[rows] + index.spans[rows]
    yield region("index arrays", end - np.uint64(size), size)
