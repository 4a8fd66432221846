# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Walking lists of slabs
----------------------

Lists are walked over the link columns of the index, from their head forward
and, where a link is wrong, from their head backward, so that one damaged link
costs nothing but itself. Nothing here trusts a list to end.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Iterable, List, NamedTuple, Optional, Set, Tuple

import numpy as np
from drgn import FaultError

from ..distinct import distinct
from ..index import KnownBy, SlabIndex
from ..ledger import I64, U64, Break, ListKind
from ..machine import Machine
from ..machine.activities import SLUB_SHRINK
from .links import unlisted

_MAX_LINKS = 1 << 16  # more sheaves or deferred objects than any list holds


class ListHead(NamedTuple):
    """A ``struct list_head`` that heads a list of slabs."""

    kind: ListKind
    cache: int
    """Position of the cache in the list of caches."""
    owner: int
    """Node whose list it is."""
    address: int
    next: int
    prev: int
    busy: bool = False
    """Whether the lock of the list was held."""


class Walked(NamedTuple):
    """The slabs of one list, as far as its links lead."""

    head: ListHead
    rows: I64
    """Rows of the index, in list order."""
    broken: Optional[Break]


class SlabLists:
    """The link columns of an index, ready for walking."""

    def __init__(self, index: SlabIndex) -> None:
        self.index = index
        self._offset = index.structure.offset("slab_list")
        self._load()

    def _load(self) -> None:
        # Seen as plain numbers: stepping through numpy scalars costs ten times as
        # much, and lists of all links a hundred bytes for each slab.
        self._next = self.index["slab_list.next"].data
        self._prev = self.index["slab_list.prev"].data
        links = self.index.pages + np.uint64(self._offset)
        order = np.argsort(links, kind="stable")
        ordered = links[order]
        self._links, self._rows = ordered.data, order.data
        # Rows of slabs that lead to each other, so that no slab follows two others.
        self._after = np.full(len(links), -1, np.int32).data
        if len(links):
            ahead = self.index["slab_list.next"]
            at = np.minimum(ordered.searchsorted(ahead), len(links) - 1)
            behind = self.index["slab_list.prev"][order[at]]
            closed = (ordered[at] == ahead) & (behind == links)
            self._after = np.where(closed, order[at], -1).astype(np.int32).data

    def _find(self, link: int, member: str, neighbour: int) -> int:
        # Row of the slab whose slab_list is at this address; -1 if it is none.
        # A page that is not in the index counts only if it links back.
        row = self._row(link)
        if row >= 0 and not self.index.stale[row]:
            return row
        page = np.array([(link - self._offset) & 0xFFFFFFFFFFFFFFFF], np.uint64)
        if not self.index.is_memory_map(page)[0]:
            return -1
        copy = self.index.peek(page)
        if (
            not len(copy)
            or self.index.structure.column(copy, f"slab_list.{member}")[0] != neighbour
        ):
            return -1
        self.index.add(page, KnownBy.LIST)
        self._load()
        return self._row(link)

    def _row(self, link: int) -> int:
        at = bisect_right(self._links, link) - 1
        row: int = self._rows[at] if at >= 0 and self._links[at] == link else -1
        return row

    def walk(self, head: ListHead) -> Walked:
        """
        Walk one list; slabs that were unknown are added to the index.

        Forward as long as every ``next`` leads to a slab whose ``prev`` leads
        back; then backward from the head to pick up the rest.
        """
        rows: List[int] = []
        seen: Set[int] = set()
        at, link, broken = head.address, head.next, None
        # A head that lies where a slab's links are is damage.
        runs = self._row(head.address) < 0
        while link != head.address:
            row = self._find(link, "prev", at)
            seen.update(rows[len(seen) :])  # of most lists, the first run is the last
            if row < 0 or row in seen or self._prev[row] != at:
                break
            run = self._run(row) if runs else [row]
            rows += run
            at, link = int(self.index.pages[run[-1]]) + self._offset, self._next[run[-1]]
        # A next that leads back to the head too early shows only in its prev.
        if link != head.address or head.prev != at:
            rows, broken = self._torn(head, rows, at, link)
        known = np.array(rows, np.int64)
        self.index.known_by[known] |= np.uint8(KnownBy.LIST)
        return Walked(head, known, broken)

    def _run(self, row: int) -> List[int]:
        # The slabs that follow each other from one on that none comes before.
        after, run = self._after, [row]
        while (row := after[row]) >= 0:
            run.append(row)
        return run

    def _torn(self, head: ListHead, rows: List[int], at: int, link: int) -> Tuple[List[int], Break]:
        # Two lists that run together agree with each other in every link: one of them ends
        # at the head of the other, and where it began to be the other's, its own head tells.
        last = self._row(head.prev)
        if last in rows[:-1] and self._heads(link, "prev", at):
            own = rows[: rows.index(last) + 1]
            page = int(self.index.pages[last])
            broken = _broken(head, page, "next", head.address, self._next[last])
            return own, self._bounded(head, self._placed(head, broken))
        tail, behind = self._backward(head, set(rows))
        first = self._row(head.next)
        if not rows and first in tail[1:] and self._heads(behind, "next", self._link(tail[0])):
            own = tail[tail.index(first) :]
            page = int(self.index.pages[first])
            broken = _broken(head, page, "prev", head.address, self._prev[first])
            return own, self._bounded(head, self._placed(head, broken))
        return rows + tail, self._blame(head, at, link, tail)

    def _link(self, row: int) -> int:
        return int(self.index.pages[row]) + self._offset

    def _heads(self, link: int, member: str, slab: int) -> bool:
        # Whether this is the head of a list that begins or ends with a slab.
        if self._row(link) >= 0:
            return False
        memory = self.index.machine.memory
        try:
            return memory.read_word(link + memory.word_size * (member == "prev")) == slab
        except (FaultError, OverflowError):
            return False

    def _backward(self, head: ListHead, seen: Set[int]) -> Tuple[List[int], int]:
        # And the link that is no slab of the list, at which it ends.
        rows: List[int] = []
        at, link = head.address, head.prev
        taken = set(seen)
        while link != head.address:
            row = self._find(link, "next", at)
            if row < 0 or row in taken or self._next[row] != at:
                break
            taken.add(row)
            rows.append(row)
            at, link = link, self._prev[row]
        return rows[::-1], link

    def _blame(self, head: ListHead, at: int, link: int, tail: List[int]) -> Break:
        # The walk forward stopped at a next that leads nowhere, to a slab that
        # does not lead back or to the head; what follows is known from behind.
        first, back = head.address, head.prev
        if tail:
            first, back = int(self.index.pages[tail[0]]) + self._offset, self._prev[tail[0]]
        both = link == back and link not in (at, first, head.address)
        between = self._between(link) if both else None
        if between is not None:
            broken = _broken(head, link - self._offset, "next", first, between)
            broken = broken._replace(of_page=True)
        elif link == first and back != at:
            page = first - self._offset if tail else first
            broken = _broken(head, page, "prev", at, back)
        else:
            page = at if at == head.address else at - self._offset
            broken = _broken(head, page, "next", first if back == at else None, link)
        return self._bounded(head, self._placed(head, broken))

    def _between(self, link: int) -> Optional[int]:
        # The next of a page that both of its neighbours lead to and that leads to neither, nor
        # is on another list: its own links were written over, and not theirs.
        page = np.array([(link - self._offset) & 0xFFFFFFFFFFFFFFFF], np.uint64)
        if not self.index.is_memory_map(page)[0]:
            return None
        ways = unlisted(self.index.machine, link)
        return None if ways is None else ways[0]

    def _placed(self, head: ListHead, broken: Break) -> Break:
        # With the address of the link itself.
        own = 0 if broken.at == head.address else self._offset
        step = self.index.structure.offset(f"slab_list.{broken.member}") - self._offset
        return broken._replace(word=broken.at + own + step)

    def _bounded(self, head: ListHead, broken: Break) -> Break:
        # Who puts a slab on a list or takes it off leaves one link for a moment
        # that leads to a slab or to the head. Whole lists that are joined lead
        # to the head that they had, on a stack.
        if not broken.busy:
            return broken
        found = np.array([broken.found], np.uint64)
        leads = broken.found == head.address or self._row(broken.found) >= 0
        leads = leads or bool(self.index.is_memory_map(found - np.uint64(self._offset))[0])
        if leads and broken.expected is not None:
            return broken
        memory = self.index.machine.memory
        joined = leads or bool(memory.is_kernel_address(found)[0] and found[0] % 8 == 0)
        joined = joined and self.index.layout.allocator == "SLUB"
        return broken._replace(busy=joined, activity=SLUB_SHRINK if joined else None)


