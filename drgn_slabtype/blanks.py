# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Pages of a dump that a dumper left as zeroes
--------------------------------------------

A dumper that cannot read a page, or was told to leave it out, may write zeroes in
its place. No structure that is read here is all zeroes for a whole page: a
``struct page`` counts its users, a cache has a name, an array a limit, a list
head leads somewhere. So such a page is missing, and whatever rests on it is not
judged. Free pointers and index arrays are different: the page of an object may
well be zeroes. There it counts only for a slab of which something is said. So are
the structures that SLUB keeps for CPU 0: of caches that it never used they are
zeroes, and count only if something is said of a slab of the cache. A page with a
word that a finding is about should have something else in it, and so should one that
a pointer leads to, if a slab is there.

Nobody looks for such pages as long as nothing is said at all.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import chain
from typing import Iterable, Iterator, List, Sequence, Set

import numpy as np
from drgn import FaultError

from .allocators.caches import in_kmalloc_table
from .allocators.slab.view import slab_counts
from .codes import ADDRESS
from .distinct import distinct
from .files.elf import PT_LOAD, Segment
from .findings import Finding
from .ledger import I64, Bools
from .machine import Machine
from .machine.directmap import LINEAR_BYTES
from .machine.translation import physical_address
from .pages import scan, sections, zones
from .reading import Reading
from .regions import Region

# Where a slab's own page can be all zeroes.
_OF_OBJECTS = frozenset({"free pointers", "index arrays", "debugging", "KASAN's records"})
# The last link of deferred frees is zero, and so may be all that lies around it; so are
# the batches of the quarantine until it has been full.
_ELSEWHERE = frozenset(
    {"memory map", "slab pages", "page tables", "stack traces", "KFENCE", "deferred frees"}
    | {"quarantine", sections.ROOTS}
)
_ROOTS = (
    *("slab_caches", "kmem_cache", "mem_section", "vmemmap_base", "page_offset_base", "max_pfn"),
    "kernel_map",
    *("__per_cpu_offset", "__cpu_possible_mask", "nr_cpu_ids"),
    *("node_data", "node_states", "nr_node_ids", "init_mm", "saved_command_line"),
)
_BLOCK_BYTES = 2 << 20
_NEVER = 1 << 20  # pages: more than this is not a matter of single ones


def blank_pages(reading: Reading, findings: Sequence[Finding]) -> List[List[Segment]]:
    """
    Return the blank pages that structures lie in, in each view of them.

    :param reading: Of the whole of a machine that does not move.
    :param findings: What is said of it.
    :return: For each page a list of views.
    """
    machine = reading.machine
    pages = _structures(reading, findings) | set(_memory_map(machine))
    pages |= _led_to(reading, findings) | _wrong(machine, findings)
    size = machine.memory.page_size
    return [_views(machine, page * size, size) for page in sorted(pages)[:_NEVER]]


def _structures(reading: Reading, findings: Sequence[Finding]) -> Set[int]:
    machine = reading.machine
    shift = np.uint64(machine.memory.page_shift)
    slabs = _slabs(reading, findings)
    accused = _accused(reading, findings)
    wanted: Set[int] = set(_roots(machine))
    # A cache that the list of caches does not lead to any more, and its name.
    caches = distinct(reading.index["slab_cache"])
    wanted |= set((caches >> shift).tolist())
    name = machine.structure("struct kmem_cache").offset("name")
    names = machine.memory.gather(caches + np.uint64(name), machine.memory.word_size)
    wanted |= set((names.bytes.view(machine.memory.word)[:, 0] >> shift).tolist())
    declared = chain(
        (one for some in reading.allocator.regions(reading.index) for one in _safely(some.regions)),
        _safely(sections.regions(machine)),
        _safely(zones.regions(machine)),
    )
    with suppress(AttributeError, FaultError, LookupError):
        wanted |= set((sections.roots_of_memory(machine) >> shift).tolist())
    for one in declared:
        if one.masked or one.what in _ELSEWHERE or not len(one.addresses):
            continue
        starts, sizes = one.addresses, np.maximum(one.sizes, 1)
        if one.unused is not None:
            told = np.isin(one.unused, accused)
            starts, sizes = starts[told], sizes[told]
        pages = set((starts >> shift).tolist()) | set(
            ((starts + sizes - np.uint64(1)) >> shift).tolist()
        )
        wanted |= pages & slabs if one.what in _OF_OBJECTS else pages
    return {page for page in wanted if _is_blank(machine, page)}


