# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One reading of a scope
----------------------

What is read once, for all caches or for as few as the question is about; the
rest is read cache by cache, and dropped.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Type

import numpy as np
from drgn import FaultError

from .allocators import open_again, open_allocator
from .allocators.base import Allocator
from .allocators.caches import Caches, read_caches, read_caches_apart, same_cache
from .allocators.vectors import Held, held_vectors, vector_words
from .distinct import distinct
from .errors import SlabTypeError
from .findings import Finding
from .index import SlabIndex, slabs_at
from .ledger import U64, Facts, Ledger, Slabs
from .machine import Machine
from .pages.scan import PageScan, Progress, scan
from .records import plural
from .rules import judge
from .rules.lists import NO_LIST
from .rules.vectors import Freed, judge_freed

# What memory that is not in the target can make look wrong.
_EXPLAINED_BY_HOLES = frozenset(
    {
        "claim-foreign",
        "container-state",
        "freelist-array",
        "list-missing",
        "node-free-objects",
        "node-list-length",
        "node-objects",
        "node-slabs",
        "slab-in-transit",
    }
)


_MOST_SPOILERS = 8  # caches that cost no more than themselves

CAUGHT: Tuple[Type[Exception], ...] = (Exception,)
"""
What costs no more than the cache or the question it comes from.

Memory can hold anything, and no program foresees all of it. The tests take it
away, so that nothing they meet is hidden by it.
"""


class Scope(NamedTuple):
    """What a reading is about: the whole machine, if nothing is said."""

    caches: Optional[Tuple[int, ...]] = None
    """``struct kmem_cache *`` of some caches: of them alone nodes, CPUs and places are read."""
    slab: Optional[int] = None
    """``struct slab *`` of one slab: read with the places of its cache and its list neighbours."""


MACHINE = Scope()


