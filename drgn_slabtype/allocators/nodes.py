# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The nodes of all slab caches
----------------------------

Both allocators keep a ``struct kmem_cache_node`` per cache and NUMA node, with
lists of slabs and counters over them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from ..distinct import among, distinct
from ..index import KnownBy, SlabIndex, slabs_at
from ..ledger import I64, U64, Bools, Break, Counter, Ledger, ListKind, Memberships
from ..machine import Machine
from ..machine.columns import Rows, numbers_at
from ..machine.locks import LockStates, lock_states
from ..regions import Region, region
from .arrays import local_rows
from .caches import Caches
from .lists import ListHead, SlabLists, Walked
from .locks import lock_suspects
from .members import per_node_offset
from .neighbours import Stand, find_stand, leads_back
from .offgrid import inside_objects
from .pointers import wild_pointer, wild_pointers

Sum = Callable[[int], int]
"""What the slabs of a node add up to."""

_SHARE = 10  # caches of which all but one have what a node has of each
_FEWEST = 8


class Nodes(NamedTuple):
    """Every ``struct kmem_cache_node`` of the machine."""

    cache: I64
    """Position of the cache it belongs to."""
    nid: I64
    rows: Rows
    held: Bools
    """Whether the ``list_lock`` was held."""
    wild: Bools
    """Which pointers lead where no target can have a structure."""
    locks: LockStates
    """What each ``list_lock`` says."""

    def unreadable(self, cache: int) -> List[str]:
        """Return the nodes of a cache that are not in the target, in words."""
        lost = ((self.cache == cache) & ~self.rows.ok & ~self.wild).nonzero()[0]
        return [f"struct kmem_cache_node of node {self.nid[row]}" for row in lost.tolist()]

    def enter_lost(self, machine: Machine, cache: int, ledger: Ledger) -> None:
        """Enter the nodes of one cache that nothing could be read of into its ledger."""
        for row in ((self.cache == cache) & ~self.rows.ok).nonzero()[0].tolist():
            # What is on its lists is not known to be on none.
            ledger.lists_known = False
            ledger.slabs.transit[ledger.slabs.nid == self.nid[row]] = False
            at, nid = int(self.rows.addresses[row]), int(self.nid[row])
            if self.wild[row]:
                word = ledger.facts.address + per_node_offset(machine, "node", nid)
                ledger.suspects.append(wild_pointer("node structure", at, node=nid, word=word))

    def enter_locks(self, cache: int, ledger: Ledger) -> None:
        """Enter what is to be said of the ``list_lock`` of one cache's nodes into its ledger."""
        for row, suspect in lock_suspects(self.locks, nodes=self.nid):
            if self.cache[row] == cache:
                ledger.suspects.append(suspect)

    def walk(self, index: SlabIndex, kinds: Mapping[str, ListKind]) -> List[Walked]:
        """
        Walk the lists of all nodes.

        :param kinds: Members of ``struct kmem_cache_node`` that head a list.
        """
        lists = SlabLists(index)
        return [lists.walk(head) for head in self._heads(kinds)]

    def stand(
        self,
        index: SlabIndex,
        kinds: Mapping[str, ListKind],
        kind_of: Callable[[SlabIndex], I64],
    ) -> List[Walked]:
        """
        Return the list that the one slab of an index stands on, by its neighbours.

        :param kinds: Members of ``struct kmem_cache_node`` that head a list.
        :param kind_of: What kind of list slabs stand on, by what they say themselves.
        """
        heads = list(self._heads(kinds))
        found = find_stand(index, 0, heads)
        if found.torn:
            index.doubts.append("its list links lead to it from one side only")
        if not found.listed:
            return []
        head = found.head
        if head is None:
            head = self._far_head(index, heads, found, kind_of)
        if head is None:
            return []
        index.known_by[0] |= np.uint8(KnownBy.LIST)
        return [Walked(head, np.zeros(1, np.int64), None)]

    def _far_head(
        self,
        index: SlabIndex,
        heads: Sequence[ListHead],
        found: Stand,
        kind_of: Callable[[SlabIndex], I64],
    ) -> Optional[ListHead]:
        # The head of a list too long to be followed: of the slab's node, and of
        # the kind that its neighbours say, if all of them are of its cache. That
        # it leads there is as good as known if it leads to both ends.
        beside = slabs_at(index.machine, found.neighbours)
        kinds = distinct(kind_of(beside))
        told = distinct(np.concatenate([beside["slab_cache"], index["slab_cache"]]))
        if len(kinds) == 1 and len(told) == 1:
            for head in heads:
                if head.kind == kinds[0] and head.owner == index.nids[0]:
                    if leads_back(index, head):
                        return head
                    index.doubts.append("the head of its list does not lead to both ends of it")
                    return None
        index.doubts.append("its neighbours on its list do not agree which list it is")
        return None

    def _heads(self, kinds: Mapping[str, ListKind]) -> Iterator[ListHead]:
        rows, held = self.rows, self.held.tolist()
        for member, kind in kinds.items():
            heads = rows.addresses + np.uint64(rows.structure.offset(member))
            columns: Iterable[Tuple[Any, ...]] = zip(
                self.cache.tolist(),
                self.nid.tolist(),
                heads.tolist(),
                rows[f"{member}.next"].tolist(),
                rows[f"{member}.prev"].tolist(),
                held,
                rows.ok.tolist(),
            )
            for *head, ok in columns:
                if ok:
                    yield ListHead(kind, *head)

    def counters(
        self,
        cache: int,
        sums: Mapping[str, Tuple[str, Sum]],
        slack: Mapping[str, int] = MappingProxyType({}),
        moves: Mapping[str, int] = MappingProxyType({}),
    ) -> List[Counter]:
        """
        Return the counters of one cache's nodes beside what they must be.

        :param sums: For each member the finding code of a difference, and the sum.
        :param slack: Differences that work in progress explains, by member.
        :param moves: Differences that whoever holds the ``list_lock`` explains, by member.
        """
        found = []
        for row in ((self.cache == cache) & self.rows.ok).nonzero()[0].tolist():
            nid = int(self.nid[row])
            for member, (code, total) in sums.items():
                path = f"{member}.counter"
                if not self.rows.structure.has(path):
                    path = member
                if self.rows.structure.has(path):
                    kept = int(self.rows[path][row])
                    most = moves.get(member, 0) if self.held[row] else 0
                    slip = slack.get(member, 0)
                    at = int(self.rows.addresses[row]) + self.rows.structure.offset(path)
                    found.append(Counter(code, member, nid, kept, total(nid), slip, most, at))
        return found


