# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes of a program's memory, replaced in every view of them."""

from __future__ import annotations

from typing import Iterable, Iterator, List, NamedTuple, Tuple

from drgn import FaultError, Program
from drgn.helpers.linux.mm import follow_phys, phys_to_virt

_DIRECT_MAP = 1 << 46  # bytes; vmalloc, memory map and kernel image lie above


class Write(NamedTuple):
    """Bytes to overwrite."""

    address: int
    """Virtual address in the kernel."""
    data: bytes


def overlay(prog: Program, writes: Iterable[Write]) -> None:
    """
    Let *prog* read other bytes than its dump holds.

    Virtual addresses lead to physical ones through the kernel's page tables,
    and the same page can be read in three ways: by physical address, in the
    direct map, and where else it is mapped (memory map, per-CPU memory, kernel
    image). Some dumps hold segments for all of these, so each is covered.

    :param prog: A freshly opened dump of which nothing has been read yet.
    """
    size = int(prog["PAGE_SIZE"])
    pieces = [piece for write in writes for piece in _by_page(write, size)]
    views: List[Tuple[int, bool, bytes]] = []
    base = int(phys_to_virt(prog, 0))
    for address, data in pieces:
        views.append((address, False, data))
        physical = address - base
        if not 0 <= physical < _DIRECT_MAP:
            try:
                physical = int(follow_phys(prog["init_mm"].address_of_(), address))
            except (FaultError, LookupError):
                continue  # a capture without page tables has no other view
            views.append((base + physical, False, data))
        views.append((physical, True, data))
    for start, is_physical, data in views:
        _cover(prog, start, is_physical, data)


def _cover(prog: Program, start: int, is_physical: bool, data: bytes) -> None:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return data[offset : offset + count]

    prog.add_memory_segment(start, len(data), read, is_physical)


def _by_page(write: Write, size: int) -> Iterator[Tuple[int, bytes]]:
    # Pages next to each other in one view need not be so in another.
    at = 0
    while at < len(write.data):
        address = write.address + at
        step = size - address % size
        yield address, write.data[at : at + step]
        at += step
