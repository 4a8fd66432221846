# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sheaves (SLUB since Linux 6.18)
-------------------------------

A sheaf is an array of free objects that count as in use in their slabs. Each
CPU has a main sheaf, perhaps a spare and one being filled by kfree_rcu(); each
node has a barn of full and empty ones.

Since Linux kernel commit 2d517aa09bbc ("slab: add opt-in caching layer of
percpu sheaves") (in v6.18). A sheaf that a caller holds, or that waits for its
grace period, cannot be reached from the cache: its objects look allocated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Optional, Tuple

import numpy as np

from ...arguments import named
from ...distinct import distinct
from ...index import SlabIndex
from ...ledger import I64, U64, Bools, Suspect
from ...machine import Machine
from ...machine.architecture import of_program
from ...machine.locks import lock_states
from ...regions import Region, region
from ..caches import Caches, same_cache
from ..locks import lock_suspects
from ..nodes import Nodes, read_nodes
from ..percpu import every_copy, per_cpu_structures
from ..pointers import wild_pointers
from .barns import Found, read_barns, sheaf_region
from .sheafcontents import SheafContents

_MOST_BYTES = 64 << 10  # of a slab that holds sheaves
_LINKS = ("barn_list.next", "barn_list.prev")
_TOP = np.uint64(48)  # the bits from here on tell what a word can be: eight letters are none


@dataclass
class Sheaves:
    """Every sheaf that can be reached from the chosen caches."""

    barns: U64
    """``struct node_barn *`` of each cache and node."""
    sound: U64 = field(default_factory=lambda: np.zeros(0, np.uint64))
    """Addresses of the sheaves that are what their places say."""
    by_cache: Dict[int, List[Found]] = field(default_factory=dict)
    """The sheaves of each cache; what is none of it is set aside."""
    suspects: Dict[int, List[Suspect]] = field(default_factory=dict)
    """What is wrong with them, by cache."""
    lost: Dict[int, List[str]] = field(default_factory=dict)
    """What is not in the target, in words, by cache."""

    _contents: Optional[SheafContents] = None

    def contents(self, caches: Caches, index: SlabIndex, owner: I64) -> SheafContents:
        """
        Return what stands in them.

        :param owner: Position of the cache of each row of the index.
        """
        if self._contents is None:
            self._contents = SheafContents(self.by_cache, caches, index, owner)
        return self._contents

    def suspect(self, cache: int, suspect: Suspect) -> None:
        """Remember what is wrong with the sheaves of a cache."""
        self.suspects.setdefault(cache, []).append(suspect)


def read_sheaves(machine: Machine, caches: Caches, nodes: Nodes) -> Optional[Sheaves]:
    """Find the sheaves of the chosen caches; ``None`` before Linux 6.18."""
    if not machine.structure("struct kmem_cache").has("cpu_sheaves"):
        return None
    barns = read_barns(machine, caches, nodes)
    sheaves = Sheaves(barns.addresses)
    found = [*_of_cpus(machine, caches, sheaves), *barns.sheaves]
    for cache, suspect in barns.suspects:
        sheaves.suspect(cache, suspect)
    _sort_out(machine, caches, found, sheaves)
    return sheaves


def sheaves_of(
    machine: Machine, caches: Caches, cache: int, known: Optional[Sheaves]
) -> Optional[Sheaves]:
    """
    Return the sheaves of one of the chosen caches, when it is judged.

    Of many caches that move they are read again: a barn's list and what its sheaves
    hold belong together.

    :param known: Those of all chosen caches, from when they were found.
    """
    if known is None or not machine.is_live or np.count_nonzero(caches.chosen) == 1:
        return known
    one = caches.choose([cache]).again(machine.memory)
    return read_sheaves(machine, one, read_nodes(machine, one))


def sound_sheaves_in(index: SlabIndex, caches: Caches) -> U64:
    """
    Return the sheaves that lie in the slabs of an index, whatever cache they are of.

    An object that reads as a sheaf names its cache, where it has to be found.

    :param index: Of a few slabs.
    :param caches: All caches.
    """
    machine, source = index.machine, index.machine.memory
    layout = machine.structure("struct slab_sheaf")
    step = np.uint64(source.word_size)
    found = [np.zeros(0, np.uint64)]
    for start, span in zip(index.addresses.tolist(), index.spans.tolist()):
        last = start + min(span, _MOST_BYTES) - layout.offset("objects")
        starts = np.arange(start, max(last, start), step, dtype=np.uint64)
        told = machine.rows("struct slab_sheaf", starts, layout.offset("objects"))["cache"]
        owner = same_cache(told, caches)
        candidates = starts[owner >= 0]
        for number in distinct(owner[owner >= 0]).tolist():
            one = caches.choose([number])
            sheaves = read_sheaves(machine, one, read_nodes(machine, one))
            if sheaves is not None:
                found.append(np.intersect1d(candidates, sheaves.sound))
    return np.concatenate(found)


def _of_cpus(machine: Machine, caches: Caches, sheaves: Sheaves) -> Iterator[Found]:
    # Before Linux 7.0, caches without sheaves have no such structures.
    needed = caches.listed & (caches.rows["sheaf_capacity"] != 0)
    word = machine.memory.word_size
    per_cpu = per_cpu_structures(
        machine, caches, "cpu_sheaves", "struct slub_percpu_sheaves", word, needed
    )
    for number in np.flatnonzero(per_cpu.wild).tolist():
        for suspect in per_cpu.suspects(number, "cpu sheaves"):
            sheaves.suspect(number, suspect)
    rows = machine.rows("struct slub_percpu_sheaves", per_cpu.addresses)
    cpus = machine.cpus[per_cpu.column]
    for at in np.flatnonzero(~rows.ok).tolist():
        what = f"struct slub_percpu_sheaves of CPU {cpus[at]}"
        sheaves.lost.setdefault(int(per_cpu.cache[at]), []).append(what)
    locks = lock_states(machine, rows, "lock")
    for at, suspect in lock_suspects(locks, cpus=cpus, place="cpu sheaves"):
        sheaves.suspect(int(per_cpu.cache[at]), suspect)
    for place in ("main", "spare", "rcu_free"):
        pointers = rows[place]
        # Each CPU has a main sheaf, be it one that stands in for none.
        there = (pointers != 0) | (rows.ok & (place == "main"))
        stands = rows.addresses + np.uint64(rows.structure.offset(place))
        for at in np.flatnonzero(there).tolist():
            cache, owner = int(per_cpu.cache[at]), int(cpus[at])
            held = bool(locks.held[at])
            sheaf = int(pointers[at])
            yield Found(cache, f"{place} sheaf", owner, sheaf, held, int(stands[at]))


def _sort_out(machine: Machine, caches: Caches, found: List[Found], sheaves: Sheaves) -> None:
    # Sets aside what is no sheaf of its cache, or stands in a second place.
    source, capacity = machine.memory, caches.rows["sheaf_capacity"].astype(np.int64)
    addresses = np.array([sheaf.address for sheaf in found], np.uint64)
    width = machine.structure("struct slab_sheaf").offset("objects")
    heads = machine.rows("struct slab_sheaf", addresses, width)
    wild = wild_pointers(machine, addresses, source.word_size, heads.ok).tolist()
    # Of one that is on no list: what list_del() or call_rcu() has left, a capacity, or one that
    # was written over half of that.
    poison = np.uint64(of_program(machine.prog).poison or 0) >> _TOP
    can_be: Dict[str, Bools] = {}
    for member in _LINKS:
        if heads.structure.has(member):
            top = heads[member] >> _TOP
            left = (top == 0) | (top == poison)
            can_be[member] = left | source.is_kernel_address(heads[member])
    seen: Dict[int, Found] = {}
    sound = []
    for at, sheaf in enumerate(found):
        owner, size = int(heads["cache"][at]), int(heads["size"][at])
        own = int(caches.addresses[sheaf.cache])
        wrong: Optional[Tuple[str, Optional[int], int]] = None
        if wild[at]:
            wrong = "is none", None, sheaf.address
        elif heads.ok[at] and owner != own and (owner or size or capacity[sheaf.cache]):
            wrong = "is none of this cache", own, owner
        elif owner == own and sheaf.address in seen:
            wrong = f"is also in {seen[sheaf.address].name}", None, sheaf.address
        if wrong is not None:
            # Sheaves are exchanged one after the other, under the CPU's lock or
            # the barn's; every other state of them is made before they stand there.
            other = seen.get(sheaf.address)
            passes = other is not None and _exchanged(other, sheaf)
            one = sheaf._replace(busy=sheaf.busy or (other is not None and other.busy))
            said = one.suspect(*wrong, passes)
            if not wild[at] and owner != own:
                said = said._replace(word=sheaf.address + heads.structure.offset("cache"))
            sheaves.suspect(sheaf.cache, said)
            continue
        if owner == own:
            seen[sheaf.address] = sheaf
            sound.append(sheaf.address)
            for member in can_be if sheaf.pointer is not None else ():
                link = int(heads[member][at])
                if not can_be[member][at]:
                    said = sheaf.suspect(f"has {named(link)} for {member}", None, link)
                    offset = heads.structure.offset(member)
                    said = said._replace(word=sheaf.address + offset, member=member)
                    sheaves.suspect(sheaf.cache, said)
        sheaves.by_cache.setdefault(sheaf.cache, []).append(sheaf)
    sheaves.sound = np.array(sound, np.uint64)


def _exchanged(one: Found, other: Found) -> bool:
    # Between two places of one CPU, or a CPU and a barn.
    at_home = ["barn" in place for place in (one.place, other.place)]
    return any(at_home) != all(at_home) or (not any(at_home) and one.owner == other.owner)


def regions(machine: Machine, caches: Caches) -> Iterator[Region]:
    """Yield the sheaves of every CPU."""
    if not caches.rows.structure.has("cpu_sheaves"):
        return
    cache, addresses = every_copy(machine, caches, "cpu_sheaves")
    rows = machine.rows("struct slub_percpu_sheaves", addresses)
    yield region("per-CPU slabs and sheaves", addresses, rows.structure.size)
    for member in ("main", "spare", "rcu_free"):
        yield sheaf_region(machine, caches, cache, rows[member])
