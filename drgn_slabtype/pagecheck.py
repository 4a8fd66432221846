# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Judging pages
-------------

Brings together what the rules judge that speak of pages: free memory, typed
pages, compound pages and their tails, references, what the pages of slabs say,
and the kernel's own count of slab pages.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np
from drgn import FaultError

from .allocators.base import Allocator
from .allocators.caches import Caches, in_kmalloc_table
from .allocators.vectors import names_cgroups, vector_entries, vector_words, vectors
from .allocators.whereabouts import in_stray_slab
from .errors import LayoutError
from .findings import Finding
from .index import KnownBy, SlabIndex
from .ledger import I64
from .machine import Machine
from .machine.kfence import kfence_pool
from .machine.memory import U64, Bools
from .pages.compound import CompoundPages
from .pages.cpupages import free_pages_of_cpus
from .pages.dump import flag_words
from .pages.firsttails import FirstTails
from .pages.freememory import FreeMemory, free_memory
from .pages.pcp import among_free, may_be_free, on_list
from .pages.placed import Placed, spans
from .pages.references import Counted, References, bits_of_no_flag, flags_of_users
from .pages.tails import Tails
from .pages.vmstat import SlabPages, slab_page_counts
from .rules.compound import judge_compounds
from .rules.cpupages import judge_cpu_pages
from .rules.pagefindings import PageNames
from .rules.pages import judge_pages, judge_vmstat
from .rules.placed import judge_placed
from .rules.slabpages import (
    FlagNames,
    SlabWords,
    judge_references,
    judge_slab_words,
    judge_tail_flags,
    judge_tail_words,
    judge_tails,
)
from .rules.vectors import Cgroups, Vectors, judge_vectors, no_cgroups

Homes = Callable[[U64], I64]
"""Returns the position of the cache of which an object begins at each address; else -1."""

_SMALLEST = 8  # bytes of an object
_AT_A_TIME = 1 << 14  # slabs whose vectors are read
_MOST_WALKED = 256  # pages for which lists of CPUs are walked


class Owners:
    """
    Which cache each slab belongs to.

    :param cache: Position of the cache of each row of the index; -1 for none.
    """

    def __init__(self, index: SlabIndex, caches: Caches, cache: I64, homes: Homes) -> None:
        self.index = index
        self.cache = cache
        """Position of the cache of each row of the index; -1 for none."""
        self.names: Sequence[str] = caches.names
        # One name, or one entry of the table, may be damaged.
        named = np.array(["kmalloc" in name for name in self.names], np.bool_)
        listed = in_kmalloc_table(index.machine, caches.addresses)
        self.is_kmalloc: Bools = np.append(named if listed is None else named | listed, False)
        """Which caches ``kmalloc()`` gives memory from; the last is for none."""
        self._caches = caches.rows
        self._homes = homes

    @classmethod
    def told(cls, index: SlabIndex, allocator: Allocator) -> Owners:
        """
        Return them as all lists tell.

        :param allocator: Has read every slab of the index.
        """
        homes = partial(allocator.homes, index)
        return cls(index, allocator.caches, allocator.ownership.cache, homes)

    def objects(self, rows: I64) -> U64:
        """
        Return how many objects the slabs in rows of the index have.

        One, where that is a damaged number: it does not decide how much is read.
        """
        if self.index.layout.allocator == "SLUB":
            told = self.index["objects"][rows]
        else:
            told = self._caches["num"][self.cache[rows]]
        most = self.index.spans[rows] // np.uint64(_SMALLEST)
        return np.where(told <= most, told, np.uint64(1))

    def fits(self, addresses: U64, sizes: U64) -> Bools:
        """Return where an object begins that has so many bytes."""
        homes = self._homes(addresses)
        found: Bools = (homes >= 0) & (self._caches["object_size"][homes] >= sizes)
        return found

    def kmalloc(self, addresses: U64, size: int) -> Bools:
        """Return where an object of ``kmalloc()`` begins that has so many bytes."""
        homes = self._homes(addresses)
        large = self._caches["object_size"][homes] >= np.uint64(size)
        found: Bools = self.is_kmalloc[homes] & large
        return found

    def strides(self, rows: I64) -> U64:
        """Return the bytes from one object to the next, of slabs in rows of the index."""
        return self._caches["size"][self.cache[rows]]

    def name(self, page: int) -> Optional[str]:
        """Return the name of the cache of a slab (``struct slab *``), if it has one."""
        row = int(self.index.rows_of_pages(np.array([page], np.uint64))[0])
        number = int(self.cache[row]) if row >= 0 else -1
        return self.names[number] if number >= 0 else None


