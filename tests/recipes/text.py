# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Text over structures
--------------------

``python -m tests.recipes.text CORE VMLINUX``: sixteen letters are laid over the
structures that the allocators keep of nodes and CPUs, at every word of them in
turn, locks included. Whatever lock that looks like: each must be a finding.

Debug info is read once. The structures of each cache go to a process forked from
there, in which their bytes can be changed; a check of the cache is asked first,
and one of the machine only if that finds nothing.

``--held`` does the same while all locks of the cache are held and nobody can be
seen: what a lock explains does not include text.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from drgn import FaultError, Program, Type, TypeKind, offsetof, sizeof
from drgn.helpers.linux.percpu import per_cpu_ptr

from .apart import apart
from .language import NoVictim
from .library import (
    Finding,
    Report,
    TargetError,
    TargetOptions,
    check,
    machine,
    open_target,
    witness,
)
from .machine import has_member
from .overlay import Write, order_of, overlay
from .suites import SLAB, suite_of

TEXT = b"/usr/lib/modules"
_WORD = 8
_ENTRIES = 3  # of an array that are overwritten, from its front


class Structure(NamedTuple):
    """Bytes that text is laid over."""

    name: str
    """Its type, and which of several it is."""
    type: str
    address: int
    size: int
    """How many bytes of it say something: of an array no more than its valid entries."""
    cache: str


class Reason(NamedTuple):
    """Why text over some words changes nothing that anything else follows from."""

    type: str
    name: str
    """What the names of such structures end in."""
    members: FrozenSet[str]
    """All that the text touches are among these."""
    why: str


_UNION = frozenset({"callback_head", "rcu_head", "barn_list", "llnode", "capacity", "pfmemalloc"})

REASONS: Tuple[Reason, ...] = (
    Reason(
        "struct slab_sheaf",
        " sheaf",
        _UNION,
        "a sheaf of a CPU is on no list, and is none that a caller has asked for",
    ),
)
"""Where text may pass in silence."""


@dataclass
class Result:
    """What a check said of text at one place."""

    structure: Structure
    offset: int
    members: Tuple[str, ...]
    """What the text touches."""
    outcome: str
    """``finding``, ``changing``, ``unavailable``, ``silent`` or ``exception``."""
    told: str
    """What was said first."""

    @property
    def reason(self) -> Optional[str]:
        """Why it may be other than a finding; ``None`` if it may not."""
        for one in REASONS:
            kind = one.type == self.structure.type and self.structure.name.endswith(one.name)
            if kind and set(self.members) <= one.members:
                return one.why
        return None

    @property
    def good(self) -> bool:
        """Whether it is a finding, or there is a reason that it is none."""
        return self.outcome == "finding" or (self.outcome == "silent" and self.reason is not None)

    def __str__(self) -> str:
        touched = ", ".join(self.members)
        where = f"{self.structure.name} of {self.structure.cache} +0x{self.offset:x}"
        return f"{self.outcome:11} {where} ({touched}): {self.told}"


# Structures --------------------------------------------------------------------


def structures(kernel: Any, cache: Any, slab: bool) -> Iterator[Structure]:
    """
    Yield what a cache has of nodes and CPUs, one of each kind.

    :param kernel: The machine of the recipes.
    :param slab: Whether the allocator is SLAB.
    """

    def whole(name: str, type: str, address: int) -> Structure:
        return Structure(name, type, address, sizeof(kernel.prog.type(type)), cache.name)

    for nid, node in enumerate(cache.nodes):
        if node:
            yield whole(f"node {nid}", "struct kmem_cache_node", node)
    yield from (_arrays if slab else _sheaves)(kernel, cache)
    if slab:
        return
    for nid, barn in enumerate(cache.barns):
        if barn:
            yield whole(f"barn of node {nid}", "struct node_barn", barn)
    if has_member(cache.object, "cpu_sheaves") and cache.object.cpu_sheaves:
        own = per_cpu_ptr(cache.object.cpu_sheaves, kernel.cpus[0]).value_()
        yield whole("sheaves of a CPU", "struct slub_percpu_sheaves", own)
    if kernel.has_cpu_slabs:
        found = {"CPU with a slab": [one for one in kernel.cpu_slabs if one.cache is cache]}
        found["CPU with partial slabs"] = [one for one in kernel.chains if one.cache is cache]
        found["idle CPU"] = list(kernel.idle(cache))
        for name, some in found.items():
            for one in some[:1]:
                yield whole(name, "struct kmem_cache_cpu", one.address)