def _led_to(reading: Reading, findings: Sequence[Finding]) -> Set[int]:
    # Where a pointer leads that is told to lead nowhere, if a slab is there or no struct page
    # says what is. Elsewhere, in free memory, a wrong pointer may well lead to zeroes.
    machine, index = reading.machine, reading.index
    shift = machine.memory.page_shift
    wanted: Set[int] = set()
    for finding in findings:
        if finding.measure == ADDRESS and isinstance(finding.found, int) and finding.found > 0:
            pfn = (finding.found - machine.memory.linear_base) >> shift
            if pfn not in range(LINEAR_BYTES >> shift):
                continue
            try:
                machine.memory.read(machine.page.vmemmap + pfn * machine.page.size, 1)
                there = index.rows_of_addresses(np.array([finding.found], np.uint64))[0] >= 0
            except (FaultError, OverflowError):
                there = True
            if there:
                wanted.add(finding.found >> shift)
    return {page for page in wanted if _is_blank(machine, page)}


def _wrong(machine: Machine, findings: Sequence[Finding]) -> Set[int]:
    # A page that should have anything in it but zeroes: a word, or what debugging puts around
    # or into objects.
    shift = machine.memory.page_shift
    wanted = {one.word >> shift for one in findings if one.word is not None}
    for one in chain.from_iterable(finding.ranges for finding in findings):
        wanted.update(range(one.address >> shift, (one.address + one.size - 1 >> shift) + 1))
    return {page for page in wanted if _is_blank(machine, page)}


def _safely(regions: Iterable[Region]) -> Iterator[Region]:
    # As far as they can be declared.
    try:
        yield from regions
    except (AttributeError, FaultError, LookupError, OverflowError):
        return


def _accused(reading: Reading, findings: Sequence[Finding]) -> List[int]:
    # Positions of the caches of which a slab is told, but of those whose structures of
    # CPUs are elsewhere.
    names = {finding.cache for finding in findings if finding.slab is not None}
    names -= {finding.cache for finding in findings if _leads_astray(finding)}
    return [at for at, name in enumerate(reading.allocator.caches.names) if name in names]


def _leads_astray(finding: Finding) -> bool:
    nowhere = finding.cpu is None and finding.node is None and finding.slab is None
    return finding.code == "container-state" and nowhere


def _slabs(reading: Reading, findings: Sequence[Finding]) -> Set[int]:
    # Pages of the slabs of which something is said, and of their index arrays.
    index, shift = reading.index, np.uint64(reading.machine.memory.page_shift)
    named = [finding.slab for finding in findings if finding.slab is not None]
    rows = index.rows_of_pages(np.array(named, np.uint64))
    rows = distinct(rows[rows >= 0])
    found: Set[int] = set()
    of, owner = reading.allocator.caches.rows, reading.allocator.ownership.cache[rows]
    if of.structure.has("freelist_size"):
        never = _never_zeroes(reading, rows, owner)
        rows, owner = rows[never], owner[never]
    starts, spans = index.addresses[rows] >> shift, index.spans[rows] >> shift
    # One whose order is wrong reaches no further than to the next.
    begins = np.append(np.sort(index.addresses >> shift), np.uint64((1 << 64) - 1 >> int(shift)))
    nexts = begins[np.searchsorted(begins[:-1], starts, "right")]
    ends = np.minimum(starts + np.minimum(spans, np.uint64(1 << 10)), nexts)
    for start, end in zip(starts.tolist(), ends.tolist()):
        found.update(range(start, end))
    if of.structure.has("freelist_size"):
        heads = index["freelist"][rows]
        lasts = heads + np.maximum(of["freelist_size"][owner], np.uint64(1)) - np.uint64(1)
        # A size that is wrong may reach into a slab of which nothing is said.
        within = index.rows_of_addresses(heads) == index.rows_of_addresses(lasts)
        found.update((heads >> shift).tolist())
        found.update((lasts[within] >> shift).tolist())
    return found


