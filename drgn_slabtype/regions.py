# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Regions of memory
-----------------

What a module declares that it reads: every structure once and whole, whatever
today's rules make of it, in a function or method ``regions`` beside the code that
reads it. A capture holds these regions and nothing else. Regions may overlap;
memory that any of them keeps is kept.
"""

from __future__ import annotations

from typing import Iterable, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt
from drgn import Object, sizeof

I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


class Region(NamedTuple):
    """Ranges of memory of one kind, as columns."""

    what: str
    """What it is, for people: ``memory map``, ``slab pages``."""
    addresses: U64
    """Shape (n,): virtual addresses."""
    sizes: U64
    """Shape (n,): bytes of each."""
    masked: bool = False
    """
    There, but not for its contents.

    Such memory reads as zero wherever no other region keeps it: pages of slabs,
    whose objects belong to their users and whose free pointers do not.
    """
    code: bool = False
    """Whether its words may be addresses of code, whose names are wanted."""
    unused: Optional[I64] = None
    """
    Shape (n,): the position of the cache that each belongs to, where one that was
    never used may be all zeroes.
    """


class Declaration(NamedTuple):
    """The regions of some structures that belong together."""

    name: str
    """What they are, for people, should the kernel lack them or they be damaged."""
    regions: Iterable[Region]
    """Found while they are iterated over; what cannot be found raises then."""


Addresses = Union[int, List[int], U64]


def region(
    what: str,
    addresses: Addresses,
    sizes: Addresses,
    masked: bool = False,
    code: bool = False,
) -> Region:
    """
    Return a region of one or many ranges.

    :param sizes: Bytes of each, or one number for all.
    """
    starts = np.atleast_1d(np.asarray(addresses, np.uint64))
    lengths = np.broadcast_to(np.asarray(sizes, np.uint64), starts.shape)
    return Region(what, starts, lengths, masked, code)


def object_region(what: str, object: Object) -> Region:
    """Return the region of one object that has an address."""
    assert object.address_ is not None
    return region(what, object.address_, sizeof(object))


def steps(start: int, step: int, count: int) -> U64:
    """Return *count* addresses from *start* on, *step* bytes apart."""
    return np.uint64(start) + np.uint64(step) * np.arange(count, dtype=np.uint64)


class Ranges(NamedTuple):
    """Ranges [start, end) of memory that neither overlap nor touch, in order."""

    starts: U64
    ends: U64

    @property
    def total(self) -> int:
        """Bytes in all of them."""
        return int((self.ends - self.starts).sum())

    def within(self, start: int, end: int) -> Tuple[U64, U64]:
        """Return starts and ends of what lies in [start, end), cut to it."""
        low = int(np.searchsorted(self.ends, np.uint64(start), "right"))
        high = int(np.searchsorted(self.starts, np.uint64(end), "left"))
        return (
            np.maximum(self.starts[low:high], np.uint64(start)),
            np.minimum(self.ends[low:high], np.uint64(end)),
        )


def merge(regions: List[Region]) -> Ranges:
    """Return the memory that lies in any of the regions."""
    if not regions:
        nothing = np.zeros(0, np.uint64)
        return Ranges(nothing, nothing)
    starts = np.concatenate([region.addresses for region in regions])
    ends = starts + np.concatenate([region.sizes for region in regions])
    sane = ends > starts  # neither empty nor beyond the end of memory
    starts, ends = starts[sane], ends[sane]
    order = np.argsort(starts, kind="stable")
    starts, ends = starts[order], np.maximum.accumulate(ends[order])
    if not len(starts):
        return Ranges(starts, ends)
    first = np.flatnonzero(np.concatenate([[True], starts[1:] > ends[:-1]]))
    last = np.concatenate([first[1:] - 1, [len(starts) - 1]])
    return Ranges(starts[first], ends[last])