class Reading:
    """
    One look at the memory of a machine.

    :param scope: What it is about. A reading of less than the machine may meet
        what it cannot settle: see :meth:`doubts`.
    :param after: A reading of these caches, or of more, a moment ago. Which slabs there
        are is taken from there, and what is left to read is read at once: the slabs of
        these caches, the heads of their lists, and what their counters say.
    :raises LayoutError: if the kernel's layout is not understood.
    """

    def __init__(
        self,
        machine: Machine,
        scope: Scope = MACHINE,
        progress: Optional[Progress] = None,
        after: Optional[Reading] = None,
    ) -> None:
        self.machine = machine
        self.scope = scope
        self.scan: Optional[PageScan] = None
        """The pass over the memory map, where there was one."""
        self.lost: Dict[int, Finding] = {}
        """
        What is said of caches without which the others could be read, by position in
        ``allocator.caches``.
        """
        self.index: SlabIndex
        self.allocator: Allocator
        if after is not None:
            before, caches = after, after.allocator.caches
            if scope.caches is not None:
                caches = _choose(caches, scope.caches)
            caches = caches.again(machine.memory)
            owner = after.allocator.ownership.cache
            rows = np.flatnonzero((owner >= 0) & caches.chosen[owner])
            self._open(lambda: before.index.again(rows), caches, after)
            return
        if scope.slab is not None:
            self.index = slabs_at(machine, np.array([scope.slab], np.uint64))
            wanted = tuple(self.index["slab_cache"].tolist())
            self.allocator = open_again(machine, _choose(machine.settled(read_caches), wanted))
            self.allocator.discover(self.index)
            return
        self.scan = scan(machine, progress)
        heads = self.scan.heads
        self.index = SlabIndex(machine, heads, mapped=True)
        told = distinct(self.index["slab_cache"]).tolist()
        caches = read_caches_apart(machine, told)
        if scope.caches is not None:
            caches = _choose(caches, scope.caches)
        self._open(lambda: SlabIndex(machine, heads, mapped=True), caches)

    def _open(
        self, index: Callable[[], SlabIndex], caches: Caches, after: Optional[Reading] = None
    ) -> None:
        # What goes wrong with all caches at once is tried with fewer, until it is known
        # which of them it comes from.
        self.index = index()
        wrong = self._try(caches, after)
        if wrong is None:
            return

        def spoilers(numbers: List[int]) -> Dict[int, Exception]:
            self.index = index()
            found = self._try(caches.choose(numbers), after)
            if found is None:
                return {}
            if len(numbers) < 2:
                return dict.fromkeys(numbers or [-1], found)
            half = len(numbers) // 2
            some = {**spoilers(numbers[:half]), **spoilers(numbers[half:])}
            if len(some) > _MOST_SPOILERS:
                raise wrong
            return some

        if spoilers([]):
            raise wrong
        chosen = np.flatnonzero(caches.chosen).tolist()
        errors = spoilers(chosen)
        for number, error in errors.items():
            name = caches.names[number]
            self.lost[number] = replace(not_read(name, error), cache=name)
        self.index = index()
        self._discover(caches.choose([one for one in chosen if one not in errors]), after)

    def _try(self, caches: Caches, after: Optional[Reading]) -> Optional[Exception]:
        try:
            self._discover(caches, after)
        except (OSError, SlabTypeError):  # of the target as a whole
            raise
        except CAUGHT as error:
            return error
        return None

    def _discover(self, caches: Caches, after: Optional[Reading]) -> None:
        self.allocator = open_allocator(self.machine, caches)
        if after is not None:
            self.allocator.believe(after.allocator)
        self.allocator.discover(self.index)

    def read_ahead(self, numbers: Sequence[int], jobs: int = 1) -> Iterator[Sequence[int]]:
        """
        Yield the caches that are to be judged, some at a time, for which less is left to read now.

        On a target that moves a cache has to be read at once, and all are left as they are.

        :param jobs: How many processes read.
        """
        if self.machine.is_live:
            return iter([numbers])
        return self.allocator.read_ahead(numbers, self.index, jobs)

    def judge(self, number: int) -> Tuple[Ledger, List[Finding]]:
        """
        Read and judge one cache.

        What goes wrong in this costs that cache, and is said to.

        :param number: Position in ``self.allocator.caches``.
        """
        if number in self.lost:
            return _nothing(self.allocator.caches, number), [self.lost[number]]
        try:
            return self._judge(number)
        except (OSError, SlabTypeError):  # of the target as a whole
            raise
        except CAUGHT as error:
            caches = self.allocator.caches
            lost = replace(not_read(caches.names[number], error), cache=caches.names[number])
            return _nothing(caches, number), [lost]

    def _judge(self, number: int) -> Tuple[Ledger, List[Finding]]:
        caches = self.allocator.caches
        if not caches.rows.ok[number]:
            name, address = caches.names[number], caches.addresses[number]
            told = f"{name}: struct kmem_cache at 0x{address:x} is not in the target"
            lost = Finding("unreadable", told, name)
            return _nothing(caches, number), [lost]
        ledger = self.allocator.collect(number, self.index)
        findings = judge(ledger, self.machine.layout.encoding)
        lost_parts = self.allocator.unreadable(number)
        if lost_parts or self._has_holes:
            findings = [_doubted(self.machine, finding) for finding in findings]
            torn = any(finding.code == "unreadable" for finding in findings)
            if lost_parts or torn or _hides_cpus(self.machine):
                findings = [_perhaps_of_a_cpu(finding) for finding in findings]
        name = caches.names[number]
        findings = judge_freed(ledger, self._freed(ledger), findings)
        if ledger.unread:  # counted while they were judged
            lost_parts = [*lost_parts, f"what is in {plural(ledger.unread, 'slab')}"]
        return ledger, findings + [
            Finding("unreadable", f"{name}: {part} is not in the target", name, id=-1 - at)
            for at, part in enumerate(lost_parts)
        ]

    @cached_property
    def _has_holes(self) -> bool:
        # Whether slabs, or what CPUs have of caches, may be missing.
        unread = self.scan is not None and self.scan.unreadable
        return bool(unread or _hides_cpus(self.machine))

    def _freed(self, ledger: Ledger) -> Iterator[Freed]:
        # Vectors of slabs of any cache in objects of this one.
        if not self.index.whole:
            return
        owner, names = self.allocator.ownership.cache, self.allocator.caches.names
        for row, claim in self._vectors.freed(ledger.claims):
            page, vector = int(self.index.pages[row]), int(self._words[row])
            yield Freed(names[owner[row]], page, vector, claim)

    @cached_property
    def _vectors(self) -> Held:
        return held_vectors(self.index, self.allocator.ownership.cache)

    @cached_property
    def _words(self) -> U64:
        return vector_words(self.index)

    def doubts(self, ledger: Ledger, findings: Sequence[Finding]) -> List[str]:
        """
        Return why a reading of less than the machine does not settle what it is about.

        What it shows of a slab or a cache that nothing speaks against is what a
        reading of the whole machine would show. Where anything does, that has
        to be asked.

        :param ledger: What :meth:`judge` returned, with *findings*.
        """
        doubts = [*self.index.doubts]
        doubts += [finding.message for finding in findings if finding.rule != "note"]
        slabs = ledger.slabs
        if self.scope.slab is not None and not len(slabs):
            doubts.append("it is a slab of no cache")
        on_the_way = (slabs.transit | slabs.busy | slabs.excused).any()
        if self.scope.slab is not None and not len(ledger.memberships) and on_the_way:
            doubts.append("it may be on its way between two lists")
        return doubts


def _hides_cpus(machine: Machine) -> bool:
    # Whether what CPUs have of any cache may be missing.
    is_cut = any(one.rule == "unavailable" for one in machine.memory_map.damage)
    return bool(is_cut or machine.per_cpu.lost.any())


def _doubted(machine: Machine, finding: Finding) -> Finding:
    # A slab whose struct page, or a list whose head, is not in the target
    # is missing in every sum and on every list.
    if finding.code in _EXPLAINED_BY_HOLES:
        return finding.told_as("not-judged")
    if finding.code in ("list-links", "list-broken") and isinstance(finding.found, int):
        try:
            machine.memory.read(finding.found, 1)
        except FaultError:
            return finding.told_as("unreadable")
    return finding


def _perhaps_of_a_cpu(finding: Finding) -> Finding:
    # A frozen slab is a CPU's, which is not in the target, or led to it through what is not.
    on_no_list = finding.code == "slab-frozen" and finding.place == NO_LIST
    return finding.told_as("not-judged") if on_no_list else finding


def _nothing(caches: Caches, number: int) -> Ledger:
    name, address = caches.names[number], int(caches.addresses[number])
    return Ledger(Facts(name, address, 0, 1, 0), (), Slabs.empty())


def _choose(caches: Caches, addresses: Sequence[int]) -> Caches:
    numbers = same_cache(np.array(addresses, np.uint64), caches)
    return caches.choose(numbers[numbers >= 0].tolist())


def not_read(what: str, error: Exception) -> Finding:
    """
    Return what is to be said of something that this program could not make sense of.

    :param what: What was read.
    """
    at = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return Finding(
        "not-read",
        f"{what}: could not be read: {type(error).__name__}: {text} "
        f"({Path(at.filename).name}:{at.lineno})",
    )
