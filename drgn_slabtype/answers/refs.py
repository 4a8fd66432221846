# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Who points here
---------------

One pass over all memory for words that lead into an object, a slab, a page or
any other range; then each hit is described by what it lies in.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Collection, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
from drgn import IntegerLike, Program, SymbolKind, Type, sizeof

from ..allocators.caches import same_cache
from ..allocators.whereabouts import find_slab
from ..arguments import at_least, one_of, several, somewhere, type_of
from ..errors import ArgumentError
from ..machine import Machine, machine
from ..machine.memory import U64
from ..machine.parallel import spread_reads
from ..machine.ram import memory_bytes, memory_ranges
from ..machine.tasks import ERRORS, TaskList
from ..machine.virtual import virtual
from ..pages.scan import Progress, page_ranges
from ..records import Listing, Record
from ..shapes import Address
from ..workers import worth_while
from .address import AddressInfo
from .describe import describe, describe_in
from .lookup import Located, Lookup, lookup
from .members import member_at
from .names import known_as

KINDS = ("slabs", "stacks", "data", "percpu", "pages")
"""What a reference can lie in: an object of a cache, a task's stack, a variable of the kernel
or a module, a CPU's memory, any other page."""

_BLOCK_BYTES = 1 << 20  # what a processor keeps at hand
_PART_BYTES = 64 << 20  # that one process searches before it takes others
_MANY_PAGES = 1 << 18  # of which a search takes longer than processes do to begin
_MOST_COUNTED = 1 << 14  # of which it is told in what they lie
_MOST_HITS = 1 << 20  # that are kept; after that they are only counted


@dataclass(frozen=True)
class Reference(Record):
    """A word that leads into the range that was asked about."""

    address: Address
    """Where the word is."""
    value: Address
    """The word."""
    kind: str
    """One of :data:`KINDS`."""
    meaning: str
    """What it lies in."""
    cache: Optional[str] = None
    """Name of the slab cache of the object that it lies in."""
    object: Optional[Address] = None
    """Address of that object."""
    offset: Optional[int] = None
    """Bytes from the beginning of the object to the word."""
    state: Optional[str] = None
    """Of the object: ``in use``, ``free``, ``waiting`` or ``unknown``."""
    member: Optional[str] = None
    """Member of the type that was asked for."""
    frame: Optional[str] = None
    """Function whose frame of the stack it lies in."""


@dataclass
class References(Listing):
    """Everything that points into a range."""

    LISTED = "references"

    start: Address
    """The first byte of the range."""
    size: int
    """Bytes of the range."""
    meaning: str
    """What is there."""
    found: int = 0
    """Words that lead there, in all memory."""
    references: List[Reference] = field(default_factory=list)
    """By address; the first of them only, if there are very many."""
    by_kind: Dict[str, int] = field(default_factory=dict)
    """The words by what they lie in: all of them, or the first 16384."""
    bytes_read: int = 0
    """Bytes of memory that were searched."""
    unreadable_pages: int = 0
    """Pages of memory that are not in the target, and so not known to hold none."""


def refs(
    prog: Program,
    start: IntegerLike,
    size: Optional[int] = None,
    *,
    kinds: Collection[str] = KINDS,
    type: Union[str, Type, None] = None,
    most: int = 1000,
    progress: Optional[Progress] = None,
    jobs: Optional[int] = 1,
) -> References:
    """
    Return who points into some memory.

    >>> answer = refs(prog, 0xffff8880008e2040)
    >>> answer.found, answer.meaning
    (3, 'object 1 of kmalloc-64 slab 0xffffea0000023880')
    >>> for ref in answer[:2]:
    ...     print(hex(ref.address), ref.meaning)
    0xffff88800f82a610 array_cache+0x80 of kmalloc-64 of CPU 0
    0xffff88800f82a6d0 array_cache+0x140 of kmalloc-64 of CPU 0

    :param start: First address. Without a size, an address in an object means the
        whole object, and that of a variable all of it; any other means itself alone.
    :param size: Bytes of the range.
    :param kinds: Tell only references that lie in these.
    :param type: C type of the objects that point here, ``struct dentry``: its
        members are named.
    :param most: Describe no more than so many.
    :param progress: Called as work goes on: with what is done, how far it is, and how far it goes.
    :param jobs: How many processes search, forked from this one; with 1, this one does, and
        in what moves. ``None``: one a processor, if there is so much memory that it is worth
        while. The answer is the same.
    :raises ArgumentError: if there is no such kind or type, or a number is too small, or
        *start* NULL or no address.
    """
    wanted = {one_of("kind of reference", kind, KINDS) for kind in several(kinds)}
    at_least("size", size, 1)
    at_least("most", most)
    at_least("jobs", jobs, 1)
    reading = lookup(machine(prog))
    told = None if type is None else type_of(prog, type)
    at = somewhere("memory: all that is not set is NULL", start)
    if size is not None and at + size > 1 << 64:
        raise ArgumentError(
            f"size is {size:#x}: from 0x{at:x} on there are {(1 << 64) - at:#x} bytes"
        )
    first, length, info = _range(reading, at, size)
    known = "" if info.is_known else known_as(reading.machine, at)
    answer = References(first, length, info.meaning + known)
    where, values = _search(reading.machine, answer, jobs, progress)
    describer = _Describer(reading, told)
    by_kind: Counter[str] = Counter()
    for number, (address, value) in enumerate(zip(where.tolist(), values.tolist())):
        if number >= _MOST_COUNTED and len(answer.references) >= most:
            break
        kind = describer.kind(address)
        by_kind[kind] += number < _MOST_COUNTED
        if kind in wanted and len(answer.references) < most:
            answer.references.append(describer.describe(address, value))
    answer.by_kind = dict(by_kind)
    return answer


