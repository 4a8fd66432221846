# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What per-CPU memory has been given out
--------------------------------------

The per-CPU allocator has a bit for every four bytes of a chunk that says whether they are
given out, and another one that says where that begins. A per-CPU pointer that leads
anywhere else has never been returned by ``__alloc_percpu()``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Optional

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, sizeof

from ..regions import Region, region
from .locks import lock_state
from .memory import U64, Bools

if TYPE_CHECKING:
    from . import Machine

_STEP = 4  # PCPU_MIN_ALLOC_SIZE: bytes that each bit is about
_MOST_CHUNKS = 4096
_MOST_PAGES = 1 << 14  # of a unit

_Bits = npt.NDArray[np.bool_]


class Chunk(NamedTuple):
    """A chunk, as far as the unit of the first CPU."""

    base: int
    """Address of that unit, without what other CPUs' units are further on."""
    given: _Bits
    """Which steps of it are given out."""
    begins: _Bits
    """At which of them something begins, or ends."""
    told: _Bits
    """Which pages of the unit these bits tell something about."""
    populated: _Bits
    """Which pages of the unit there are."""

    def holds(self, offset: int, size: int, page_size: int) -> bool:
        """Return whether so many bytes at an offset can have been given out together."""
        at, page = offset // _STEP, offset // page_size
        if not self.told[page]:
            return bool(self.populated[page]) or not self.populated.any()
        if offset % _STEP or not (self.begins[at] and self.given[at]):
            return False
        rest = self.begins[at + 1 :]
        steps = int(rest.argmax()) + 1 if rest.any() else len(rest) + 1
        return steps * _STEP >= size


def never_given_out(machine: Machine, pointers: U64, size: int) -> Bools:
    """
    Return which per-CPU pointers lead to what was not given out as one piece.

    :param pointers: NULL leads nowhere, and is not judged.
    :param size: Bytes of what they lead to, at least.
    :return: Nothing of a kernel that runs, or where not all chunks are in the target.
    """
    wrong = np.zeros(len(pointers), np.bool_)
    chunks = None if machine.is_live else machine.fact(_chunks)
    if not chunks or machine.per_cpu.lost.any():
        return wrong
    page_size = machine.memory.page_size
    first = (pointers + machine.cpu_offsets.min()).tolist()
    for row in np.flatnonzero(pointers).tolist():
        within = (
            (chunk, first[row] - chunk.base)
            for chunk in chunks
            if 0 <= first[row] - chunk.base < len(chunk.populated) * page_size
        )
        wrong[row] = not any(chunk.holds(at, size, page_size) for chunk, at in within)
    return wrong


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the heads of all chunks, and their maps."""
    lists = _lists(machine)
    yield region("per-CPU chunks", [head.value_() for head in lists], 2 * machine.memory.word_size)
    with suppress(LookupError):
        lock = machine.prog.variable("pcpu_lock")
        yield region("per-CPU chunks", [lock.address_], sizeof(lock))
    for chunk in _all_chunks(machine, lists):
        size, pages = sizeof(chunk.type_.type), chunk.nr_pages.value_()
        yield region("per-CPU chunks", chunk.value_(), size + _map_bytes(machine, pages))
        maps = [chunk.alloc_map.value_(), chunk.bound_map.value_()]
        steps = machine.memory.page_size // _STEP
        yield region("per-CPU chunks", maps, _map_bytes(machine, pages * steps))


def _chunks(machine: Machine) -> Optional[List[Chunk]]:
    # All of them, or none: while somebody has their lock, one may be between two lists.
    try:
        if lock_state(machine.prog.variable("pcpu_lock")).held[0]:
            return None
    except LookupError:
        pass
    try:
        found = [_read(machine, chunk) for chunk in _all_chunks(machine, _lists(machine))]
    except (FaultError, LookupError, OverflowError, ValueError):
        return None
    return found


def _lists(machine: Machine) -> List[Object]:
    # Since Linux kernel commit 3c7be18ac9a0 (in v5.9), some kernels have lists for each type
    # of chunks, since faf65dde844a (in v5.14) all are on the same.
    prog = machine.prog
    try:
        first, count = prog["pcpu_chunk_lists"], int(prog["pcpu_nr_slots"])
    except KeyError:
        first, count = prog["pcpu_slot"], int(prog["pcpu_nr_slots"])
    with suppress(LookupError):
        count *= int(prog.constant("PCPU_NR_CHUNK_TYPES"))
    if not 0 < count < _MOST_CHUNKS:
        raise ValueError("no number of lists")
    return [first + number for number in range(count)]


def _all_chunks(machine: Machine, lists: List[Object]) -> Iterator[Object]:
    prog, word = machine.prog, machine.memory.word_size
    layout = machine.structure("struct pcpu_chunk")
    link = layout.offset("list")
    left = _MOST_CHUNKS
    for head in lists:
        before, at = head.value_(), machine.memory.read_word(head.value_())
        while at != head.value_():
            if left <= 0 or machine.memory.read_word(at + word) != before:
                raise ValueError("a list of chunks is broken")
            left -= 1
            yield Object(prog, "struct pcpu_chunk *", at - link)
            before, at = at, machine.memory.read_word(at)


def _read(machine: Machine, chunk: Object) -> Chunk:
    memory, pages = machine.memory, int(chunk.nr_pages)
    if not 0 < pages < _MOST_PAGES:
        raise ValueError("no size of a chunk")
    each = memory.page_size // _STEP
    given = _bits(machine, int(chunk.alloc_map), pages * each)
    begins = _bits(machine, int(chunk.bound_map), pages * each)
    populated = chunk.populated.address_of_().value_()
    # A page of a map that is all zeroes may be one that a dumper has left out.
    told = _in_pages_with_any(begins, int(chunk.bound_map), memory.page_size)
    told &= _in_pages_with_any(given, int(chunk.alloc_map), memory.page_size)
    there = _bits(machine, populated, pages)
    whole = np.asarray(told.reshape(pages, each).all(axis=1))
    return Chunk(int(chunk.base_addr), given, begins, whole, there)


def _in_pages_with_any(bits: _Bits, address: int, page_size: int) -> _Bits:
    # Which bits of a map lie in pages of memory in which any of its bits is set.
    page = (np.arange(len(bits)) + address % page_size * 8) // (8 * page_size)
    found: _Bits = (np.bincount(page, bits) > 0)[page]
    return found


def _bits(machine: Machine, address: int, count: int) -> _Bits:
    memory = machine.memory
    data = memory.read(address, _map_bytes(machine, count))
    words = np.frombuffer(data, memory.word).astype("<u8")
    return np.unpackbits(words.view(np.uint8), bitorder="little")[:count].astype(np.bool_)


def _map_bytes(machine: Machine, count: int) -> int:
    bits = 8 * machine.memory.word_size
    return -(-count // bits) * machine.memory.word_size
