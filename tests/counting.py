# SPDX-License-Identifier: LGPL-2.1-or-later
"""A capture that counts what is read of it."""

from __future__ import annotations

import lzma
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Tuple

from drgn import Program

from drgn_slabtype.capture import open_capture
from drgn_slabtype.files.elf import ElfFile


@dataclass
class Count:
    """What was read so far."""

    reads: int = 0
    """But for those of one byte: drgn reads strings so, which dumps are asked for in one go."""
    bytes: int = 0


def counted_capture(path: Path) -> Tuple[Program, Count]:
    """Return a program that reads a capture, and the count of its reads."""
    prog, source, count = open_capture(str(path)), open_capture(str(path)), Count()

    def read(address: int, size: int, offset: int, physical: bool) -> bytes:
        count.reads += size > 1
        count.bytes += size
        data: bytes = source.read(address, size, physical)
        return data

    read_through(prog, path, read)
    return prog, count


def read_through(prog: Program, path: Path, read: Callable[[int, int, int, bool], bytes]) -> None:
    """Let a program that has opened a capture read all of its memory through a function."""
    with tempfile.TemporaryFile() as file:
        with lzma.open(path) as packed:
            while block := packed.read(1 << 20):
                file.write(block)
        file.seek(0)
        for segment in ElfFile(file).segments:
            if segment.address:
                prog.add_memory_segment(segment.address, segment.memory_size, read, False)
            if segment.physical != (1 << 64) - 1:
                prog.add_memory_segment(segment.physical, segment.memory_size, read, True)
