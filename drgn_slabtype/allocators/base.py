# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What an allocator module offers
-------------------------------

An allocator turns its structures into the tables of
:mod:`drgn_slabtype.ledger`. It knows places, lists and pointer formats; it
judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Protocol, Sequence, Tuple

import numpy as np
from drgn import FaultError, Program
from drgn.helpers.common.format import escape_ascii_string

from ..columns import Rows, read_rows, structure
from ..index import KnownBy, SlabIndex
from ..ledger import U64, Bools, Ledger
from ..memory import memory
from .lists import Walked

_MAX_CACHES = 1 << 20  # more slab caches than any kernel has


class Caches(NamedTuple):
    """All slab caches of the machine."""

    rows: Rows
    """One ``struct kmem_cache`` each, up to the entries of its node array that exist."""
    names: List[str]
    """Escaped names."""
    dying: Bools
    """Which are being destroyed and wait for RCU (``slab_caches_to_rcu_destroy``)."""
    broken_at: Optional[int]
    """Address in the list of caches where its links stop making sense."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def addresses(self) -> U64:
        """``struct kmem_cache *`` of each."""
        return self.rows.addresses


@dataclass
class Ownership:
    """Which cache each row of the index belongs to, decided once."""

    cache: np.ndarray[Tuple[int], np.dtype[np.int64]]
    """Position of the cache; -1 if nothing tells."""
    told: np.ndarray[Tuple[int], np.dtype[np.int64]]
    """Position of the cache that the slab's own pointer names; -1 if it names none."""

    def rows_of(self, number: int) -> np.ndarray[Tuple[int], np.dtype[np.int64]]:
        """Return the rows that belong to one cache."""
        return np.flatnonzero(self.cache == number)


class Allocator(Protocol):
    """One slab allocator of one program."""

    name: str
    """``SLAB`` or ``SLUB``."""
    caches: Caches
    ownership: Ownership
    """Which cache each slab belongs to; set by :meth:`discover`."""

    def discover(self, index: SlabIndex) -> None:
        """Walk all lists and CPUs, and add to the index the slabs that have lost their mark."""

    def collect(self, number: int, index: SlabIndex) -> Ledger:
        """
        Read everything about one cache.

        :param number: Position in :attr:`caches`.
        """

    def unreadable(self, number: int) -> List[str]:
        """Return what of one cache's own structures is not in the target, in words."""


def read_caches(prog: Program) -> Caches:
    """
    Read every ``struct kmem_cache`` on ``slab_caches``.

    The list is walked forward, and backward from its head after a broken link.
    """
    addresses, broken = _walk_caches(prog, "slab_caches")
    try:
        dying, _ = _walk_caches(prog, "slab_caches_to_rcu_destroy")
    except LookupError:
        dying = []
    layout = structure(prog, "struct kmem_cache")
    node_array = "per_node" if layout.has("per_node") else "node"
    entry = layout.type.member(node_array).type.type
    size = layout.offset(node_array) + node_ids(prog) * (entry.size or memory(prog).word_size)
    rows = read_rows(prog, "struct kmem_cache", np.array(addresses + dying, np.uint64), size)
    names = [
        _cache_name(prog, pointer, address)
        for pointer, address in zip(rows["name"].tolist(), rows.addresses.tolist())
    ]
    is_dying = np.arange(len(names)) >= len(addresses)
    return Caches(rows, names, is_dying, broken)


def node_ids(prog: Program) -> int:
    """Return ``nr_node_ids``: how many entries of per-node arrays exist."""
    try:
        return int(prog["nr_node_ids"])
    except LookupError:
        return 1


def _cache_name(prog: Program, pointer: int, address: int) -> str:
    try:
        return escape_ascii_string(prog.read_c_string(pointer, max_size=256), escape_backslash=True)
    except FaultError:
        return f"(cache 0x{address:x})"


def _walk_caches(prog: Program, symbol: str) -> Tuple[List[int], Optional[int]]:
    # Links are read one by one: there are hundreds of caches, not millions.
    head = prog[symbol].address_
    assert head is not None
    offset = structure(prog, "struct kmem_cache").offset("list")
    word = memory(prog).word_size
    forward, broken = _follow(prog, head, 0)
    if broken is None:
        return [link - offset for link in forward], None
    backward, _ = _follow(prog, head, word)
    known = set(forward)
    rest = [link for link in reversed(backward) if link not in known]
    return [link - offset for link in forward + rest], broken


def _follow(prog: Program, head: int, which: int) -> Tuple[List[int], Optional[int]]:
    source = memory(prog)
    found: List[int] = []
    seen = {head}
    at = head
    while len(found) < _MAX_CACHES:
        try:
            link = prog.read_word(at + which)
            if link == head:
                return found, None
            other = prog.read_word(link + source.word_size - which) if link > 4096 else None
        except FaultError:
            return found, at
        kernel = source.is_kernel_address(np.array([link], np.uint64))[0]
        if link in seen or other != at or not kernel:
            return found, at
        seen.add(link)
        found.append(link)
        at = link
    return found, at


def decide_ownership(
    index: SlabIndex, caches: Caches, walks: Sequence[Walked], cpu_rows: Sequence[Tuple[int, int]]
) -> Ownership:
    """
    Decide the cache of every slab from back pointer, lists and CPUs together.

    A whole list or a CPU outweighs the slab's own pointer: one word is damaged
    more easily than three.

    :param cpu_rows: (cache, row) of slabs that a CPU holds.
    """
    addresses = caches.addresses
    order = np.argsort(addresses, kind="stable")
    pointers = index["slab_cache"]
    at = np.minimum(np.searchsorted(addresses[order], pointers), max(len(order) - 1, 0))
    told = np.full(len(index), -1, np.int64)
    if len(order):
        told = np.where(addresses[order][at] == pointers, order[at], -1).astype(np.int64)
    cache = told.copy()
    cache[(index.known_by & np.uint8(KnownBy.KFENCE)) != 0] = -1
    for walked in walks:
        cache[walked.rows] = walked.head.cache
    for number, row in cpu_rows:
        cache[row] = number
    return Ownership(cache, told)


def lock_is_held(words: U64) -> Bools:
    """
    Return which spinlocks are held, from the first 32 bits of each.

    A queued spinlock is 0 when free; a ticket lock's halves are equal.
    """
    low = words & np.uint64(0xFFFF)
    high = (words >> np.uint64(16)) & np.uint64(0xFFFF)
    return low != high
