# SPDX-License-Identifier: LGPL-2.1-or-later
"""
CPU slabs (SLUB to Linux 6.19)
------------------------------

Each CPU allocates from a slab of its own, ``kmem_cache_cpu.slab``, through a
private freelist whose objects count as in use, and keeps a chain of partial
slabs for later.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np
from drgn import FaultError

from ...arguments import named
from ...codes import ADDRESS, SLABS, WORD
from ...index import KnownBy, SlabIndex
from ...ledger import I64, U64, Bools, Ledger, ListKind, Memberships, Suspect
from ...machine import Machine
from ...machine.columns import Rows
from ...machine.locks import lock_states
from ...machine.percpu import most_cpus
from ...records import plural
from ...regions import Region, region
from ...rules.alike import wrong_transactions
from ..arrays import local_rows
from ..base import Fits
from ..caches import Caches, same_cache
from ..locks import lock_suspects
from ..percpu import PerCpu, every_copy, per_cpu_structures


class PartialChain(NamedTuple):
    """The slabs a CPU keeps for later."""

    cache: int
    cpu: int
    head: int
    """Address of ``kmem_cache_cpu.partial``."""
    rows: I64
    """Rows of the index, from ``kmem_cache_cpu.partial`` on."""
    stop: Optional[int]
    """Pointer at which the chain ended though it was not NULL."""


class CpuSlabs:
    """Every ``struct kmem_cache_cpu`` of the machine."""

    def __init__(self, machine: Machine, found: PerCpu, cpu: I64, rows: Rows, step: int) -> None:
        self.cache = found.cache
        """Position of the cache."""
        self.cpu = cpu
        self.rows = rows
        self._found = found
        self.slab: U64 = rows[_slab(rows)]
        """``struct slab *`` the CPU allocates from."""
        self.freelist: U64 = rows["freelist"]
        """First object of the CPU's private freelist."""
        self.partial: U64 = np.zeros(len(rows), np.uint64)
        if rows.structure.has("partial"):
            self.partial = rows["partial"]
        self.tid: U64 = rows["tid"]
        """Numbers of the next transaction of each."""
        there = rows.ok.nonzero()[0]
        self._wrong_tid = np.zeros(len(rows), np.bool_)
        self._wrong_tid[there] = wrong_transactions(self.tid[there], cpu[there], step)
        self.slab_row: I64 = np.full(len(rows), -1, np.int64)
        """Row of the index of :attr:`slab`."""
        self._wild: Bools = np.zeros(len(rows), np.bool_)
        self.chains: List[PartialChain] = []
        self._locks: List[Tuple[int, Suspect]] = []
        if rows.structure.has("lock"):
            states = lock_states(machine, rows, "lock")
            self._locks += lock_suspects(states, cpus=cpu, place="cpu slab")

    def unreadable(self, cache: int) -> List[str]:
        """Return the CPUs' structures of a cache that are not in the target, in words."""
        mine = self.rows_of(cache)
        lost = mine[~self.rows.ok[mine]]
        return [f"struct kmem_cache_cpu of CPU {self.cpu[row]}" for row in lost.tolist()]

    def rows_of(self, cache: int) -> I64:
        """Return the rows that belong to one cache; they follow each other."""
        low, high = self.cache.searchsorted([cache, cache + 1])
        return np.arange(low, high)

    def locate(self, index: SlabIndex, caches: Caches, fits: Fits) -> None:
        """
        Find the slabs in the index, adding those that have lost their mark.

        Node lists have been walked before: no slab of theirs is in a chain. An index
        that is not of the whole machine is asked about the slabs that are in it.
        """
        self._wild = (self.slab != 0) & ~index.is_memory_map(self.slab)
        if not index.whole:
            self._locate_one(index)
            return
        index.add(self.slab[self.slab != 0], KnownBy.CPU)
        self.slab_row = np.where(self.slab != 0, index.rows_of_pages(self.slab), -1)
        self.chains = []
        walker = _ChainWalker(index, caches, fits)
        for at in self.partial.nonzero()[0].tolist():
            rows, stop = walker.walk(int(self.partial[at]), int(self.cache[at]))
            index.known_by[rows] |= np.uint8(KnownBy.CPU)
            self.chains.append(PartialChain(*self._owner(at), rows, stop))

    def _locate_one(self, index: SlabIndex) -> None:
        page = int(index.pages[0])
        self.slab_row = np.where(self.slab == np.uint64(page), 0, -1)
        self.chains = []
        next_slab = index.structure.offset("next") if self.partial.any() else 0
        for at in self.partial.nonzero()[0].tolist():
            cpu, slab = int(self.cpu[at]), int(self.partial[at])
            seen: Set[int] = set()
            while slab and slab != page:
                if slab in seen or not index.is_page(slab):
                    index.doubts.append(f"the partial chain of CPU {cpu} does not end")
                    break
                seen.add(slab)
                try:
                    slab = index.machine.memory.read_word(slab + next_slab)
                except FaultError:
                    index.doubts.append(f"the partial chain of CPU {cpu} cannot be read")
                    break
            if slab == page:
                only = np.zeros(1, np.int64)
                self.chains.append(PartialChain(*self._owner(at), only, None))

    def _owner(self, at: int) -> Tuple[int, int, int]:
        head = int(self.rows.addresses[at]) + self.rows.structure.offset("partial")
        return int(self.cache[at]), int(self.cpu[at]), head

    @property
    def with_freelist(self) -> I64:
        """Rows of the index of the slabs of which a CPU has free objects."""
        return self.slab_row[(self.freelist != 0) & (self.slab_row >= 0)]

    def owners(self) -> List[Tuple[int, int]]:
        """Return (cache, row of the index) of every slab that a CPU holds."""
        held = (self.slab_row >= 0).nonzero()[0]
        pairs = list(zip(self.cache[held].tolist(), self.slab_row[held].tolist()))
        for chain in self.chains:
            pairs += [(chain.cache, row) for row in chain.rows.tolist()]
        return pairs

    def enter(self, cache: int, rows: I64, index: SlabIndex, ledger: Ledger) -> None:
        """
        Enter one cache's CPU slabs and chains into its ledger.

        :param rows: Rows of the index that are the rows of ``ledger.slabs``.
        """
        mine = self.rows_of(cache)
        ledger.suspects += self._found.suspects(cache, "cpu slab")
        ledger.suspects += [one for at, one in self._locks if self.cache[at] == cache]
        ledger.suspects += [
            Suspect(
                "container-state",
                f"tid of CPU {self.cpu[at]} is 0x{self.tid[at]:x}, which is no number of its",
                cpu=int(self.cpu[at]),
                place="cpu slab",
                found=int(self.tid[at]),
                word=int(self.rows.addresses[at]) + self.rows.structure.offset("tid"),
                measure=WORD,
            )
            for at in mine[self._wrong_tid[mine]].tolist()
        ]
        ledger.suspects += [
            Suspect(
                "container-state",
                f"slab of CPU {self.cpu[at]} is {named(self.slab[at])}",
                cpu=int(self.cpu[at]),
                place="cpu slab",
                address=int(self.rows.addresses[at]),
                found=int(self.slab[at]),
                word=int(self.rows.addresses[at]) + self.rows.structure.offset(_slab(self.rows)),
                measure=ADDRESS,
            )
            for at in mine[self._wild[mine]].tolist()
        ]
        mine = mine[self.slab_row[mine] >= 0]
        parts = [
            ledger.memberships,
            _members(index, self.slab_row[mine], rows, ListKind.CPU_SLAB, self.cpu[mine]),
        ]
        for chain in self.chains:
            if chain.cache == cache:
                kind = ListKind.CPU_PARTIAL
                cpus = np.full(len(chain.rows), chain.cpu, np.int64)
                parts.append(_members(index, chain.rows, rows, kind, cpus))
                if index.whole:
                    ledger.suspects += _judge_chain(index, chain, rows)
        ledger.memberships = Memberships.join(parts)


