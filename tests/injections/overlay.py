# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes of a program's memory, replaced."""

from __future__ import annotations

from typing import Iterable, NamedTuple

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

    The same memory is read by physical address, in the direct map, and where
    else it is mapped; some dumps hold a segment for each.

    :param prog: A freshly opened dump of which nothing has been read yet.
    """
    views = []
    for address, data in writes:
        views.append((address, False, data))
        physical = address - int(phys_to_virt(prog, 0))
        if not 0 <= physical < _DIRECT_MAP:
            try:
                physical = int(follow_phys(prog["init_mm"].address_of_(), address))
            except (FaultError, LookupError):
                continue  # a capture without page tables has no other view
        views.append((physical, True, data))
        views.append((int(phys_to_virt(prog, physical)), False, data))
    for start, is_physical, data in views:

        def read(
            address: int, count: int, offset: int, physical: bool, data: bytes = data
        ) -> bytes:
            return data[offset : offset + count]

        prog.add_memory_segment(start, len(data), read, is_physical)
