# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes of a program's memory, replaced in every view of them."""

from __future__ import annotations

from typing import Callable, Iterable, Iterator, List, Literal, NamedTuple, Tuple, Union

from drgn import FaultError, PlatformFlags, Program
from drgn.helpers.linux.mm import follow_phys, phys_to_virt

_DIRECT_MAP = 1 << 46  # bytes; vmalloc, memory map and kernel image lie above


def order_of(prog: Program) -> Literal["little", "big"]:
    """Return the byte order of a program's memory, as Python spells it."""
    platform = prog.platform
    little = platform is None or platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
    return "little" if little else "big"


def direct_map(prog: Program) -> int:
    """Return the virtual address of physical address 0."""
    try:
        return int(phys_to_virt(prog, 0))
    except NotImplementedError:  # drgn follows no page tables of riscv64
        return int(prog["kernel_map"].va_pa_offset)


class Write(NamedTuple):
    """Bytes to overwrite."""

    address: int
    """Virtual address in the kernel."""
    data: Union[bytes, bytearray]
    """What is there; what is changed later is read changed."""


def overlay(prog: Program, writes: Iterable[Write], read: Callable[[int], object] = int) -> None:
    """
    Let *prog* read other bytes than its dump holds.

    Virtual addresses lead to physical ones through the kernel's page tables,
    and the same page can be read in three ways: by physical address, in the
    direct map, and where else it is mapped (memory map, per-CPU memory, kernel
    image). Some dumps hold segments for all of these, so each is covered.

    :param prog: A freshly opened dump of which nothing has been read yet.
    :param read: Called with the address of a write whenever some of it is read.
    """
    size = int(prog["PAGE_SIZE"])
    base = direct_map(prog)
    views: List[Tuple[int, bool, _Piece]] = []
    for address, data in (piece for write in writes for piece in _by_page(write, size, read)):
        views.append((address, False, data))
        physical = address - base
        if not 0 <= physical < _DIRECT_MAP:
            try:
                physical = int(follow_phys(prog["init_mm"].address_of_(), address))
            except (FaultError, LookupError, NotImplementedError):
                continue  # without page tables that drgn follows there is no other view
            views.append((base + physical, False, data))
        views.append((physical, True, data))
    for start, is_physical, data in views:
        prog.add_memory_segment(start, len(data.data), data.read, is_physical)


class _Piece(NamedTuple):
    # Bytes of one page, and what is called when they are read.
    data: memoryview
    write: int
    seen: Callable[[int], object]

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        self.seen(self.write)
        return bytes(self.data[offset : offset + count])


def _by_page(
    write: Write, size: int, seen: Callable[[int], object]
) -> Iterator[Tuple[int, _Piece]]:
    # Pages next to each other in one view need not be so in another.
    at = 0
    while at < len(write.data):
        address = write.address + at
        step = size - address % size
        yield address, _Piece(memoryview(write.data)[at : at + step], write.address, seen)
        at += step