class _ChainWalker:
    def __init__(self, index: SlabIndex, caches: Caches, fits: Fits) -> None:
        self.index = index
        self._caches = caches
        self._fits = fits

    def walk(self, page: int, cache: int) -> Tuple[I64, Optional[int]]:
        rows: List[int] = []
        seen = set()
        while page:
            row = self._row(page)
            if row < 0 or row in seen or self._is_elsewhere(row, cache):
                return np.array(rows, np.int64), page
            seen.add(row)
            rows.append(row)
            page = int(self.index["next"][row])
        return np.array(rows, np.int64), None

    def _row(self, page: int) -> int:
        # Of the index, which gets it if it can be a slab; else -1.
        index, one = self.index, np.array([page], np.uint64)
        row = int(index.rows_of_pages(one)[0])
        if row < 0 or index.stale[row]:
            index.add(one, KnownBy.CPU)
            return int(index.rows_of_pages(one)[0])
        index.known_by[row] |= np.uint8(KnownBy.CPU)
        return row

    def _is_elsewhere(self, row: int, cache: int) -> bool:
        # On a node's list, or made like a slab of the other cache that it names.
        if self.index.known_by[row] & np.uint8(KnownBy.LIST):
            return True
        if self.index["slab_cache"][row] == self._caches.addresses[cache]:
            return False
        told = same_cache(self.index["slab_cache"][row : row + 1], self._caches)
        if told[0] in (-1, cache):
            return False
        one = np.array([row])
        return bool(self._fits(one, told)[0] and not self._fits(one, np.array([cache]))[0])


