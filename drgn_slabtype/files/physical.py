# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical memory of cores from which drgn does not take it."""

from __future__ import annotations

import os
from typing import Callable

from drgn import FaultError, Program

from .elf import PT_LOAD, ElfFile


def add_physical(prog: Program, path: str, every: bool = False) -> None:
    """
    Let a program read by physical address what a core has in one segment at 0.

    drgn takes a core in which each physical address is 0 for one that tells none.
    QEMU's cores of machines whose memory begins there, and has no hole, are such.

    :param path: The core.
    :param every: Whether drgn was not given its segments at all.
    """
    try:
        with open(path, "rb") as file:
            elf = ElfFile(file)
            lost = elf.impossible()
            loads = [one for one in elf.segments if one.type == PT_LOAD and one not in lost]
            descriptor = os.dup(file.fileno())
    except (OSError, ValueError):
        return
    if not every and (len(loads) != 1 or loads[0].physical or loads[0].address):
        os.close(descriptor)
        return
    for one in loads:
        prog.add_memory_segment(one.physical, one.file_size, _reader(descriptor, one.offset), True)


def _reader(descriptor: int, begin: int) -> Callable[[int, int, int, bool], bytes]:
    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        data = os.pread(descriptor, count, begin + offset)
        if len(data) < count:
            raise FaultError("not in the dump", address)
        return data

    return read
