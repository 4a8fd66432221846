# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Structures that were copied
---------------------------

A struct page leads to the objects or the vector of its own slab, a node to its own slabs,
what a CPU has of a cache to what nobody else has. Two of a kind with the same bytes are one
of them twice. Those that findings tell of are compared with all others.
"""

from __future__ import annotations

from collections import Counter
from typing import Dict, Iterator, List, Sequence, Set, Tuple

import numpy as np
from drgn import FaultError

from .allocators.nodes import read_nodes
from .allocators.vectors import vector_words
from .distinct import distinct
from .errors import SlabTypeError
from .findings import Finding
from .index import SlabIndex
from .ledger import U8, U64
from .machine import Machine
from .machine.page import page_of
from .machine.percpu import per_cpu_addresses
from .reading import CAUGHT, Reading
from .rules.copied import LEADS, Copy, surplus

_ARRAY_BYTES = 256  # of an array and its first entries
_FEWEST_PAGES = 16  # that have not been copied one by one
_MOST_PAGES = 1 << 13  # of a stretch, to each side of what is known of it
_MOST = 64  # structures of a kind that are compared with the others
_OBJECTS = ("freelist", "s_mem")
"""What leads from a slab to its own objects."""
_OF_STRUCT_PAGE = frozenset(
    "slab-mark-lost slab-cache-wrong slab-order-wrong slab-objects-wrong slab-base-wrong".split()
)
"""Of slabs that are made otherwise than their cache makes them."""
_LISTS = ("partial", "slabs_partial")
_OF_CPUS = (
    ("cpu_slab", "struct kmem_cache_cpu", ("slab", "page", "partial")),
    ("cpu_sheaves", "struct slub_percpu_sheaves", ("main",)),
    ("cpu_cache", "struct array_cache", ("avail",)),
)
"""Per-CPU structures by what leads to them, with the pointers that no other has."""


def copies(reading: Reading, findings: Sequence[Finding]) -> List[Copy]:
    """
    Return the structures that findings tell of and that hold what another one holds.

    None where this program can make no sense of them: what is wrong is told without.

    :param reading: Of the whole machine.
    """
    try:
        return list(_copies(reading, findings))
    except (OSError, SlabTypeError):  # of the target as a whole
        raise
    except CAUGHT:
        return []


def _copies(reading: Reading, findings: Sequence[Finding]) -> Iterator[Copy]:
    told = [(one.slab, one.page, one.word, one.address, one.found) for one in findings]
    words = [word for some in told for word in some if isinstance(word, int) and word > 0]
    places = distinct(np.array(words, np.uint64))
    of_slabs = list(_of_slabs(reading, places))
    yield from _stretches(reading.machine, of_slabs)
    yield from of_slabs
    yield from _others(reading, findings)
    yield from _of_nodes(reading, places)
    for member, type, own in _OF_CPUS:
        if reading.allocator.caches.rows.structure.has(member):
            yield from _of_cpus(reading, places, member, type, own)


def _of_slabs(reading: Reading, places: U64) -> Iterator[Copy]:
    index, caches = reading.index, reading.allocator.caches
    owner = reading.allocator.ownership.cache
    rows = index.rows_of_addresses(places)
    places = np.sort(np.concatenate([places, index.pages[rows[rows >= 0]]]))
    own = [index[member] for member in _OBJECTS if index.structure.has(member)]
    unique = np.logical_or.reduce([*own, vector_words(index)])
    right = np.logical_or.reduce([index.rows_of_addresses(at) == np.arange(len(at)) for at in own])
    # One that stands on a list of another cache than it names.
    right &= caches.addresses[owner] == index["slab_cache"]
    for copy, source in _same(index.raw * unique[:, None], index.pages, places):
        if right[copy] or index["slab_cache"][source] != caches.addresses[owner[source]]:
            copy, source = source, copy
        if owner[source] < 0:
            continue
        name = caches.names[owner[source]]
        told = f"struct page 0x{index.pages[copy]:x} is a copy of that of {name} slab"
        told += f" 0x{index.pages[source]:x}"
        yield Copy(*_extents(index, copy, source), [name], told)


def _stretches(machine: Machine, copies: Sequence[Copy]) -> Iterator[Copy]:
    # A stretch of the memory map that was copied as a whole: slabs in it are copies of others
    # that lie equally far away.
    if not copies:
        return
    apart = [copy.structures[1].start - copy.structures[0].start for copy in copies]
    distance = Counter(apart).most_common(1)[0][0]
    some = [copy for copy, one in zip(copies, apart) if abs(one) == abs(distance)]
    size, shift, first = machine.page.size, machine.memory.page_shift, machine.page.vmemmap
    known = copies[apart.index(distance)].structures[0]
    start, stop = _reach(machine, known.start, distance)
    if stop - start < _FEWEST_PAGES * size:
        return
    pfns = [(end - first) // size for end in (start, stop)]
    memory = range(*(machine.memory.linear_base + (pfn << shift) for pfn in pfns))
    told = (
        f"{(stop - start) // size} struct pages from 0x{start:x} on are a copy of those from "
        f"0x{start + distance:x} on"
    )
    both = [range(start, stop), range(start + distance, stop + distance)]
    yield Copy(both, memory, sorted({name for copy in some for name in copy.caches}), told)


def _reach(machine: Machine, page: int, distance: int) -> Tuple[int, int]:
    # How far struct pages around one are those at a distance from them.
    size, ends = machine.page.size, []
    beyond = np.uint64(distance & (1 << 64) - 1)
    for sign in (-1, 1):
        steps = np.arange(_MOST_PAGES, dtype=np.int64) * (sign * size)
        rows = np.uint64(page) + steps.astype(np.uint64)
        here, there = (machine.memory.gather(some, size) for some in (rows, rows + beyond))
        same = here.ok & there.ok & (here.bytes == there.bytes).all(axis=1)
        ends.append(page + sign * size * (int(np.append(same, False).argmin()) - 1))
    return ends[0], ends[1] + size


def _extents(index: SlabIndex, *rows: int) -> Tuple[List[range], range]:
    # Of the struct pages of slabs, and of the memory of the first.
    pages = [int(index.pages[row]) for row in rows]
    start, order = int(index.addresses[rows[0]]), max(int(index.settled[rows[0]]), 0)
    memory = range(start, start + (index.machine.memory.page_size << order))
    return [range(page, page + index.page_bytes) for page in pages], memory


def _others(reading: Reading, findings: Sequence[Finding]) -> Iterator[Copy]:
    # Slabs that are made otherwise than their cache makes them; and those that a cache has
    # more of than it counts, which another one still leads to.
    index, names = reading.index, reading.allocator.caches.names
    remade = [one.slab for one in findings if one.code in _OF_STRUCT_PAGE and one.slab is not None]
    for row in index.rows_of_pages(np.array(sorted({*remade}), np.uint64)).tolist():
        if row >= 0:
            yield Copy(*_extents(index, row))
    more = {one.cache: surplus(one) for one in findings if one.code == "node-slabs"}
    led: Dict[str, Set[int]] = {}
    for one in findings:
        row = _row_at(index, one.found) if one.code in LEADS and isinstance(one.found, int) else -1
        owner = reading.allocator.ownership.cache[row] if row >= 0 else -1
        if owner >= 0 and names[owner] != one.cache:
            led.setdefault(names[owner], set()).add(row)
    for name, rows in led.items():
        for row in sorted(rows) if len(rows) <= more.get(name, 0) else ():
            yield Copy(*_extents(index, row), [name])


def _row_at(index: SlabIndex, address: int) -> int:
    # Of the slab whose memory or struct page that is.
    row = int(index.rows_of_addresses(np.array([address], np.uint64))[0]) if address >= 0 else -1
    page = page_of(index.machine, address) if row < 0 else None
    return row if page is None else int(index.rows_of_pages(np.array([page], np.uint64))[0])


def _of_nodes(reading: Reading, places: U64) -> Iterator[Copy]:
    machine, caches = reading.machine, reading.allocator.caches
    nodes = read_nodes(machine, caches, every=True)
    rows, size = nodes.rows, nodes.rows.structure.size
    member = next(name for name in _LISTS if rows.structure.has(name))
    for copy, source in _same(rows.raw, rows.addresses, places):
        head = int(rows.addresses[copy]) + rows.structure.offset(member)
        if _leads_back(machine, head, int(rows[f"{member}.next"][copy])):
            copy, source = source, copy
        at = [int(rows.addresses[row]) for row in (copy, source)]
        names = [caches.names[nodes.cache[row]] for row in (copy, source)]
        told = (
            f"struct kmem_cache_node 0x{at[0]:x} of {names[0]} is a copy of 0x{at[1]:x} of "
            f"{names[1]}"
        )
        if at[0] == at[1]:
            told = f"{names[0]} and {names[1]} have one struct kmem_cache_node, 0x{at[0]:x}"
        yield Copy([range(start, start + size) for start in at], range(0), names, told)


def _leads_back(machine: Machine, head: int, first: int) -> bool:
    try:
        return machine.memory.read_word(first + machine.memory.word_size) == head
    except (FaultError, OverflowError):
        return False


def _of_cpus(
    reading: Reading, places: U64, member: str, type: str, own: Sequence[str]
) -> Iterator[Copy]:
    machine, caches = reading.machine, reading.allocator.caches
    addresses = per_cpu_addresses(machine, caches.rows[member])
    layout, size = machine.structure(type), _ARRAY_BYTES if member == "cpu_cache" else None
    rows = machine.rows(type, addresses.reshape(-1), size or layout.size)
    own = [name for name in own if layout.has(name)]
    unique = np.logical_or.reduce([rows[name] != 0 for name in own]) & (rows.addresses != 0)
    raw = rows.raw * unique[:, None]
    if size is not None:
        # What lies behind the last entry is of nobody, or another's.
        ends = layout.size + rows["avail"].astype(np.int64) * machine.memory.word_size
        raw *= np.arange(size) < ends[:, None]
    for some in _same(raw, rows.addresses, places):
        at = [int(rows.addresses[row]) for row in some]
        names = [caches.names[row // addresses.shape[1]] for row in some]
        cpus = [int(machine.cpus[row % addresses.shape[1]]) for row in some]
        yield Copy(
            [range(start, start + raw.shape[1]) for start in at],
            range(0),
            names,
            f"{type} of {names[0]} of CPU {cpus[0]} and that of {names[1]} of CPU {cpus[1]} are "
            "the same",
        )


def _same(raw: U8, addresses: U64, places: U64) -> Iterator[Tuple[int, int]]:
    # Pairs of rows with the same bytes, of which a place lies in one at least.
    ends = addresses + np.uint64(raw.shape[1])
    told = np.searchsorted(places, ends) > np.searchsorted(places, addresses)
    for row in np.flatnonzero(told & raw.any(axis=1))[:_MOST].tolist():
        same = np.flatnonzero((raw == raw[row]).all(axis=1)).tolist()
        other = same[0] if same[-1] == row else same[-1]
        # Of more than two nobody knows which of them it was.
        if len(same) == 2 and not (other < row and told[other]):
            yield row, other