def _members(index: SlabIndex, found: I64, rows: I64, kind: ListKind, cpus: I64) -> Memberships:
    return Memberships.build(
        len(found),
        slab=local_rows(rows, found),
        page=index.pages[found],
        kind=int(kind),
        owner=cpus,
        position=np.arange(len(found), dtype=np.int64),
    )


def _judge_chain(index: SlabIndex, chain: PartialChain, rows: I64) -> List[Suspect]:
    # Each slab holds the number of slabs from itself to the end of the chain.
    local = local_rows(rows, chain.rows)
    if chain.stop is not None:
        return [
            Suspect(
                "list-broken",
                f"partial chain of CPU {chain.cpu} leads to {named(chain.stop)}",
                slab=int(local[-1]) if len(local) else -1,
                cpu=chain.cpu,
                place="cpu partial",
                found=chain.stop,
                word=int(index.pages[chain.rows[-1]]) + index.structure.offset("next")
                if len(local)
                else chain.head,
            )
        ]
    counts = "slabs" if index.structure.has("slabs") else "pages"
    kept = index[counts][chain.rows].astype(np.int64)
    should = np.arange(len(kept), 0, -1)
    return [
        Suspect(
            "container-count",
            f"partial chain of CPU {chain.cpu} counts {plural(kept[at], 'slab')}, "
            f"{should[at]} left",
            slab=int(local[at]),
            cpu=chain.cpu,
            place="cpu partial",
            expected=int(should[at]),
            found=int(kept[at]),
            word=int(index.pages[chain.rows[at]]) + index.structure.offset(counts),
            measure=SLABS,
        )
        for at in (kept != should).nonzero()[0].tolist()[:1]
    ]


def read_cpu_slabs(machine: Machine, caches: Caches) -> Optional[CpuSlabs]:
    """
    Read every ``struct kmem_cache_cpu``.

    :return: ``None`` where there are none: CONFIG_SLUB_TINY, and since Linux
        kernel commit 32c894c7274b ("slab: remove struct kmem_cache_cpu") (in v7.0).
    """
    if not machine.structure("struct kmem_cache").has("cpu_slab"):
        return None
    # Aligned to two words for the sake of this_cpu_cmpxchg_double().
    alignment = 2 * machine.memory.word_size
    layout = "struct kmem_cache_cpu"
    found = per_cpu_structures(machine, caches, "cpu_slab", layout, alignment, caches.listed)
    rows = machine.rows(layout, found.addresses)
    step = 1 << (machine.fact(most_cpus) - 1).bit_length()
    return CpuSlabs(machine, found, machine.cpus[found.column], rows, step)


def regions(machine: Machine, caches: Caches) -> Iterator[Region]:
    """Yield every ``struct kmem_cache_cpu``."""
    if caches.rows.structure.has("cpu_slab"):
        owner, addresses = every_copy(machine, caches, "cpu_slab")
        width = machine.structure("struct kmem_cache_cpu").size
        what = "per-CPU slabs and sheaves"
        # A CPU that never allocated has its own number for a tid and nothing else.
        zero = np.tile(np.array(machine.cpus) == 0, len(addresses) // len(machine.cpus))
        yield region(what, addresses[~zero], width)
        yield region(what, addresses[zero], width)._replace(unused=owner[zero])


def _slab(rows: Rows) -> str:
    # Since Linux kernel commit bb192ed9aa71 (in v5.17), the member page is named slab.
    return "slab" if rows.structure.has("slab") else "page"
