# SPDX-License-Identifier: LGPL-2.1-or-later

"""Read an ELF core of QEMU by physical address, and give it the note that QEMU had not."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from types import TracebackType
from typing import Iterator, List, NamedTuple, Optional, Type

from .errors import LabError

__all__ = ("HEADER", "PROGRAM_HEADER", "PT_LOAD", "PT_NOTE", "Core", "Note", "Segment", "add_note")

HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
"""The header of a 64-bit little-endian ELF file."""
PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
"""A program header of one."""
PT_LOAD = 1
"""Type of a program header of memory."""
PT_NOTE = 4
"""Type of a program header of notes."""

_NOTE = struct.Struct("<III")


def _ordered(shape: struct.Struct, order: str) -> struct.Struct:
    return struct.Struct(order + shape.format[1:])


class Segment(NamedTuple):
    """A piece of physical memory in the file."""

    address: int
    """Physical address of its first byte."""
    size: int
    """Bytes of it in the file."""
    offset: int
    """Where it begins in the file."""


class Note(NamedTuple):
    """A note of the core."""

    name: str
    """Who wrote it, as ``CORE``, ``QEMU`` or ``VMCOREINFO``."""
    kind: int
    """Its type."""
    data: bytes
    """Its contents."""

    def pack(self) -> bytes:
        """Return it as it stands in a core."""
        name = self.name.encode() + b"\0"
        packed = _NOTE.pack(len(name), len(self.data), self.kind)
        return packed + _padded(name) + _padded(self.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


class Core:
    """An open ELF core."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("rb")
        self.segments: List[Segment] = []
        """Memory in the core."""
        self._notes: List[Segment] = []
        start = self._stream.read(HEADER.size)
        if start[:5] != b"\x7fELF\x02" or len(start) < HEADER.size:
            raise LabError(f"{path} is no 64-bit ELF file")
        self.order = "<" if start[5] == 1 else ">"
        """Byte order of the machine, as :mod:`struct` spells it."""
        self._note = _ordered(_NOTE, self.order)
        header = _ordered(HEADER, self.order).unpack(start)
        offset, count = header[5], header[10]
        if count == 0xFFFF:
            raise LabError(f"{path} has too many program headers")
        self._stream.seek(offset)
        table = self._stream.read(count * PROGRAM_HEADER.size)
        rows = _ordered(PROGRAM_HEADER, self.order).iter_unpack(table)
        for kind, _, place, _, physical, size, _, _ in rows:
            if kind == PT_LOAD and size:
                self.segments.append(Segment(physical, size, place))
            elif kind == PT_NOTE:
                self._notes.append(Segment(0, size, place))

    def __enter__(self) -> Core:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self._stream.close()

    def read(self, address: int, size: int) -> bytes:
        """
        Read physical memory within one segment.

        :raises LabError: if it is not in the core.
        """
        for segment in self.segments:
            start = address - segment.address
            if start >= 0 and start + size <= segment.size:
                self._stream.seek(segment.offset + start)
                return self._stream.read(size)
        raise LabError(f"physical address {address:#x} is not in the dump")

    def find(self, data: bytes) -> Optional[int]:
        """Return the physical address at which some bytes are first found."""
        with mmap.mmap(self._stream.fileno(), 0, access=mmap.ACCESS_READ) as file:
            for segment in self.segments:
                at = file.find(data, segment.offset, segment.offset + segment.size)
                if at >= 0:
                    return segment.address + at - segment.offset
        return None

    def vmcoreinfo(self) -> bytes:
        """
        Return the kernel's VMCOREINFO from its own memory.

        :raises LabError: if it is not there.
        """
        # The kernel keeps it as a note, ready for kexec.
        name = b"VMCOREINFO\0\0"
        at = self.find(name + b"OSRELEASE=")
        if at is None:
            raise LabError("the kernel's VMCOREINFO is not in its memory")
        _, size, _ = self._note.unpack(self.read(at - _NOTE.size, _NOTE.size))
        return self.read(at + len(name), size)

    def notes(self) -> Iterator[Note]:
        """Yield the notes, in order."""
        for segment in self._notes:
            self._stream.seek(segment.offset)
            data = self._stream.read(segment.size)
            position = 0
            while position + _NOTE.size <= len(data):
                name_size, size, kind = self._note.unpack_from(data, position)
                position += _NOTE.size
                name = (
                    data[position : position + name_size].rstrip(b"\0").decode("ascii", "replace")
                )
                position += (name_size + 3) // 4 * 4
                yield Note(name, kind, data[position : position + size])
                position += (size + 3) // 4 * 4


def add_note(path: Path, note: Note) -> None:
    """Add a note to an ELF core: all of them are written once more, behind everything."""
    with path.open("r+b") as stream:
        header = HEADER.unpack(stream.read(HEADER.size))
        for number in range(header[10]):
            place = header[5] + number * PROGRAM_HEADER.size
            stream.seek(place)
            fields = list(PROGRAM_HEADER.unpack(stream.read(PROGRAM_HEADER.size)))
            if fields[0] == PT_NOTE:
                break
        else:
            raise LabError(f"{path} has no notes")
        stream.seek(fields[2])
        notes = stream.read(fields[5]) + note.pack()
        fields[2], fields[5] = stream.seek(0, 2), len(notes)
        stream.write(notes)
        stream.seek(place)
        stream.write(PROGRAM_HEADER.pack(*fields))