def find_emptied(index: SlabIndex, walks: Iterable[Walked]) -> List[Walked]:
    """
    Mark lists that are empty by their head, while slabs still lead to it from both ends.

    For allocators that leave nothing in the links of a slab on no list.
    """
    walked_lists = list(walks)
    heads = np.array([walked.head.address for walked in walked_lists], np.uint64)
    firsts, lasts = _linked(index, "prev", heads), _linked(index, "next", heads)
    out = []
    for walked, first, last in zip(walked_lists, firsts, lasts):
        head = walked.head
        if head.next == head.address and first is not None and last not in (None, first):
            broken = _broken(head, head.address, "next", first, head.next)
            walked = walked._replace(broken=broken._replace(word=head.address))
        out.append(walked)
    return out


def _linked(index: SlabIndex, member: str, heads: U64) -> List[Optional[int]]:
    # The link of the last slab whose own one leads to each head.
    links, ordered = index[f"slab_list.{member}"], distinct(heads)
    if not len(links) or not len(heads):
        return [None] * len(heads)
    at = np.minimum(ordered.searchsorted(links), len(ordered) - 1)
    rows = (ordered[at] == links).nonzero()[0]
    # The last one of each.
    last = dict(zip(links[rows].tolist(), index.pages[rows].tolist()))
    offset = index.structure.offset("slab_list")
    return [last[head] + offset if head in last else None for head in heads.tolist()]


def _broken(head: ListHead, at: int, member: str, expected: Optional[int], found: int) -> Break:
    return Break(head.kind, head.owner, at, member, expected, found, head.busy)


def follow_links(machine: Machine, head: int) -> List[int]:
    """
    Return the links of a ``struct list_head`` or ``struct llist_head``.

    That is, as far as they can be followed: nothing here judges where it ends.
    """
    found: List[int] = []
    seen: Set[int] = {head}
    at = head
    while len(found) < _MAX_LINKS:
        try:
            at = machine.memory.read_word(at)
        except FaultError:
            break
        if at in seen or not machine.memory.is_kernel_address(np.array([at], np.uint64))[0]:
            break
        seen.add(at)
        found.append(at)
    return found