def _range(reading: Lookup, start: int, size: Optional[int]) -> Tuple[int, int, AddressInfo]:
    info = describe(reading, start)
    if size is not None:
        return start, size, info
    if info.object is not None and info.slab_cache is not None:
        number = reading.number(info.slab_cache)
        return info.object, max(int(reading.caches.rows["object_size"][number]), 1), info
    with suppress(LookupError):
        symbol = reading.machine.prog.symbol(start)
        if symbol.address == start and symbol.size and symbol.kind != SymbolKind.FUNC:
            return start, symbol.size, info
    return start, 1, info


class _Part(NamedTuple):
    # Neighbouring memory that is searched in one go.
    first: int
    last: int
    pages: int
    """Of the machine, up to its end: what progress tells."""
    is_linear: bool


class _Hits(NamedTuple):
    # What was found in a part.
    where: U64
    """Addresses by which the words were read."""
    values: U64
    found: int
    """How many there are, also those that are not kept."""
    bytes_read: int
    lost: int
    """Bytes of memory that are not in the target."""


def _search(
    machine: Machine, answer: References, jobs: Optional[int], progress: Optional[Progress]
) -> Tuple[U64, U64]:
    # Addresses in the direct map of the words that lead into the range of an answer, and the words.
    memory = machine.memory
    low, reach = np.uint64(answer.start), np.uint64(answer.size)

    def search(part: _Part) -> _Hits:
        return _hits(machine, part, low, reach)

    parts = list(_parts(machine))
    machine.fact(memory_ranges)  # before there are several processes
    total = max((part.pages for part in parts), default=0)
    jobs = worth_while(jobs, memory.is_live, total >= _MANY_PAGES)
    where: List[U64] = [np.zeros(0, np.uint64)]
    values: List[U64] = [np.zeros(0, np.uint64)]
    kept = 0
    for part, hits in zip(parts, spread_reads(memory, search, parts, jobs)):
        answer.found += hits.found
        answer.bytes_read += hits.bytes_read
        answer.unreadable_pages += hits.lost >> memory.page_shift
        if kept < _MOST_HITS:
            kept += len(hits.where)
            where.append(hits.where)
            values.append(hits.values)
        if progress:
            progress("pages", part.pages, total)
    return np.concatenate(where), np.concatenate(values)


def _hits(machine: Machine, part: _Part, low: np.uint64, reach: np.uint64) -> _Hits:
    memory = machine.memory
    read = memory.linear_blocks if part.is_linear else memory.blocks
    where: List[U64] = [np.zeros(0, np.uint64)]
    values: List[U64] = [np.zeros(0, np.uint64)]
    found = kept = size = lost = 0
    base, at = memory.linear_base, part.first
    # Room that is made for each block anew costs a third of the search.
    most = _BLOCK_BYTES // memory.word_size
    room, near = np.empty(most, np.uint64), np.empty(most, np.bool_)
    for address, data in read(part.first, part.last, _BLOCK_BYTES):
        if address != at:
            lost += memory_bytes(machine, at - base, address - base)
        at = address + len(data)
        size += len(data)
        words = data.view(memory.word)
        beyond = np.subtract(words, low, out=room[: len(words)])
        hits = np.less(beyond, reach, out=near[: len(words)]).nonzero()[0]
        found += len(hits)
        if len(hits) and kept < _MOST_HITS:
            kept += len(hits)
            where.append(np.uint64(address) + hits.astype(np.uint64) * np.uint64(memory.word_size))
            values.append(words[hits].astype(np.uint64))
    lost = lost + memory_bytes(machine, at - base, part.last - base) if part.is_linear else 0
    return _Hits(np.concatenate(where), np.concatenate(values), found, size, lost)


