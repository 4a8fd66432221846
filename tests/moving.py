# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A capture that moves
--------------------

A :class:`Moving` machine is a capture whose words change between one read and
the next, as those of a running kernel do: objects are taken from slabs and put
back, slabs leave their lists and come again. Each of its states is a sound one;
what is read of several of them is not. Damage stays whatever else goes on.
"""

from __future__ import annotations

import lzma
import tempfile
from pathlib import Path
from random import Random
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

import numpy as np
from drgn import Program

from drgn_slabtype.allocators.slub.state import partial_mark
from drgn_slabtype.capture import open_capture
from drgn_slabtype.files.elf import ElfFile
from drgn_slabtype.ledger import Ledger, ListKind
from drgn_slabtype.machine import machine
from drgn_slabtype.reading import Reading

from .recipes.changes import member
from .recipes.overlay import Write

_DIRECT_MAP = 1 << 46  # bytes
_PAGE = 4096
_GARBAGE = 0x1122334455667788  # what a user writes where the free pointer was


class Toggle(NamedTuple):
    """Something that goes on and comes back: the words of both states."""

    there: Tuple[Write, ...]
    back: Tuple[Write, ...]


class Moving:
    """
    A capture that changes while it is read.

    :param path: Of the capture.
    :param seed: For the moments at which it changes.
    :param often: How probable it is, before each read, that something happens.
    """

    def __init__(self, path: Path, seed: int, often: float = 0.005) -> None:
        self.prog = open_capture(str(path))
        self.reads = 0
        self.toggles: List[Toggle] = []
        self.before_read: Callable[[int], None] = lambda number: None
        """Called before each read with its number."""
        self._source = open_capture(str(path))
        self._random = Random(seed)
        self._often = often
        self._base = machine(self._source).memory.linear_base
        # Words that are others by now, by page, as they are read: virtual or physical.
        self._pages: Dict[bool, Dict[int, Dict[int, bytes]]] = {False: {}, True: {}}
        self._away: Dict[int, bool] = {}
        self._cover(path)
        machine(self.prog).memory.is_live = True

    def _cover(self, path: Path) -> None:
        with tempfile.TemporaryFile() as file:
            with lzma.open(path) as packed:
                while block := packed.read(1 << 20):
                    file.write(block)
            file.seek(0)
            for segment in ElfFile(file).segments:
                for start, physical in ((segment.address, False), (segment.physical, True)):
                    if start and start != (1 << 64) - 1:
                        self.prog.add_memory_segment(
                            start, segment.memory_size, self._read, physical
                        )

    def _read(self, address: int, size: int, offset: int, physical: bool) -> bytes:
        self.reads += 1
        self.before_read(self.reads)
        if self.toggles and self._random.random() < self._often:
            self._step()
        data: bytes = self._source.read(address, size, physical)
        pages = range(address // _PAGE, (address + size - 1) // _PAGE + 1)
        known = self._pages[physical]
        changed = [page for page in pages if page in known] if len(pages) < 8 else known
        for page in changed:
            for start, word in known[page].items():
                if start < address + size and address < start + len(word):
                    low, high = max(start, address), min(start + len(word), address + size)
                    new = word[low - start : high - start]
                    data = data[: low - address] + new + data[high - address :]
        return data

    def _step(self) -> None:
        number = self._random.randrange(len(self.toggles))
        away = self._away[number] = not self._away.get(number, False)
        self.write(self.toggles[number].there if away else self.toggles[number].back)

    def add(self, toggle: Toggle) -> None:
        """Let something go on and come back from now on; at first it is back."""
        self.toggles.append(toggle)
        self.write(toggle.back)

    def write(self, writes: Sequence[Write]) -> None:
        """Let some words be others from now on."""
        for address, data in ((one.address, bytes(one.data)) for one in writes):
            self._pages[False].setdefault(address // _PAGE, {})[address] = data
            physical = address - self._base
            if 0 <= physical < _DIRECT_MAP:
                self._pages[True].setdefault(physical // _PAGE, {})[physical] = data


class Slab(NamedTuple):
    """A slab that things can happen to."""

    prog: Program
    cache: str
    page: int
    """``struct slab *``."""
    node: int
    """``struct kmem_cache_node *``."""
    objects: int
    counted: int
    free: Tuple[int, ...]
    """Objects on its freelist, the next one first."""
    offset: int
    """Of the free pointer in an object."""

    def put(self, path: str, number: int) -> Write:
        """Return the write of one of its members."""
        return member(self.prog, "struct slab", self.page, path).write(number)

    def get(self, path: str) -> int:
        """Return one of its members."""
        return member(self.prog, "struct slab", self.page, path).number

    def of_node(self, path: str) -> int:
        """Return a member of its node."""
        return member(self.prog, "struct kmem_cache_node", self.node, path).number

    def put_node(self, path: str, number: int) -> Write:
        """Return the write of a member of its node."""
        return member(self.prog, "struct kmem_cache_node", self.node, path).write(number)


def partial_slabs(path: Path, least_free: int = 2) -> Iterator[Slab]:
    """Yield slabs of different caches that stand on a partial list, as the capture has them."""
    prog = open_capture(str(path))
    reading = Reading(machine(prog))
    allocator = reading.allocator
    for number in range(len(allocator.caches)):
        ledger, findings = reading.judge(number)
        if findings:
            continue
        for row in _partial(ledger):
            free = _freelist(ledger, row)
            if len(free) >= least_free and ledger.slabs.counted[row] > 1:
                nodes = allocator.nodes  # type: ignore[attr-defined]
                node = int(nodes.rows.addresses[nodes.cache == number][0])
                rows = allocator.caches.rows
                offset = int(rows["offset"][number]) if rows.structure.has("offset") else -1
                yield Slab(
                    prog,
                    ledger.facts.name,
                    int(ledger.slabs.page[row]),
                    node,
                    int(ledger.slabs.objects[row]),
                    int(ledger.slabs.counted[row]),
                    free,
                    offset,
                )
                break


def _partial(ledger: Ledger) -> List[int]:
    on = ledger.memberships.kind == int(ListKind.PARTIAL)
    return [int(row) for row in ledger.memberships.slab[on].tolist()]


def _freelist(ledger: Ledger, row: int) -> Tuple[int, ...]:
    claims = ledger.claims
    own = np.flatnonzero((claims.slab == row) & (claims.place == 0))
    own = own[np.argsort(claims.position[own], kind="stable")]
    return tuple(claims.address[own].tolist())


def _both(prog: Program, there: Sequence[Write]) -> Toggle:
    back = [Write(address, prog.read(address, len(data))) for address, data in there]
    return Toggle(tuple(there), tuple(back))


def taken(slab: Slab, off: int = 0) -> Toggle:
    """
    Return that the next object of a SLUB slab is taken and put back.

    :param off: Damage: by how much its count is wrong all the time.
    """
    first, second = slab.free[:2]
    word = first + slab.offset
    there = [
        slab.put("freelist", second),
        slab.put("inuse", slab.counted + 1 + off),
        Write(word, _GARBAGE.to_bytes(8, "little")),
    ]
    back = [
        slab.put("freelist", first),
        slab.put("inuse", slab.counted + off),
        Write(word, slab.prog.read(word, 8)),
    ]
    return Toggle(tuple(there), tuple(back))


def filled(slab: Slab, off: int = 0) -> Toggle:
    """
    Return that all objects of a SLUB slab are taken, it leaves its list, and all of it again.

    :param off: Damage: by how much its node's ``nr_partial`` is wrong all the time.
    """
    prog, word = slab.prog, 8
    marks = slab.get("flags.f") & ~machine(prog).fact(partial_mark)
    ahead, behind = slab.get("slab_list.next"), slab.get("slab_list.prev")
    count = slab.of_node("nr_partial")
    there = [
        slab.put("freelist", 0),
        slab.put("inuse", slab.objects),
        *(Write(at + slab.offset, _GARBAGE.to_bytes(8, "little")) for at in slab.free),
        slab.put("flags.f", marks),
        slab.put("slab_list.next", 0xDEAD000000000100),
        slab.put("slab_list.prev", 0xDEAD000000000122),
        Write(behind, ahead.to_bytes(word, "little")),
        Write(ahead + word, behind.to_bytes(word, "little")),
        slab.put_node("nr_partial", count - 1 + off),
    ]
    toggle = _both(prog, there[:-1])
    back = (*toggle.back, slab.put_node("nr_partial", count + off))
    return Toggle(tuple(there), back)


def activated(slab: Slab, off: int = 0) -> Toggle:
    """
    Return that an object of a SLAB slab is taken and put back.

    :param off: Damage: by how much its node's ``free_objects`` is wrong all the time.
    """
    layout = machine(slab.prog).layout
    word = member(slab.prog, "struct slab", slab.page, "page_type")
    free = slab.of_node("free_objects")
    there = (
        word.write(layout.encoding.with_active(word.number, slab.counted + 1)),
        slab.put_node("free_objects", free - 1 + off),
    )
    back = (word.write(word.number), slab.put_node("free_objects", free + off))
    return Toggle(there, back)