def node_pointers(
    machine: Machine, caches: Caches, member: str, every: bool = False
) -> Tuple[I64, I64, U64]:
    """
    Return a pointer that every cache keeps per node, where it is not NULL.

    :param member: ``node`` or ``barn``.
    :param every: Of all caches, not only of those that are chosen.
    :return: Position of the cache, node, and pointer.
    """
    pointers = _pointers(machine, caches, member)
    return _chosen(caches, pointers, pointers != 0, every)


def _pointers(machine: Machine, caches: Caches, member: str) -> U64:
    # What every cache keeps per node: a row for each cache.
    word = machine.memory.word
    starts = [per_node_offset(machine, member, nid) for nid in range(machine.node_ids)]
    columns = [numbers_at(caches.rows.raw, start, word) for start in starts]
    return np.stack(columns, axis=1).astype(np.uint64)


def _chosen(caches: Caches, pointers: U64, some: Bools, every: bool) -> Tuple[I64, I64, U64]:
    cache, nid = np.nonzero(some if every else some & caches.chosen[:, None])
    return cache.astype(np.int64), nid.astype(np.int64), pointers[cache, nid]


def _gone(caches: Caches, pointers: U64) -> Bools:
    # A cache is on the list from when it has a structure for each node that has memory.
    there = pointers != 0
    told = caches.rows.ok & caches.listed
    has, count = np.count_nonzero(there[told], axis=0), np.count_nonzero(told)
    usual = (_SHARE * has >= (_SHARE - 1) * count) & (has >= _FEWEST)
    gone: Bools = ~there & usual & told[:, None]
    return gone


def read_nodes(machine: Machine, caches: Caches, every: bool = False) -> Nodes:
    """
    Read every ``struct kmem_cache_node`` that the chosen caches point to.

    Where all others of a node point to one, NULL is a pointer that leads to none.

    :param every: Those of all caches.
    """
    pointers = _pointers(machine, caches, "node")
    some = (pointers != 0) | _gone(caches, pointers)
    cache, nid, pointers = _chosen(caches, pointers, some, every)
    rows = machine.rows("struct kmem_cache_node", pointers)
    wild = wild_pointers(machine, pointers, machine.memory.word_size, rows.ok)
    wild |= among(pointers, _all_pointers(machine, caches)[1])
    rows.ok[wild] = False  # what is read there is no node
    rows.raw[wild] = 0
    locks = lock_states(machine, rows, "list_lock")
    return Nodes(cache, nid, rows, locks.held, wild, locks)


def own_nodes(machine: Machine, caches: Caches) -> U64:
    """Return the address of every ``struct kmem_cache_node``, as far as pointers lead to one."""
    return _all_pointers(machine, caches)[0]


def _all_pointers(machine: Machine, caches: Caches) -> Tuple[U64, U64]:
    # Of all caches: those that can lead to a node, and those that lead into the middle of it.
    every = node_pointers(machine, caches, "node", every=True)[2]
    inside = inside_objects(machine, caches, every)
    aligned = every % np.uint64(machine.memory.word_size) == 0
    return every[aligned & ~inside], every[inside]


def lists_by_cache(walks: Iterable[Walked]) -> Dict[int, List[Walked]]:
    """Return the lists of each cache that has any."""
    found: Dict[int, List[Walked]] = {}
    for walked in walks:
        found.setdefault(walked.head.cache, []).append(walked)
    return found


def memberships(walks: Iterable[Walked], rows: I64, index: SlabIndex, ledger: Ledger) -> None:
    """
    Enter the lists of one cache into its ledger.

    :param walks: Of that cache.
    :param rows: Rows of the index that are the rows of ``ledger.slabs``.
    """
    parts = []
    breaks: List[Break] = []
    for head, members, broken in walks:
        if broken is not None:
            breaks.append(broken)
        parts.append(
            Memberships.build(
                len(members),
                slab=local_rows(rows, members),
                page=index.pages[members],
                kind=int(head.kind),
                owner=head.owner,
                position=np.arange(len(members), dtype=np.int64),
            )
        )
    ledger.memberships = Memberships.join(parts)
    ledger.breaks += breaks


def regions(nodes: Nodes) -> Iterator[Region]:
    """Yield every ``struct kmem_cache_node``."""
    yield region("cache nodes", nodes.rows.addresses, nodes.rows.structure.size)
