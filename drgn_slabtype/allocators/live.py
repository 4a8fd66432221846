# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Objects the allocator itself lives in
-------------------------------------

``struct kmem_cache``, node structures, sheaves, array caches and index arrays
are slab objects too. If a place calls one of them free, the allocator is using
freed memory.
"""

from __future__ import annotations

from typing import Dict, List, Sequence

import numpy as np

from ..distinct import distinct
from ..index import SlabIndex
from ..ledger import I64, U64, Containers, Ledger, Place, State, Walk
from .arrays import enter_arrays

LIVE = Place("allocator", counted=True)
"""The place of such claims; its name in :attr:`LiveObjects.enter`."""


class LiveObjects:
    """Addresses of structures of the allocator, whatever cache they come from."""

    def __init__(self, addresses: Sequence[U64]) -> None:
        self._addresses = distinct(np.concatenate([*addresses, np.zeros(0, np.uint64)]))
        self._by_cache: Dict[int, List[int]] = {}

    def locate(self, index: SlabIndex, owner: I64) -> None:
        """
        Sort the structures by the cache whose objects they are.

        Structures from before the slab allocator came up are in no slab.

        :param owner: Position of the cache of each row of the index.
        """
        rows = index.rows_of_addresses(self._addresses)
        there = (rows >= 0).nonzero()[0]
        self._by_cache = {}
        for address, number in zip(self._addresses[there].tolist(), owner[rows[there]].tolist()):
            if number >= 0:
                self._by_cache.setdefault(number, []).append(address)

    def enter(self, cache: int, rows: I64, index: SlabIndex, ledger: Ledger, place: int) -> None:
        """
        Enter the structures that are objects of one cache into its ledger.

        :param rows: Rows of the index that are the rows of ``ledger.slabs``.
        :param place: Position of :data:`LIVE` in ``ledger.places``.
        """
        mine = np.array(self._by_cache.get(cache, []), np.uint64)
        if not len(mine):
            return
        box = Containers.build(1, place=place, address=0, walked=len(mine), state=Walk.WHOLE)
        count = np.array([len(mine)], np.int64)
        states = np.array([State.LIVE], np.uint8)
        enter_arrays(ledger, index, rows, box, mine[None, :], count, states)
