# SPDX-License-Identifier: LGPL-2.1-or-later
"""
ELF cores, as far as a capture is one
-------------------------------------

Headers and notes only; no memory passes through here. The notes follow the
ELF header and the first of them is ours, so that the first bytes of a file tell
whether it is a capture.
"""

from __future__ import annotations

import struct
from typing import List, NamedTuple, Optional, Tuple

from drgn import Architecture, Platform, PlatformFlags

from ..errors import UnsupportedError

NOTE_NAME = b"slabtype"
NOTE_TYPE = 1
"""Version of the payload in the note."""
NO_PHYSICAL_ADDRESS = -1
"""``p_paddr`` of memory that is mapped outside the direct map, as in /proc/kcore."""

START_BYTES = 128
"""How much of a file tells whether it is a capture."""

_ET_CORE, _PT_LOAD, _PT_NOTE, _PN_XNUM = 4, 1, 4, 0xFFFF

# Numbers that ELF gives the architectures drgn knows.
_MACHINES = {
    Architecture.I386: 3,
    Architecture.X86_64: 62,
    Architecture.ARM: 40,
    Architecture.AARCH64: 183,
    Architecture.PPC64: 21,
    Architecture.S390: 22,
    Architecture.S390X: 22,
    Architecture.RISCV32: 243,
    Architecture.RISCV64: 243,
}


class Segment(NamedTuple):
    """Consecutive memory in the file; what is beyond ``file_size`` is zero."""

    address: int
    physical: int
    """Physical address or :data:`NO_PHYSICAL_ADDRESS`."""
    offset: int
    """Where its bytes begin, counted from the first byte of all segments."""
    file_size: int
    memory_size: int


class Note(NamedTuple):
    """One ELF note."""

    name: bytes
    type: int
    desc: bytes


class ElfFormat:
    """
    Layout of ELF headers for one platform.

    :param bits: 32 or 64.
    :param byteorder: ``<`` or ``>``.
    """

    def __init__(self, bits: int, byteorder: str) -> None:
        self.bits = bits
        self.byteorder = byteorder
        word = "Q" if bits == 64 else "I"
        self.header = struct.Struct(f"{byteorder}16sHHI{word * 3}IHHHHHH")
        # ELF64 moves p_flags forward.
        shape = "IIQQQQQQ" if bits == 64 else "IIIIIIII"
        self.program_header = struct.Struct(byteorder + shape)
        self.section_header = struct.Struct(f"{byteorder}II{word * 4}II{word * 2}")
        self.note_header = struct.Struct(f"{byteorder}III")

    def _program_header(
        self, type: int, offset: int, address: int, physical: int, filesz: int, memsz: int
    ) -> bytes:
        flags, mask = 4, (1 << self.bits) - 1
        values = [offset, address & mask, physical & mask, filesz, memsz]
        if self.bits == 64:
            return self.program_header.pack(type, flags, *values, 1)
        return self.program_header.pack(type, *values, flags, 1)

    def notes(self, notes: List[Note]) -> bytes:
        """Return a note segment."""
        parts = []
        for note in notes:
            name = note.name + b"\0"
            parts.append(self.note_header.pack(len(name), len(note.desc), note.type))
            parts += [_padded(name), _padded(note.desc)]
        return b"".join(parts)

    def head(self, machine: int, notes: List[Note], segments: List[Segment]) -> bytes:
        """
        Return everything that comes before the bytes of the segments.

        More segments than the header can count are counted in a section header.
        """
        count = len(segments) + 1
        sections = int(count >= _PN_XNUM)
        note = self.notes(notes)
        table = self.header.size + len(note)
        section = table + count * self.program_header.size
        base = section + sections * self.section_header.size
        ident = b"\x7fELF" + bytes([self.bits // 32, 1 if self.byteorder == "<" else 2, 1])
        header = self.header.pack(
            ident.ljust(16, b"\0"),
            _ET_CORE,
            machine,
            1,
            0,
            table,
            section if sections else 0,
            0,
            self.header.size,
            self.program_header.size,
            _PN_XNUM if sections else count,
            self.section_header.size if sections else 0,
            sections,
            0,
        )
        parts = [header, note]
        parts.append(self._program_header(_PT_NOTE, self.header.size, 0, 0, len(note), 0))
        for address, physical, offset, file_size, memory_size in segments:
            parts.append(
                self._program_header(
                    _PT_LOAD, base + offset, address, physical, file_size, memory_size
                )
            )
        if sections:
            parts.append(self.section_header.pack(0, 0, 0, 0, 0, sections, 0, count, 0, 0))
        return b"".join(parts)


def elf_format(platform: Platform) -> ElfFormat:
    """Return the :class:`ElfFormat` of a platform."""
    bits = 64 if platform.flags & PlatformFlags.IS_64_BIT else 32
    return ElfFormat(bits, "<" if platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">")


def elf_machine(platform: Platform) -> int:
    """
    Return the ELF machine number of a platform.

    :raises UnsupportedError: if it has none.
    """
    try:
        return _MACHINES[platform.arch]
    except KeyError:
        raise UnsupportedError(f"cannot capture the architecture {platform.arch.name}") from None


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def payload_size(start: bytes) -> Optional[Tuple[int, int]]:
    """
    Return where the payload of a capture's own note begins, and its size.

    :param start: First :data:`START_BYTES` bytes of an uncompressed file.
    :return: ``None`` if the file is not a capture.
    """
    if start[:4] != b"\x7fELF" or len(start) < START_BYTES:
        return None
    if start[4] not in (1, 2) or start[5] not in (1, 2):
        return None
    format = ElfFormat(32 * start[4], "<" if start[5] == 1 else ">")
    name = _padded(NOTE_NAME + b"\0")
    at = format.header.size
    _, desc_size, type = format.note_header.unpack_from(start, at)
    at += format.note_header.size
    if start[at : at + len(name)] != name or type != NOTE_TYPE:
        return None
    return at + len(name), desc_size