def judge_memory(
    machine: Machine, owners: Owners, unreadable: int, found: Sequence[Finding]
) -> List[Finding]:
    """
    Return what is wrong with free memory, with typed and compound pages, and with counts.

    Not for a target that moves: free memory changes faster than it can be read
    twice.

    :param unreadable: Struct pages that are not in the target.
    :param found: What is known already about the machine; numbering goes on
        after it, and what it explains is bound to it.
    """
    index = owners.index
    memory = _Found(found, index.page_bytes)
    memory.add(judge_slab_pages(machine, owners, unreadable))
    if unreadable:
        return memory.unavailable(f"{unreadable} struct pages are not in the target")
    if machine.memory_map.damage:
        # The kinds of page blocks hang on the sections.
        return memory.unavailable("mem_section is damaged or not in the target")
    if machine.online.lost:
        return memory.unavailable("node_data is damaged")
    try:
        compounds, references = CompoundPages(machine), References(machine)
        placed, tails, firsts = Placed(machine), Tails(machine), FirstTails(machine)
        free = free_memory(machine, (compounds, references, placed, tails, firsts))
    except FaultError as e:
        return memory.unavailable(str(e), "unreadable")
    except (AttributeError, LookupError) as e:
        return memory.unavailable(f"{type(e).__name__}: {e}")
    encoding = machine.layout.encoding
    names = PageNames(index.vmemmap, index.page_bytes)
    memory.add(judge_placed(placed.found, spans(machine), names, owners.name))
    memory.add(judge_compounds(compounds.result(), names, owners.name, len(machine.cpus)))
    memory.add(judge_tail_flags(references.flagged, names, owners.name, _flag_names(machine)))
    # One that has a type is told as such.
    typed = {names.page(int(pfn)) for pfn in free.tails.pfns}
    words = judge_tail_words(references.worded, names, owners.name)
    memory.add(one for one in words if one.page not in typed)
    # One that leads to no head, or another, is told as such; a word of two members, once.
    odd = judge_tails([*tails.found, *firsts.found], names, owners.name)
    memory.add(one for one in odd if one.page not in memory.told)
    negative = references.negative
    on_lists = _on_lists(machine, negative)
    # One that is a tail by mistake has the references of what it is.
    counted = judge_references(negative, references.held, names, on_lists)
    memory.add(one for one in counted if one.page not in memory.told)
    memory.add(_pages_of_cpus(machine, names, set(memory.told)))
    # A slab that lost its mark is the business of its cache.
    lost = ~index.marked | encoding.conflict(index.words)
    known = {int(page) for page in index.pages[lost]}
    zones = {(one.node, one.place) for one in memory.found if one.code == "machine-wrong"}
    memory.found += judge_pages(free, encoding, names, memory.told, known, memory.last, zones)
    try:
        nodes = list(_slab_pages(machine, index, free))
    except (AttributeError, FaultError, LayoutError, LookupError):
        return memory.found
    memory.add(judge_vmstat(nodes))
    return memory.found


class _Found:
    # What was found, numbered after what was known before.

    def __init__(self, before: Sequence[Finding], page_bytes: int) -> None:
        self.first = max((one.id for one in before), default=0)
        self.found: List[Finding] = []
        self._page_bytes = page_bytes
        self.told: Dict[int, int] = {}
        """Findings by the ``struct page *`` they are about, the first of each."""
        self._moving: Set[int] = set()
        for one in before:
            self._tell(one)

    @property
    def last(self) -> int:
        return max(self.first, self.found[-1].id if self.found else 0)

    def add(self, findings: Iterable[Finding]) -> None:
        # What is said of a page that is accused already follows from that.
        for one in findings:
            at = one.slab if one.page is None else one.page
            because = None if at is None else self.told.get(at)
            # What follows from work in progress is work in progress, and nothing else is.
            moving = one.moving if because is None else because in self._moving
            one = replace(one, id=self.last + 1, because=because, moving=moving)
            self.found.append(one)
            self._tell(one)

    def _tell(self, one: Finding) -> None:
        if one.rule == "note":
            return
        if one.moving:
            self._moving.add(one.id)
        for page in (one.page, one.slab):
            if page is not None:
                end = page + one.pages * self._page_bytes
                for told in range(page, end, self._page_bytes):
                    self.told.setdefault(told, one.id)

    def unavailable(self, why: str, code: str = "not-judged") -> List[Finding]:
        message = f"free memory was not judged: {why}"
        return [*self.found, Finding(code, message, id=self.last + 1)]