def _sheaves(kernel: Any, cache: Any) -> Iterator[Structure]:
    found: Dict[str, Any] = {}
    for sheaf in kernel.sheaves:
        kept = found.get(sheaf.place)
        if sheaf.cache is cache and (kept is None or len(kept.entries) < len(sheaf.entries)):
            found[sheaf.place] = sheaf
    head = sizeof(kernel.prog.type("struct slab_sheaf")) if found else 0
    for place, sheaf in found.items():
        size = head + _WORD * min(len(sheaf.entries), _ENTRIES)
        yield Structure(place, "struct slab_sheaf", sheaf.address, size, cache.name)


def _arrays(kernel: Any, cache: Any) -> Iterator[Structure]:
    found: Dict[str, Any] = {}
    for array in kernel.arrays_of(cache):
        kept = found.get(array.place)
        if kept is None or len(kept.entries) < len(array.entries):
            found[array.place] = array
    head = offsetof(kernel.prog.type("struct array_cache"), "entry")
    for place, array in found.items():
        size = head + _WORD * min(len(array.entries), _ENTRIES)
        yield Structure(place, "struct array_cache", array.address, size, cache.name)
        if place == "alien array":
            lead = offsetof(kernel.prog.type("struct alien_cache"), "ac")
            at = array.address - lead
            yield Structure(place, "struct alien_cache", at, lead + size, cache.name)


def touched(prog: Program, one: Structure, offset: int) -> Tuple[str, ...]:
    """Return the members of a structure that text at an offset touches."""
    found = []
    for name, start, end in _members(prog.type(one.type)):
        if start < offset + len(TEXT) and offset < end:
            found.append(name)
    return tuple(found)


def _members(type: Type) -> Iterator[Tuple[str, int, int]]:
    # Name and bytes of each member; an array at the end goes on.
    for member in type.members or ():
        start = member.bit_offset // 8
        if member.name is None:
            for name, first, end in _members(member.type):
                yield name, start + first, start + end
            continue
        try:
            size = sizeof(member.type)
        except TypeError:
            size = 1 << 20
        yield member.name, start, start + (size or 1 << 20)


# Sweep -------------------------------------------------------------------------


