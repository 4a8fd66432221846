# SPDX-License-Identifier: LGPL-2.1-or-later
"""Physical memory of a core all of whose segments begin at physical address 0."""

from __future__ import annotations

import os

from drgn import FaultError, Program

from .elf import PT_LOAD, ElfFile


def add_physical(prog: Program, path: str) -> None:
    """
    Let a program read by physical address what a core has in one segment at 0.

    drgn takes a core in which each physical address is 0 for one that tells none.
    QEMU's cores of machines whose memory begins there, and has no hole, are such.

    :param path: The core.
    """
    try:
        with open(path, "rb") as file:
            loads = [one for one in ElfFile(file).segments if one.type == PT_LOAD]
            descriptor = os.dup(file.fileno())
    except (OSError, ValueError):
        return
    if len(loads) != 1 or loads[0].physical or loads[0].address:
        os.close(descriptor)
        return
    begin = loads[0].offset

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        data = os.pread(descriptor, count, begin + offset)
        if len(data) < count:
            raise FaultError("not in the dump", address)
        return data

    prog.add_memory_segment(0, loads[0].file_size, read, True)
