# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The memory of slabs, slot by slot
---------------------------------

What debugging promises about the bytes around objects, it promises of each slot.
Both allocators read some slabs at a time and cut them into slots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, NamedTuple, Optional

import numpy as np

from ..ledger import I64, U8, U64, Bools, Ledger, Zone
from ..machine.memory import Memory

_BATCH_BYTES = 8 << 20  # slab memory held at a time


@dataclass(frozen=True)
class SlabBytes:
    """The bytes of some slabs."""

    slabs: I64
    """Rows of ``ledger.slabs``."""
    start: U64
    """Where each was read."""
    bytes: U8
    """Shape (slabs, span)."""

    def slots(self, count: int, stride: int) -> Slots:
        """
        Return the slots of all of them.

        :param count: Slots of each slab.
        :param stride: Bytes from one to the next.
        """
        index = np.tile(np.arange(count), len(self.slabs))
        return Slots(
            np.repeat(self.slabs, count),
            index,
            np.repeat(self.start, count) + (index * stride).astype(np.uint64),
            self.bytes[:, : count * stride].reshape(len(index), stride),
        )


class Part(NamedTuple):
    """Bytes of each slot that debugging promises something of."""

    code: str
    """Finding code if they are something else."""
    name: str
    """What they are, as a finding spells it."""
    first: int
    """First byte, from that of the slot."""
    last: int
    """First byte after."""

    def after(self, lead: int) -> Part:
        """Return the same, counted from another place: so many bytes before."""
        return self._replace(first=self.first + lead, last=self.last + lead)


@dataclass(frozen=True)
class Slots:
    """Slots of one cache, one row each."""

    slab: I64
    """Row of ``ledger.slabs``."""
    index: I64
    """Index of the object in its slab."""
    address: U64
    """Of the first byte."""
    bytes: U8
    """Shape (n, stride)."""

    def zone(
        self, part: Part, rows: I64, expected: Optional[U8], passing: Optional[U8] = None
    ) -> Zone:
        """
        Return the zone of the same bytes of some slots.

        :param rows: Which slots; what is expected lies beside them.
        """
        found = self.bytes[rows, part.first : part.last]
        address = self.address[rows] + np.uint64(part.first)
        beside = self.slab[rows], self.index[rows], address
        return Zone(part.code, part.name, *beside, found, expected, passing)


def read_slabs(
    memory: Memory, ledger: Ledger, slabs: I64, start: U64, span: int
) -> Iterator[SlabBytes]:
    """
    Yield the bytes of slabs, some at a time, and count those that are not in the target.

    :param ledger: Its ``unread`` counts them.
    :param slabs: Rows of ``ledger.slabs``.
    :param start: Where each begins.
    :param span: Bytes of each.
    """
    step = max(1, _BATCH_BYTES // max(span, 1))
    for first in range(0, len(slabs), step):
        some = slice(first, first + step)
        gathered = memory.gather(start[some], span)
        ok = gathered.ok
        ledger.unread += int(np.count_nonzero(~ok))
        if ok.any():
            yield SlabBytes(slabs[some][ok], start[some][ok], gathered.bytes[ok])


class Claimed:
    """
    Which objects of a cache are claimed.

    :param kinds: Which claims are of each kind, of at most eight.
    """

    def __init__(self, ledger: Ledger, *kinds: Bools) -> None:
        claims = ledger.claims
        self._most = int(ledger.slabs.objects.max(initial=0)) + 1
        self._kinds = [np.uint8(1 << number) for number in range(len(kinds))]
        self._said = np.zeros(len(ledger.slabs) * self._most, np.uint8)
        known = (claims.slab >= 0) & (claims.index >= 0) & (claims.index < self._most)
        keys = claims.slab.astype(np.int64) * self._most + claims.index
        for kind, which in zip(self._kinds, kinds):
            self._said[keys[known & which]] |= kind

    def of(self, slots: Slots) -> List[Bools]:
        """Return of each kind whether the object of each slot is claimed so."""
        said = self._said[slots.slab * self._most + slots.index]
        return [(said & kind) != 0 for kind in self._kinds]
