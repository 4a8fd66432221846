# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the headers of an ELF file say
-----------------------------------

Enough to tell what kind of file someone gave, which build it belongs to and
whether its end is missing, before drgn is asked to open it. Nothing in the file
is trusted: what does not fit is left out, never followed.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, Iterator, List, NamedTuple, Optional, Tuple

ET_REL = 1
ET_CORE = 4
PT_LOAD = 1
_PT_NOTE, _SHT_NOTE, _PN_XNUM = 4, 7, 0xFFFF
_NT_GNU_BUILD_ID = 3

# Notes are a few KiB; VMCOREINFO and NT_FILE of large machines a few hundred.
_MAX_NOTES_BYTES = 64 << 20
_MAX_OFFSET = 1 << 63  # of a file, for the system


class Segment(NamedTuple):
    """One program header."""

    type: int
    offset: int
    file_size: int
    address: int
    """Virtual address of the first byte."""
    physical: int
    """Physical address of the first byte."""
    memory_size: int


class Note(NamedTuple):
    """One entry of a note segment or section."""

    name: bytes
    type: int
    data: bytes


class Missing(NamedTuple):
    """How much of a file's memory lies behind its end."""

    bytes: int
    """Bytes that the program headers promise and the file does not have."""
    of: int
    """Bytes that the program headers promise."""

    def __str__(self) -> str:
        return f"truncated: {self.bytes} of {self.of} bytes of memory are not in the file"


class ElfFile:
    """
    Headers and notes of an ELF file of any class and byte order.

    :param file: Open for reading, seekable.
    :raises ValueError: if it is not ELF.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, os.SEEK_END)
        """Bytes of the file."""
        ident = self._read(0, 16)
        if ident[:4] != b"\x7fELF" or len(ident) < 16:
            raise ValueError("not an ELF file")
        if ident[4] not in (1, 2) or ident[5] not in (1, 2):
            raise ValueError("not an ELF file of a known class and byte order")
        self.order = "<" if ident[5] == 1 else ">"
        """Byte order, as :mod:`struct` spells it."""
        self._is_64_bit = ident[4] == 2
        header = self._unpack("HHIQQQIHHHHHH" if self._is_64_bit else "HHIIIIIHHHHHH", 16)
        if not header:
            raise ValueError("ELF header is cut off")
        self.type = header[0]
        """``ET_CORE``, ``ET_REL``, …"""
        self.machine = header[1]
        """``EM_X86_64``, ``EM_S390``, …"""
        self._sections_at, self._section_count = header[5], header[11]
        self._section_size = header[10]
        self.segments = self._segments(header[4], header[9])
        """Program headers, as far as the file has them."""
        notes = [s.offset + s.file_size for s in self.segments if s.type == _PT_NOTE]
        self.notes_are_whole = bool(notes) and max(notes) <= self.size
        """Whether the file has notes and goes on to their end."""

    def _read(self, offset: int, size: int) -> bytes:
        if not 0 <= offset <= self.size or size < 0:
            return b""
        self._file.seek(offset)
        return self._file.read(size)

    def _unpack(self, shape: str, offset: int) -> Tuple[int, ...]:
        fields = struct.Struct(self.order + shape)
        data = self._read(offset, fields.size)
        return fields.unpack(data) if len(data) == fields.size else ()

    def _section(self, number: int) -> Tuple[int, ...]:
        shape = "IIQQQQIIQQ" if self._is_64_bit else "IIIIIIIIII"
        return self._unpack(shape, self._sections_at + number * self._section_size)

    def _segments(self, at: int, count: int) -> List[Segment]:
        if count == _PN_XNUM and self._sections_at:
            # More segments than fit in the header; the first section counts them.
            first = self._section(0)
            count = first[7] if first else 0
        # What the header says of their size, drgn does not look at either.
        shape = struct.Struct(self.order + ("IIQQQQQQ" if self._is_64_bit else "IIIIIIII"))
        table = self._read(at, min(shape.size * count, _MAX_NOTES_BYTES))
        found = []
        for start in range(0, len(table) - shape.size + 1, shape.size):
            fields = shape.unpack_from(table, start)
            offset, address, physical, file_size, memory_size = (
                fields[2:7] if self._is_64_bit else fields[1:6]
            )
            found.append(Segment(fields[0], offset, file_size, address, physical, memory_size))
        return found

    def notes(self) -> Iterator[Note]:
        """
        Return the notes of all note segments and sections.

        Files that hold only debug info may have no bytes in their segments,
        which is why sections are looked at as well.
        """
        # The same place may be named any number of times; it is read once, and
        # no more of all places than one may have.
        room = _MAX_NOTES_BYTES
        for offset, size in dict.fromkeys(self._note_places()):
            data = self._read(offset, min(size, room))
            room -= len(data)
            yield from self._notes(data)

    def _note_places(self) -> Iterator[Tuple[int, int]]:
        for segment in self.segments:
            if segment.type == _PT_NOTE:
                yield segment.offset, segment.file_size
        if self._sections_at and self._section_size:
            for number in range(self._section_count):
                section = self._section(number)
                if not section:
                    return
                if section[1] == _SHT_NOTE:
                    yield section[4], section[5]

    def _notes(self, data: bytes) -> Iterator[Note]:
        header = struct.Struct(self.order + "III")
        at = 0
        while at + header.size <= len(data):
            name_size, data_size, type = header.unpack_from(data, at)
            name_at = at + header.size
            data_at = name_at + (name_size + 3 & ~3)
            at = data_at + (data_size + 3 & ~3)
            if data_at + data_size > len(data):
                return
            name = data[name_at : name_at + name_size].rstrip(b"\0")
            yield Note(name, type, data[data_at : data_at + data_size])

    def build_id(self) -> Optional[bytes]:
        """Return the GNU build ID; ``None`` if the file has none."""
        for note in self.notes():
            if note.name == b"GNU" and note.type == _NT_GNU_BUILD_ID and note.data:
                return note.data
        return None

    def missing(self) -> Missing:
        """Return how much of the loadable segments lies behind the end of the file."""
        loads = [s for s in self.segments if s.type == PT_LOAD]
        lost = sum(min(s.file_size, max(0, s.offset + s.file_size - self.size)) for s in loads)
        return Missing(lost, sum(s.file_size for s in loads))

    def left_out(self) -> List[Segment]:
        """
        Return the memory that the dumper left out of a core, as segments without bytes.

        makedumpfile -E excludes pages by giving a segment more memory than
        bytes, which reads as zeroes.
        """
        return [
            Segment(
                s.type,
                s.offset + s.file_size,
                0,
                s.address + s.file_size,
                s.physical + s.file_size,
                s.memory_size - s.file_size,
            )
            for s in self.segments
            if s.type == PT_LOAD and s.memory_size > s.file_size
        ]

    def impossible(self) -> List[Segment]:
        """Return the memory that is said to lie where no file can have it."""
        loads = [s for s in self.segments if s.type == PT_LOAD]
        return [s for s in loads if s.offset + s.file_size >= _MAX_OFFSET]
