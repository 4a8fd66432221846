# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is wrong with the machine rather than with one cache
---------------------------------------------------------

Damage to the list of caches, pages marked as slab that belong to no cache,
words that no page can have, lists that all caches share, and free memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Callable, Collection, Dict, Iterable, Iterator, List, Mapping, Optional

import numpy as np
import numpy.typing as npt
from drgn import FaultError

from . import reading as of_reading
from .allocators.caches import Caches, Lost
from .allocators.guarded import judge_pool
from .allocators.over import slabs_over
from .allocators.tables import judge_tables
from .allocators.whereabouts import in_no_memory, missing_caches
from .arguments import named
from .codes import ADDRESS, Measure
from .distinct import among, distinct
from .errors import SlabTypeError
from .findings import Finding
from .index import KnownBy, SlabIndex
from .ledger import I64
from .machine import Machine
from .machine.columns import numbers_at
from .machine.memory import Bools
from .pagecheck import Owners, judge_memory
from .pages.scan import PageScan
from .reading import Reading
from .rules.geometry import as_finding

_PAGES = Measure("count", "pages")
_MOST_PAGES = 1000  # that are told one by one, of those that a rule is broken by


def judge_machine(reading: Reading) -> List[Finding]:
    """
    Return what is wrong with no cache in particular.

    :param reading: Of the whole machine.
    """
    assert reading.scan is not None
    found: List[Finding] = []
    for what, judged in _JUDGED.items():
        try:
            found += judged(reading, found)
        except (OSError, SlabTypeError):  # of the target as a whole
            raise
        except of_reading.CAUGHT as error:
            found += _numbered([of_reading.not_read(what, error)], found)
    return found


def _caches(reading: Reading, found: List[Finding]) -> List[Finding]:
    judged = _judge_cache_list(reading.allocator.caches, reading.index)
    return _numbered(judged, found)


def _marks(reading: Reading, found: List[Finding]) -> List[Finding]:
    # Slabs of a cache that the list of caches leads to, and that is none any more.
    lost = reading.allocator.caches.lost
    place = reading.machine.structure("struct kmem_cache").offset("list")
    root = next((one.id for one in found if one.code == "cache-list"), None)
    cache = None if lost is None or not lost.readable else lost.found - place
    judged = _bounded(_judge_marks(reading, cache, root), found)
    return _by_stretch(reading, judged, lost.found if lost and lost.readable else None, root)


def _by_stretch(
    reading: Reading, judged: List[Finding], lost: Optional[int], root: Optional[int]
) -> List[Finding]:
    # What one slab of caches holds is gone by one write; where the list of caches ends in
    # it, that is the root.
    index, machine = reading.index, reading.machine
    try:
        caches = machine.prog["kmem_cache"].value_()
    except (FaultError, LookupError):
        return judged
    strays = [
        one.slab
        for one in judged
        if one.code == "slab-mark-stray" and not one.moving and one.slab is not None
    ]
    if not len(index.pages):
        return judged
    rows = index.rows_of_pages(np.array(strays, np.uint64))
    leads = np.append(index["slab_cache"][rows], np.uint64(lost or 0))
    # By the memory map: the cache of the caches may be among those that are gone.
    homes = index.rows_of_pages(slabs_over(index, leads).heads)
    homes = np.where(index["slab_cache"][homes] == np.uint64(caches), homes, -1)
    *of_slabs, of_list = _next_to_each_other(index, homes).tolist()
    home = dict(zip(strays, of_slabs))
    first: Dict[int, int] = {} if root is None or of_list < 0 else {of_list: root}
    follows: Dict[int, int] = {}
    for one in judged:
        at = -1 if one.slab is None else home.get(one.slab, -1)
        if at >= 0 and one.because is None and first.setdefault(at, one.id) != one.id:
            follows[one.id] = first[at]
    # What tells how many more there are follows from one of them.
    roots = [one.because or one.id for one in judged]
    return [
        replace(one, because=follows[of]) if of in follows else one
        for one, of in zip(judged, roots)
    ]


def _next_to_each_other(index: SlabIndex, rows: I64) -> I64:
    # Of slabs without a gap between them the first, as one write runs over them all.
    some = distinct(rows[rows >= 0])
    some = some[np.argsort(index.addresses[some])]
    starts = index.addresses[some]
    alone = np.append(True, starts[1:] != starts[:-1] + index.spans[some[:-1]])[: len(some)]
    first = some[np.maximum.accumulate(np.where(alone, np.arange(len(some)), 0))]
    found = np.full(len(index) + 1, -1, np.int64)
    found[some] = first
    return found[rows]


def _elsewhere(reading: Reading, found: List[Finding]) -> List[Finding]:
    return _numbered(map(as_finding, reading.allocator.elsewhere()), found)


def _tables(reading: Reading, found: List[Finding]) -> List[Finding]:
    allocator = reading.allocator
    owner = allocator.ownership.cache
    return _numbered(judge_tables(reading.machine, allocator.caches, reading.index, owner), found)


