# SPDX-License-Identifier: LGPL-2.1-or-later
"""
VMCOREINFO that a dumper left in the kernel's memory
----------------------------------------------------

QEMU's own dumps have the note only of machines with a device for it. The kernel
keeps it as a note, ready for a crash kernel, at the beginning of a page.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Tuple

from .elf import ET_CORE, PT_LOAD, ElfFile, Segment
from .turned import EM_PPC64

_NAME = b"VMCOREINFO\0\0"
_START = _NAME + b"OSRELEASE="
_HEADER_BYTES = 12  # of an ELF note: sizes of name and data, and its type
_PAGE = 4096  # the smallest
_MOST_BYTES = 1 << 16
_BLOCK = 1 << 24

_EM_S390 = 22
# struct lowcore.vmcore_info, which Linux sets in setup_vmcoreinfo(): "the address of
# the vmcoreinfo note is stored at a fixed place" for stand-alone dump tools.
_S390_LOWCORE = 0xE0C


class OwnNote(NamedTuple):
    """VMCOREINFO as a kernel keeps it."""

    data: bytes
    """The note."""
    order: str
    """Byte order of the kernel: ``<`` or ``>``. That of the headers, but for ppc64."""


def own_vmcoreinfo(file: BinaryIO) -> List[OwnNote]:
    """
    Return every VMCOREINFO in the memory of an ELF core that has none among its notes.

    :param file: Open for reading, seekable.
    :return: Empty for anything but a core of a machine, whose segments have physical
        addresses alone.
    """
    try:
        elf = ElfFile(file)
    except ValueError:
        return []
    loads = [one for one in elf.segments if one.type == PT_LOAD and one.file_size]
    # QEMU has no virtual addresses to write: 0, or the physical one once more (riscv64).
    if elf.type != ET_CORE or not any(one.address in (0, one.physical) for one in loads):
        return []
    if any(note.name == _NAME.rstrip(b"\0") for note in elf.notes()):
        return []
    if elf.machine == _EM_S390:
        found = _at(file, elf, loads, _lowcore(file, elf, loads))
        if found:
            return [found]
    notes = (_at(file, elf, loads, place) for place in _places(file, loads))
    return list(dict.fromkeys(note for note in notes if note))


def _lowcore(file: BinaryIO, elf: ElfFile, loads: List[Segment]) -> int:
    data = _read(file, loads, _S390_LOWCORE, 8)
    return struct.unpack(elf.order + "Q", data)[0] if len(data) == 8 else -1


def _at(file: BinaryIO, elf: ElfFile, loads: List[Segment], address: int) -> Optional[OwnNote]:
    # The note at a physical address, if there is one.
    header = _read(file, loads, address, _HEADER_BYTES + len(_START))
    if len(header) < _HEADER_BYTES or header[_HEADER_BYTES:] != _START:
        return None
    for order in "<>" if elf.machine == EM_PPC64 else elf.order:
        name_size, size = struct.unpack_from(order + "II", header)
        if name_size == len(_NAME) - 1 and size <= _MOST_BYTES:
            data = _read(file, loads, address + _HEADER_BYTES + len(_NAME), size)
            return OwnNote(data, order) if data else None
    return None


def _places(file: BinaryIO, loads: List[Segment]) -> Iterator[int]:
    # Physical addresses of pages that begin like the note.
    for at, place, size in _blocks(loads):
        file.seek(place)
        data = file.read(size)
        found = data.find(_START)
        while found >= 0:
            address = at + found - _HEADER_BYTES
            if address % _PAGE == 0:
                yield address
            found = data.find(_START, found + 1)


def _blocks(loads: List[Segment]) -> Iterator[Tuple[int, int, int]]:
    # Physical address, offset in the file and size of pieces that hold whole pages.
    for one in loads:
        for start in range(0, one.file_size, _BLOCK):
            yield one.physical + start, one.offset + start, min(_BLOCK, one.file_size - start)


def _read(file: BinaryIO, loads: List[Segment], address: int, size: int) -> bytes:
    for one in loads:
        start = address - one.physical
        if start >= 0 and start + size <= one.file_size:
            file.seek(one.offset + start)
            return file.read(size)
    return b""
