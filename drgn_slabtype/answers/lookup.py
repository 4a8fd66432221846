# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Finding caches and slabs
------------------------

What all answers ask of one reading of the machine.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import List, NamedTuple, Optional, Union

import numpy as np
from drgn import Object

from ..errors import TargetError
from ..findings import Finding
from ..ledger import Ledger
from ..machine import Machine
from ..pages.scan import Progress
from ..reading import Snapshot
from .aliases import cache_aliases
from .states import Objects, object_states

_KEPT = 8  # caches whose tables are kept for the next question


class Judged(NamedTuple):
    """One cache, read and judged."""

    ledger: Ledger
    findings: List[Finding]
    objects: Objects


class Lookup:
    """
    One reading of the machine, ready for questions.

    :param snapshot: The reading; questions about a moving target are answered
        as of its moment, as far as structures are read already.
    """

    def __init__(self, machine: Machine, snapshot: Snapshot) -> None:
        self.machine = machine
        self.snapshot = snapshot
        self.index = snapshot.index
        self.allocator = snapshot.allocator
        self._judged: OrderedDict[int, Judged] = OrderedDict()

    def judged(self, number: int) -> Judged:
        """
        Return everything about one cache.

        :param number: Position in ``allocator.caches``.
        """
        found = self._judged.pop(number, None)
        if found is None:
            ledger, findings = self.snapshot.judge(number)
            found = Judged(ledger, findings, object_states(ledger))
        self._judged[number] = found
        while len(self._judged) > _KEPT:
            self._judged.popitem(last=False)
        return found

    def row_at(self, address: int) -> int:
        """Return the row of the index of the slab that an address lies in; else -1."""
        return int(self.index.rows_of_addresses(np.array([address], np.uint64))[0])

    def row_of_page(self, page: int) -> int:
        """Return the row of the index of a ``struct slab *``; else -1."""
        return int(self.index.rows_of_pages(np.array([page], np.uint64))[0])

    def owner(self, row: int) -> int:
        """Return the position of the cache that a row of the index belongs to; else -1."""
        return int(self.allocator.ownership.cache[row])

    def number(self, cache: Union[str, int, Object]) -> int:
        """
        Return the position of a cache in ``allocator.caches``.

        :param cache: Its name, or ``struct kmem_cache *``.
        :raises TargetError: if there is none.
        """
        caches = self.allocator.caches
        if isinstance(cache, str):
            if cache in caches.names:
                return caches.names.index(cache)
            raise TargetError(f"there is no slab cache named {cache}{self._merged(cache)}")
        address = cache.value_() if isinstance(cache, Object) else cache
        found = np.flatnonzero(caches.addresses == np.uint64(address))
        if not len(found):
            raise TargetError(f"there is no slab cache at 0x{address:x}")
        return int(found[0])

    def _merged(self, name: str) -> str:
        for number, names in (cache_aliases(self.machine) or {}).items():
            if name in names:
                known = self.allocator.caches
                at = np.flatnonzero(known.addresses == np.uint64(number))
                if len(at):
                    return f"; it was merged into {known.names[int(at[0])]}"
        return ""


def lookup(machine: Machine, progress: Optional[Progress] = None) -> Lookup:
    """
    Return a reading of the machine.

    A target that does not change is read once. A moving one is read for every
    question.
    """
    found = machine.kept.get(Lookup)
    if isinstance(found, Lookup):
        return found
    found = Lookup(machine, Snapshot(machine, progress))
    if not machine.is_live:
        machine.kept[Lookup] = found
    return found