def _parts(machine: Machine) -> Iterator[_Part]:
    memory = machine.memory
    pages, step = 0, _PART_BYTES >> memory.page_shift
    for start, end in page_ranges(machine):
        for first in range(start, end, step):
            last = min(first + step, end)
            pages += last - first
            low, high = (memory.linear_base + (pfn << memory.page_shift) for pfn in (first, last))
            yield _Part(low, high, pages, True)
    # A capture keeps these under the addresses by which they were read.
    for low, high in _kept_apart(machine) if machine.manifest is not None else ():
        yield _Part(low, high, pages, False)


def _kept_apart(machine: Machine) -> Iterator[Tuple[int, int]]:
    page = machine.page
    for start, end in page_ranges(machine):
        yield page.vmemmap + start * page.size, page.vmemmap + end * page.size
    with suppress(LookupError):
        first, last = (machine.prog.symbol(name).address for name in ("_sdata", "_end"))
        yield first, last


class _Describer:
    # Tells what a word lies in, by the address under which people know the place.

    def __init__(self, reading: Lookup, type: Optional[Type]) -> None:
        self._reading, self._type = reading, type
        self._machine = reading.machine
        self._virtual = virtual(self._machine)
        self._slabs: Dict[int, Optional[Located]] = {}
        self._kinds: Dict[int, str] = {}
        self._image = range(0)
        with suppress(LookupError):
            first, last = (self._machine.prog.symbol(name).address for name in ("_stext", "_end"))
            self._image = range(first, last)

    def kind(self, linear: int) -> str:
        page = linear >> self._machine.memory.page_shift
        kind = self._kinds.get(page)
        if kind is None and page not in self._slabs and self._is_slab(linear):
            kind = self._kinds[page] = "slabs"
        if kind is None:
            address = self._address(linear)
            info = self._info(address)
            kind = self._kind(info, address, linear)
            # Of these a page has nothing else; the kernel's image has symbols here and there.
            if kind in ("slabs", "stacks") or (kind == "pages" and address not in self._image):
                self._kinds[page] = kind
        return kind

    def describe(self, linear: int, value: int) -> Reference:
        address = self._address(linear)
        info = self._info(address)
        kind = self._kind(info, address, linear)
        member = None
        if self._type is not None and info.offset is not None and self._may_be(info):
            member = member_at(self._type, info.offset)
        frame = self._frame(address) if kind == "stacks" else None
        return Reference(
            address,
            value,
            kind,
            info.meaning + (f", in its {info.part}" if info.part else ""),
            info.cache,
            info.object,
            info.offset if info.object is not None else None,
            info.state,
            member,
            frame,
        )

    def _is_slab(self, linear: int) -> bool:
        # As its struct page says, where nothing speaks against that.
        memory = self._machine.memory
        where = find_slab(self._machine, (linear - memory.linear_base) >> memory.page_shift)
        return where.page is not None and where.doubt is None

    def _address(self, linear: int) -> int:
        memory = self._machine.memory
        return self._virtual.address(linear - memory.linear_base, memory.page_shift) or linear

    def _slab(self, address: int) -> Optional[Located]:
        # Many words of one slab may lead there.
        page = address >> self._machine.memory.page_shift
        if page not in self._slabs:
            self._slabs[page] = self._reading.at(address)
        return self._slabs[page]

    def _info(self, address: int) -> AddressInfo:
        slab = self._slab(address)
        if slab is not None and slab.number >= 0:
            return describe_in(slab, address)
        return describe(self._reading, address)

    def _may_be(self, info: AddressInfo) -> bool:
        # Whether an object is as large as one of the type is in its cache.
        if info.slab_cache is None or info.object is None:
            return False
        caches = self._reading.listed
        at = same_cache(np.array([info.slab_cache], np.uint64), caches)[0]
        if at < 0 or self._type is None:
            return False
        # Some are cut short: struct kmem_cache by the nodes that there are.
        size, tag = sizeof(self._type), getattr(self._type, "tag", None)
        return info.cache == tag or bool(size <= caches.rows["object_size"][at] < 2 * size)

    def _kind(self, info: AddressInfo, address: int, linear: int) -> str:
        if info.object is not None or info.kind == "slab":
            return "slabs"
        if info.kind in ("struct slab", "struct page"):
            return "pages"
        if info.kind == "per-CPU":
            return "percpu"
        if self._tasks.on_stack(address) is not None:
            return "stacks"
        # The kernel's image lies in the direct map on some machines, as that of ppc64.
        return "pages" if address == linear and info.kind == "page" else "data"

    @property
    def _tasks(self) -> TaskList:
        return self._machine.settled(TaskList)

    def _frame(self, address: int) -> Optional[str]:
        # The innermost frame whose part of the stack reaches as far.
        task = self._tasks.on_stack(address)
        try:
            assert task is not None
            if task.saved is not None and address < task.saved:
                return "below the frames in use"
            trace = self._machine.prog.stack_trace(task.object)
            for frame, outer in zip(trace, list(trace)[1:]):
                if frame.sp <= address < outer.sp:
                    return frame.name
        except (AssertionError, *ERRORS):
            pass
        return None