def _guarded(reading: Reading, found: List[Finding]) -> List[Finding]:
    return _numbered(judge_pool(reading.machine, reading.allocator.caches), found)


def _words(reading: Reading, found: List[Finding]) -> List[Finding]:
    scan = reading.scan
    assert scan is not None
    known = {finding.slab for finding in found}
    pages = np.array([reading.index.page_of(pfn) for pfn, _ in scan.conflicts], np.uint64)
    known |= set(pages[reading.index.rows_of_pages(pages) >= 0].tolist())
    conflicts = _judge_words(reading.machine, reading.index, scan)
    judged = _bounded((one for one in conflicts if one.page not in known), found)
    if scan.unreadable:
        lost = Finding(
            "unreadable",
            f"{scan.unreadable} of {scan.pages} struct pages are not in the target; what "
            "slabs they head is not known",
            expected=scan.pages,
            found=scan.pages - scan.unreadable,
        )
        judged += _numbered([lost], [*found, *judged])
    return judged


def _memory(reading: Reading, found: List[Finding]) -> List[Finding]:
    if reading.machine.is_live:
        return []
    assert reading.scan is not None
    owners = Owners.told(reading.index, reading.allocator)
    return judge_memory(reading.machine, owners, reading.scan.unreadable, found)


def judge_pages(reading: Reading) -> List[Finding]:
    """
    Return what is wrong with pages, as :func:`judge_machine` says it.

    :param reading: Of the whole machine, or of some caches: then it is about their slabs.
    """
    try:
        return _memory(reading, [])
    except (OSError, SlabTypeError):  # of the target as a whole
        raise
    except of_reading.CAUGHT:
        return []  # a check of the machine tells


def judge_pages_of(reading: Reading, numbers: Collection[int]) -> List[Finding]:
    """Return what of this :func:`of_caches` returns."""
    return of_caches(reading, judge_pages(reading), numbers)


def of_caches(
    reading: Reading, found: Iterable[Finding], numbers: Collection[int]
) -> List[Finding]:
    """
    Return what is said of the pages of slabs of some caches, of their tails, too.

    :param found: What :func:`judge_pages` has returned.
    :param numbers: Positions of the caches.
    """
    index, memory, fields = reading.index, reading.machine.memory, reading.machine.page
    told = [one for one in found if one.rule not in ("note", "unavailable")]
    told = [one for one in told if one.slab is not None or one.page is not None]
    pages = np.array([one.page if one.slab is None else one.slab for one in told], np.uint64)
    pfns = (pages - np.uint64(fields.vmemmap)) // np.uint64(fields.size)
    rows = index.rows_of_addresses(memory.phys_to_virt(pfns << np.uint64(memory.page_shift)))
    owner = np.append(reading.allocator.ownership.cache, -1)[rows].tolist()
    kept = [one for one, number in zip(told, owner) if number in numbers]
    known = {one.id for one in kept}
    return [one if one.because in known else replace(one, because=None) for one in kept]


# Each gets what was found before it: numbering goes on, and what that explains
# is bound to it.
_JUDGED: Mapping[str, Callable[[Reading, List[Finding]], List[Finding]]] = {
    "slab_caches": _caches,
    "tables of caches": _tables,
    "KFENCE": _guarded,
    "slab marks": _marks,
    "lists of all caches": _elsewhere,
    "page types": _words,
    "free memory": _memory,
}


def _bounded(findings: Iterable[Finding], after: List[Finding]) -> List[Finding]:
    # Of struct pages that are wrong as a region, some are shown, and how many more there are.
    found: List[Finding] = []
    first: Dict[str, Finding] = {}
    times: Counter[str] = Counter()
    for one in findings:
        times[one.code] += 1
        if times[one.code] <= _MOST_PAGES:
            found.append(replace(one, id=len(after) + len(found) + 1))
            first.setdefault(one.code, found[-1])
    for code, count in times.items():
        if count > _MOST_PAGES:
            of, more = first[code], count - _MOST_PAGES
            what = f"{more} more pages are as page 0x{of.slab or of.page or 0:x}"
            rest = Finding(code, what, found=more, measure=_PAGES)
            rest = replace(rest, because=of.id if of.because is None else of.because)
            found.append(replace(rest, id=len(after) + len(found) + 1))
    return found


def _numbered(findings: Iterable[Finding], after: List[Finding]) -> List[Finding]:
    # With the numbers that follow those of others; the first is the root of its kind.
    return [replace(one, id=len(after) + at) for at, one in enumerate(findings, 1)]


