# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that a core dump promises and does not have, taken out of a program's sight."""

from __future__ import annotations

from contextlib import contextmanager
from typing import BinaryIO, Callable, Iterable, Iterator

from drgn import FaultError, Program

from .elf import ElfFile, Segment

_Read = Callable[[int, int, int, bool], bytes]


def hide(prog: Program, segments: Iterable[Segment]) -> int:
    """
    Let reads of some memory fault, whatever the file would give for it.

    :return: Bytes of it.
    """
    return _cover(prog, segments, _fault)


@contextmanager
def zeroes_hidden(prog: Program, segments: Iterable[Segment]) -> Iterator[None]:
    """
    Let reads of memory that is all zeroes fault until the end of a ``with`` block.

    A program has no way to give up a segment: it reads zeroes from this one after that.
    """
    hidden = True

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return _fault(address, count, offset, physical) if hidden else bytes(count)

    _cover(prog, segments, read)
    try:
        yield
    finally:
        hidden = False


def _fault(address: int, count: int, offset: int, physical: bool) -> bytes:
    raise FaultError("not in the dump", address)


def _cover(prog: Program, segments: Iterable[Segment], read: _Read) -> int:
    covered = 0
    for segment in segments:
        size = segment.memory_size
        if not size:
            continue
        covered += size
        for address, physical in ((segment.physical, True), (segment.address, False)):
            # Memory of no physical address says -1; a virtual one of 0 is none.
            room = min(size, (1 << 64) - address)
            if (address or physical) and room > 0:
                prog.add_memory_segment(address, room, read, physical)
    return covered


def hide_impossible(prog: Program, file: BinaryIO) -> None:
    """
    Hide what a core dump has at offsets that no file can have.

    Read by drgn, it is an error of the system and not memory that is missing.
    """
    try:
        hide(prog, ElfFile(file).impossible())
    except ValueError:  # not ELF
        return