class Sweep:
    """
    Text over the structures of a kernel.

    :param prog: With debug info; nothing of it is changed.
    :param held: Whether the locks of each cache are made held ones.
    """

    def __init__(self, prog: Program, held: bool = False) -> None:
        self.prog = prog
        self._held = held
        suite = suite_of(prog)
        self._kernel = suite.open(prog)
        self._is_slab = suite is SLAB
        known = [cache for cache in self._kernel.caches if self._kernel.slabs_of(cache)]
        self.caches = {cache.name: cache for cache in known}
        """Those that have slabs, by name."""

    def some(self, count: int) -> List[str]:
        """Return the names of some caches, from the first to the last made."""
        names = list(self.caches)
        step = max(len(names) // max(count, 1), 1)
        return names[step // 2 :: step][:count]

    def places(self, names: Sequence[str]) -> List[Tuple[Structure, int]]:
        """Return every structure of some caches with every offset of text in it."""
        found = [
            one
            for name in names
            for one in structures(self._kernel, self.caches[name], self._is_slab)
            if _readable(self.prog, one)
        ]
        return [
            (one, offset)
            for one in found
            for offset in range(0, max(one.size - len(TEXT), 0) + 1, _WORD)
        ]

    def run(self, places: Sequence[Tuple[Structure, int]], jobs: int) -> Iterator[Result]:
        """Lay text over each place, and yield what a check says of it, in their order."""
        groups: Dict[Structure, List[int]] = {}
        for one, offset in places:
            groups.setdefault(one, []).append(offset)
        works = [lambda one=one, some=some: self._over(one, some) for one, some in groups.items()]
        for (one, some), (results, trouble) in zip(groups.items(), apart(works, jobs)):
            if results is None:
                last = trouble.strip().splitlines()[-1]
                results = [Result(one, offset, (), "exception", last) for offset in some]
            yield from results

    def _over(self, one: Structure, offsets: Sequence[int]) -> List[Result]:
        size = max(one.size, len(TEXT))
        was = self.prog.read(one.address, size)
        if self._held:
            # Nobody is at the work that is put together here. This process ends with it.
            witness.find_witnesses = lambda machine: witness.Witnesses((), "a lock held by hand")
            was = self._hold(one, was)
        cell = bytearray(was)
        overlay(self.prog, [Write(one.address, memoryview(cell))])  # type: ignore[arg-type]
        results = []
        for offset in offsets:
            cell[offset : offset + len(TEXT)] = TEXT
            results.append(
                Result(one, offset, touched(self.prog, one, offset), *self._judge(one.cache))
            )
            cell[:] = was
        return results

    def _hold(self, one: Structure, data: bytes) -> bytes:
        # Makes every lock of a cache a held one, that of the structure in its bytes.
        held = bytearray(data)
        for at, width in self._locks(self.caches[one.cache]):
            word = (1).to_bytes(width, order_of(self.prog))
            if one.address <= at < one.address + len(data):
                held[at - one.address : at - one.address + width] = word
            else:
                overlay(self.prog, [Write(at, word)])
        return bytes(held)

    def _locks(self, cache: Any) -> Iterator[Tuple[int, int]]:
        # Address and bytes of the words that say whether locks are held.
        prog, word = self.prog, sizeof(self.prog.type("spinlock_t"))
        if not word:
            return
        for node in cache.nodes:
            if node:
                yield node + offsetof(prog.type("struct kmem_cache_node"), "list_lock"), 4
        for one in structures(self._kernel, cache, self._is_slab):
            if one.type in ("struct node_barn", "struct alien_cache"):
                yield one.address + offsetof(prog.type(one.type), "lock"), 4
        if not self._is_slab and has_member(cache.object, "cpu_sheaves"):
            lock = prog.type("struct slub_percpu_sheaves").member("lock")
            if cache.object.cpu_sheaves and has_acquired(lock.type):
                at = lock.offset + offsetof(lock.type, "acquired")
                for cpu in self._kernel.cpus:
                    yield per_cpu_ptr(cache.object.cpu_sheaves, cpu).value_() + at, 1

    def _judge(self, cache: str) -> Tuple[str, str]:
        try:
            report = self._look([cache])
            if not _proven(report):
                report = self._look([])
        except Exception as error:
            return "exception", f"{type(error).__name__}: {error}"
        for outcome, shelf in (
            ("finding", _proven(report)),
            ("changing", report.changing),
            ("unavailable", report.unavailable),
        ):
            if shelf:
                return outcome, f"{shelf[0].code}: {shelf[0].message}"
        return "silent", "nothing"

    def _look(self, caches: Sequence[str]) -> Any:
        # What was read of memory is forgotten; what is known of types stays.
        kernel = machine(self.prog)
        kernel.kept.clear()
        kernel._facts.clear()
        return check(self.prog, caches=caches)


def _proven(report: Report) -> List[Finding]:
    # That a lock is held which was made so is none of the damage.
    return [one for one in report.findings if one.code != "lock-kept"]


def has_acquired(lock: Type) -> bool:
    """Return whether a lock of a CPU says that it is taken."""
    while lock.kind == TypeKind.TYPEDEF:
        lock = lock.type
    return any(member.name == "acquired" for member in lock.members or ())


def _readable(prog: Program, one: Structure) -> bool:
    try:
        prog.read(one.address, max(one.size, len(TEXT)))
    except FaultError:
        return False
    return True


def main(arguments: Optional[List[str]] = None) -> int:
    """Sweep a kernel, print what is no finding, and return 1 if that has no reason."""
    parser = argparse.ArgumentParser(prog="python -m tests.recipes.text", description=__doc__)
    parser.add_argument("core", metavar="CORE", help="a dump or capture")
    parser.add_argument("symbols", metavar="VMLINUX", nargs="*", help="debug info of a dump")
    parser.add_argument("--caches", type=int, default=3, help="how many caches (default: 3)")
    parser.add_argument("--cache", action="append", default=[], metavar="NAME", help="of this one")
    parser.add_argument("--held", action="store_true", help="while all locks are held")
    parser.add_argument("-j", "--jobs", type=int, help="how many at a time (default: CPUs)")
    parser.add_argument("-v", "--verbose", action="store_true", help="name findings too")
    options = parser.parse_args(arguments)
    target = TargetOptions(core=options.core, symbols=options.symbols, default_symbols=False)
    try:
        sweep = Sweep(open_target(target), options.held)
    except (TargetError, NoVictim) as error:
        parser.error(str(error))
    places = sweep.places(options.cache or sweep.some(options.caches))
    counts: Dict[str, int] = {}
    bad = 0
    for result in sweep.run(places, options.jobs or len(os.sched_getaffinity(0))):
        counts[result.outcome] = counts.get(result.outcome, 0) + 1
        bad += not result.good
        if options.verbose or not result.good:
            print(result, flush=True)
    print(f"{sum(counts.values())} places: {counts}; {bad} without a reason")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
