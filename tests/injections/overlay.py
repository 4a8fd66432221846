# SPDX-License-Identifier: LGPL-2.1-or-later
"""Bytes of a program's memory, replaced."""

from __future__ import annotations

from typing import Iterable, NamedTuple

from drgn import Program
from drgn.helpers.linux.mm import follow_phys


class Write(NamedTuple):
    """Bytes to overwrite."""

    address: int
    """Virtual address in the kernel."""
    data: bytes


def overlay(prog: Program, writes: Iterable[Write]) -> None:
    """
    Let *prog* read other bytes than its dump holds.

    :param prog: A freshly opened dump of which nothing has been read yet.
    """
    # By physical address, where each of the kernel's mappings leads in the end.
    places = [(_physical(prog, write.address), write.data) for write in writes]
    for start, data in places:

        def read(
            address: int, count: int, offset: int, physical: bool, data: bytes = data
        ) -> bytes:
            return data[offset : offset + count]

        prog.add_memory_segment(start, len(data), read, True)


def _physical(prog: Program, address: int) -> int:
    return int(follow_phys(prog["init_mm"].address_of_(), address))