def _never_zeroes(reading: Reading, rows: I64, owner: I64) -> Bools:
    # Of an index array with one free object, which may be object 0, all can be zeroes; not
    # if it lies in another object, which its last entry names, nor among objects in use
    # of which each has something in it, as all have but those of kmalloc().
    index, machine, caches = reading.index, reading.machine, reading.allocator.caches
    of, page_size = caches.rows, machine.memory.page_size
    several = of["num"][owner].astype(np.int64) - slab_counts(index)[rows] > 1
    sizes = of["size"][owner].astype(np.uint64)
    heads, starts = index["freelist"][rows], index.addresses[rows]
    inside = index.rows_of_addresses(heads) == rows
    in_another = inside & (heads - starts >= sizes)
    of_kmalloc = in_kmalloc_table(machine, caches.addresses)
    filled = np.zeros(len(rows), np.bool_) if of_kmalloc is None else ~of_kmalloc[owner]
    return several | in_another | (filled & inside & (2 * sizes <= page_size))


def _roots(machine: Machine) -> Iterator[int]:
    for name in _ROOTS:
        try:
            address = machine.prog.variable(name).address_
        except LookupError:
            continue
        if address is not None:
            yield address >> machine.memory.page_shift


def _memory_map(machine: Machine) -> Iterator[int]:
    # A page of it, if memory is there that it should describe.
    memory, size = machine.memory, machine.page.size
    for start, end in scan.page_ranges(machine):
        low = machine.page.vmemmap + start * size
        high = machine.page.vmemmap + end * size
        for address, data in memory.blocks(low, high, _BLOCK_BYTES):
            lead = -address % memory.page_size
            whole = (len(data) - lead) // memory.page_size
            if whole <= 0:
                continue
            rows = data[lead : lead + whole * memory.page_size].reshape(whole, -1)
            for row in np.flatnonzero(~rows.any(axis=1)).tolist():
                page = address + lead + row * memory.page_size
                if _describes(machine, page):
                    yield page >> memory.page_shift


def _describes(machine: Machine, address: int) -> bool:
    memory, size = machine.memory, machine.page.size
    first = -(-(address - machine.page.vmemmap) // size)
    for pfn in range(first, first + memory.page_size // size, 8):
        try:
            memory.prog.read(pfn << memory.page_shift, 1, True)
        except (FaultError, OverflowError):
            continue
        return True
    return False


def _is_blank(machine: Machine, page: int) -> bool:
    memory = machine.memory
    if not memory.is_kernel_address(np.array([page << memory.page_shift], np.uint64))[0]:
        return False
    try:
        data = memory.read(page << memory.page_shift, memory.page_size)
    except (FaultError, OverflowError):
        return False
    return data.count(0) == len(data)


def _views(machine: Machine, address: int, size: int) -> List[Segment]:
    # The same page is read where it is mapped, in the direct map and by its
    # physical address.
    base = machine.memory.linear_base
    physical = address - base
    if not 0 <= physical < LINEAR_BYTES:
        try:
            physical = physical_address(machine, address)
        except (FaultError, LookupError):
            return [Segment(PT_LOAD, 0, 0, address, (1 << 64) - 1, size)]
    return [Segment(PT_LOAD, 0, 0, where, physical, size) for where in (address, base + physical)]