def _pages_of_cpus(machine: Machine, names: PageNames, told: Set[int]) -> Iterator[Finding]:
    try:
        kept = free_pages_of_cpus(machine)
    except (AttributeError, FaultError, LookupError):
        return iter(())
    return judge_cpu_pages(kept, names, machine.layout.encoding, told)


def _flag_names(machine: Machine) -> FlagNames:
    return lambda flags: flag_words(machine, flags)


def judge_slab_pages(machine: Machine, owners: Owners, unreadable: int) -> Iterator[Finding]:
    """
    Yield what is wrong with pages of slabs, without a look at others.

    Not for a target that moves.

    :param unreadable: Struct pages that are not in the target.
    """
    for one in judge_head_pages(machine, owners):
        # The slab that a vector lies in may be one of those that are missing.
        if not unreadable or one.code != "slab-vector-wrong":
            yield one
    yield from _free_slabs(machine, owners)


def judge_head_pages(
    machine: Machine, owners: Owners, page: Optional[int] = None
) -> Iterator[Finding]:
    """
    Yield what is wrong with what the head pages of slabs say.

    :param owners: Of the slabs that their vectors, and what is in these, lie in, too.
    :param page: ``struct slab *`` of the one that this is about; all if ``None``.
    """
    # KFENCE's have other pages.
    index = owners.index
    kfence = (index.known_by & np.uint8(KnownBy.KFENCE)) != 0
    wanted = index.marked & (owners.cache >= 0) & ~kfence
    if page is not None:
        wanted &= index.pages == np.uint64(page)
    rows = np.flatnonzero(wanted)
    if not len(rows):
        return iter(())
    flags, vector = index.flags[rows], vector_words(index)[rows]
    words = SlabWords(
        index.pages[rows],
        index.refcounts[rows].astype(np.int64),
        flags & np.uint64(flags_of_users(machine)),
        flags & np.uint64(bits_of_no_flag(machine)),
        vector,
        judge_vectors(_vectors(machine, owners, rows, vector)),
    )
    return judge_slab_words(words, owners.name, _flag_names(machine))


def _free_slabs(machine: Machine, owners: Owners) -> Iterator[Finding]:
    # Slabs whose page was given back as well: a list of a CPU's free pages leads to it.
    index, memory, at = owners.index, machine.memory, machine.page.compound
    there = index.marked & ((index.known_by & np.uint8(KnownBy.KFENCE)) == 0)
    rows, word = there.nonzero()[0], memory.word_size
    pair = np.ascontiguousarray(index.raw[rows, at : at + 2 * word]).view(memory.word)
    # Nearly all are on a list of their node, behind another slab or its head.
    before = pair[:, 1].astype(np.uint64)
    may = may_be_free(machine, before, index.rows_of_pages(before - np.uint64(at)) >= 0)
    rows, pair, before = rows[may], pair[may], before[may]
    links = index.pages[rows] + np.uint64(at)
    ahead = memory.gather(pair[:, 0].astype(np.uint64) + np.uint64(word), word)
    behind = memory.gather(before, word)
    led = ahead.ok & behind.ok
    for one in (ahead, behind):
        led &= one.bytes.view(memory.word)[:, 0] == links
    for row, link in zip(rows[led].tolist(), links[led].tolist()):
        try:
            free = among_free(machine, link)
        except FaultError:
            continue
        if free:
            page = int(index.pages[row])
            cache = owners.name(page)
            yield Finding(
                "page-free-type",
                f"{cache or 'no cache'}: slab 0x{page:x} is free, on a list of free pages of a CPU",
                cache=cache,
                slab=page,
                place="pcp",
                found=f"0x{index.words[row]:08x}",
            )