def _judge_marks(reading: Reading, lost: Optional[int], root: Optional[int]) -> Iterator[Finding]:
    # Pages that are marked as slab, of no cache; those of the lost one follow from its loss.
    index, source = reading.index, reading.machine.memory
    kfence = (index.known_by & np.uint8(KnownBy.KFENCE)) != 0
    stray = (reading.allocator.ownership.cache < 0) & ~kfence
    making = _being_made(reading, stray)
    pages, words, pointers = index.pages, index.words, index["slab_cache"]
    rows = np.flatnonzero(stray)
    there = source.gather(pointers[rows], 1).ok & ~missing_caches(reading.machine, pointers[rows])
    # A tail holds the way to its head where a slab has its cache.
    there |= ~source.is_kernel_address(pointers[rows]) | (pointers[rows] % 8 != 0)
    for row, in_target in zip(rows.tolist(), there.tolist()):
        what = "leads to no slab cache" if in_target else "is not in the target"
        yield Finding(
            "slab-mark-stray" if in_target else "unreadable",
            f"page 0x{pages[row]:x} is marked as slab, but its cache pointer "
            f"0x{pointers[row]:x} {what}",
            node=int(index.nids[row]),
            slab=int(pages[row]),
            found=f"0x{words[row]:08x}",
            moving=bool(making[row]),
            because=root if int(pointers[row]) == lost else None,
        )


def _being_made(reading: Reading, stray: Bools) -> Bools:
    # A page gets its mark a moment before its cache pointer. Then it has
    # the users and the type of any other slab, no flag but that of a compound
    # page (PAGE_FLAGS_CHECK_AT_PREP), no object of it is in use, and where
    # the pointer will be is what the page allocator left there:
    # NULL for a mapping; in the links of a list poison, or in newer
    # kernels NULL, which says that the page is none of the reserves.
    machine, index = reading.machine, reading.index
    source, owned = machine.memory, reading.allocator.ownership.cache >= 0
    at = machine.page.refcount
    users = numbers_at(index.raw, at, np.dtype(f"{source.byteorder}u4"))
    pointers = index["slab_cache"]
    links = machine.structure("struct page").offset("mapping")
    if index.structure.offset("slab_cache") == links:
        fresh = stray & (pointers == 0)
    else:
        fresh = stray & ~source.is_kernel_address(pointers)
    fresh &= (users == _most_common(users[owned])) & (pointers % 8 == 0)
    fresh &= (index.flags & np.uint64(_flags_of_users(machine))) == 0
    # Before Linux 5.17, struct page has the members of both allocators.
    if machine.layout.allocator == "SLUB":
        fresh &= (index["inuse"] == 0) & (index.words == _most_common(index.words[owned]))
    enough = np.count_nonzero(fresh) > len(machine.cpus)
    return np.zeros_like(fresh) if enough else fresh


def _flags_of_users(machine: Machine) -> int:
    # Those that a page of the page allocator's does not have.
    layout = machine.layout
    every = (1 << machine.enumerators("pageflags").get("__NR_PAGEFLAGS", 0)) - 1
    own = 1 << layout.head_flag
    if layout.slab_flag is not None:
        own |= 1 << layout.slab_flag
    return every & ~own


def _most_common(numbers: npt.NDArray[np.uint32]) -> int:
    values, times = np.unique(numbers, return_counts=True)
    return int(values[np.argmax(times)]) if len(values) else -1


def _judge_words(machine: Machine, index: SlabIndex, scan: PageScan) -> Iterator[Finding]:
    for pfn, word in scan.conflicts:
        page = index.page_of(pfn)
        yield Finding(
            "type-conflict",
            f"page 0x{page:x} (PFN {pfn:#x}): page_type word 0x{word:08x}: "
            f"{machine.layout.encoding.explain(word)}",
            page=page,
            found=f"0x{word:08x}",
        )


def _is_damage(machine: Machine, lost: Lost) -> bool:
    # What is not in the target may be a cache, if it is in a slab.
    return lost.readable or bool(in_no_memory(machine, np.array([lost.found], np.uint64))[0])


def _judge_cache_list(caches: Caches, index: SlabIndex) -> Iterator[Finding]:
    lost = caches.lost
    astray = lost is not None and _is_damage(index.machine, lost)
    if lost is not None:
        yield Finding(
            "cache-list" if astray else "unreadable",
            f"slab_caches: {lost.link.member} of 0x{lost.at:x} leads to {named(lost.link.found)}",
            place="slab_caches",
            expected=lost.link.expected,
            found=lost.link.found,
            word=lost.link.word,
            member=lost.link.member,
            measure=ADDRESS,
        )
    # Behind a hole in the target the list may go on as it should.
    behind_hole = lost is not None and not astray
    has_slabs = among(caches.addresses, index["slab_cache"])
    for number in np.flatnonzero(caches.unlisted & ~caches.destroyed & (not behind_hole)).tolist():
        name = caches.names[number]
        yield Finding(
            "cache-list",
            f"{name}: {'has slabs' if has_slabs[number] else 'is in sysfs'}, but is not on "
            "slab_caches",
            cache=name,
            place="slab_caches",
            found=int(caches.addresses[number]),
            measure=ADDRESS,
            # The first finding of all.
            because=None if lost is None else 1,
        )