def _vectors(machine: Machine, owners: Owners, rows: I64, word: U64) -> Vectors:
    index = owners.index
    extended = index.structure.has("obj_exts")
    address = word & ~np.uint64(7)
    home = index.rows_of_addresses(address)
    owner = np.where(home >= 0, owners.cache[home], -1)
    entry = machine.structure("struct slabobj_ext").size if extended else machine.memory.word_size
    objects = owners.objects(rows)
    size = objects * np.uint64(entry)
    # Of a slab of no cache nothing tells what lies in it.
    hidden = machine.settled(kfence_pool).contains(address) | ((home >= 0) & (owner < 0))
    away = np.flatnonzero((owner < 0) & ~hidden)
    hidden[away] = in_stray_slab(index, address[away])
    marked = stride = None
    if index.structure.has("obj_exts_in_object"):
        marked = index["obj_exts_in_object"][rows] != 0
    if index.structure.has("stride"):
        stride = index["stride"][rows]
    return Vectors(
        word,
        extended,
        kernel=machine.memory.is_kernel_address(address),
        in_slab=owner >= 0,
        in_pool=hidden,
        own=home == rows,
        kmalloc=owners.is_kmalloc[owner],
        fits=owners.fits(address, size),
        # SLAB takes them from slabs whatever their size.
        small=(size <= np.uint64(machine.memory.page_size)) | (index.layout.allocator == "SLAB"),
        objects=objects,
        room=index.spans[rows] // np.maximum(objects, np.uint64(1)),
        offset=address - index.addresses[rows],
        entry=entry,
        marked=marked,
        stride=stride,
        foreign=_foreign(machine, owners, rows),
    )


def _foreign(machine: Machine, owners: Owners, rows: I64) -> Bools:
    # Whose vector has an entry that is no object cgroup. There are few of these, and
    # many entries.
    index, memory = owners.index, machine.memory
    found = np.zeros(len(rows), np.bool_)
    for some, entries in object_cgroups(machine, owners, rows):
        # Most objects of a slab are of one cgroup, or of none.
        flat = entries.reshape(-1)
        first = np.flatnonzero(np.diff(flat, prepend=~flat[:1]))
        address, which = np.unique(flat[first], return_inverse=True)
        taken = owners.kmalloc(address, _cgroup_bytes(machine))
        hidden = machine.settled(kfence_pool).contains(address)
        away = np.flatnonzero((address != 0) & ~taken & ~hidden)
        hidden[away] = in_stray_slab(index, address[away])
        wrong = no_cgroups(
            Cgroups(
                address,
                kernel=memory.is_kernel_address(address) & (address % np.uint64(8) == 0),
                linear=memory.in_direct_map(address),
                pool=hidden,
                kmalloc=taken,
            )
        )
        if wrong.any():
            each = np.repeat(wrong[which], np.diff(first, append=len(flat)))
            found[some] = each.reshape(entries.shape).any(axis=1)
    return found


def object_cgroups(machine: Machine, owners: Owners, rows: I64) -> Iterator[Tuple[I64, U64]]:
    """
    Yield what the vectors of slabs lead to, those of several at a time.

    :param rows: Of the index, of slabs with a cache.
    :return: Positions in *rows*, and ``struct obj_cgroup *`` of their objects: shapes (n,) and
        (n, count).
    """
    if not names_cgroups(machine):
        return
    # Few slabs have one, and of many slabs at a time their struct pages would be copied.
    (there,) = np.nonzero(vector_words(owners.index)[rows])
    for first in range(0, len(there), _AT_A_TIME):
        some = there[first : first + _AT_A_TIME]
        slabs = rows[some]
        starts, steps = vectors(machine, owners.index.pages[slabs], owners.strides(slabs))
        for which, entries in vector_entries(machine, starts, steps, owners.objects(slabs)):
            yield some[which], entries


def _cgroup_bytes(machine: Machine) -> int:
    try:
        return machine.structure("struct obj_cgroup").size
    except LookupError:
        return machine.memory.word_size


def _on_lists(machine: Machine, pages: Counted) -> Bools:
    # Which pages are on a list of free pages of a CPU.
    found = np.zeros(len(pages.pfns), np.bool_)
    for row in range(min(len(found), _MOST_WALKED)):
        found[row] = not pages.slab[row] and on_list(machine, int(pages.pfns[row]))
    return found


def _slab_pages(machine: Machine, index: SlabIndex, free: FreeMemory) -> Iterator[SlabPages]:
    counts = slab_page_counts(machine)
    cpus = len(machine.cpus)
    counted = index.marked & ((index.known_by & np.uint8(KnownBy.KFENCE)) == 0)
    pages = (index.spans >> np.uint64(machine.prog["PAGE_SHIFT"].value_())).astype(np.int64)
    typed = "large_kmalloc" in machine.layout.encoding.types
    for nid, count in zip(machine.nodes, counts):
        here = pages[counted & (index.nids == nid)]
        large, largest = free.large.get(nid, (0, 0))
        # Each CPU can have stopped in one allocation.
        most = max(largest, int(here.max()) if len(here) else 1)
        yield SlabPages(nid, count, int(here.sum()), large if typed else None, cpus * most)
