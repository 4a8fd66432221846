# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF and kdump files of the same memory, and what can be taken out of them."""

from __future__ import annotations

import bisect
import os
import struct
import zlib
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

from drgn_slabtype.files.elf import PT_LOAD, ElfFile
from drgn_slabtype.files.kdump import KdumpFile

PAGE = 4096
_DESCRIPTOR = struct.Struct("<qIIQ")
_BLOCK = 1 << 20


class Dump(ABC):
    """
    A whole dump that can be written once more with something amiss.

    :param path: Of the file.
    """

    name = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size

    @abstractmethod
    def pages(self) -> List[int]:
        """Return the page frames that are in it."""

    @abstractmethod
    def offset(self, pfn: int) -> int:
        """Return where the bytes of a page begin, or what leads to them."""

    @abstractmethod
    def without(self, target: Path, pages: Sequence[int]) -> None:
        """Write it without some pages."""

    @abstractmethod
    def zeroed(self, target: Path, pages: Sequence[int]) -> None:
        """Write it with zeroes in some pages."""

    def cut(self, target: Path, size: int) -> None:
        """Write its first bytes."""
        copy(self.path, target, size)


def copy(source: Path, target: Path, size: int) -> None:
    """Copy the first bytes of a file, holes as holes."""
    with source.open("rb") as file, target.open("wb") as made:
        made.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:  # no data behind
                break
            end = min(os.lseek(file.fileno(), at, os.SEEK_HOLE), size)
            while at < end:
                data = os.pread(file.fileno(), min(_BLOCK, end - at), at)
                os.pwrite(made.fileno(), data, at)
                at += len(data)


class ElfDump(Dump):
    """
    An ELF core.

    :param by: Which address tells pages apart: ``physical``, or ``address`` for a
        capture, in which what is mapped elsewhere has no other.
    """

    name = "elf"

    def __init__(self, path: Path, by: str = "physical") -> None:
        super().__init__(path)
        with path.open("rb") as file:
            elf = ElfFile(file)
            segments = [s for s in elf.segments if s.type == PT_LOAD]
        self._header = struct.Struct(f"{elf.order}16sHHIQQQIHHHHHH")
        self._program_header = struct.Struct(f"{elf.order}IIQQQQQQ")
        self._places: Dict[int, int] = {}
        for segment in segments:
            start = getattr(segment, by)
            for at in range(-start % PAGE, segment.file_size - PAGE + 1, PAGE):
                self._places[(start + at) // PAGE] = segment.offset + at
        self._by = by

    def pages(self) -> List[int]:
        return sorted(self._places)

    def offset(self, pfn: int) -> int:
        return self._places[pfn]

    def without(self, target: Path, pages: Sequence[int]) -> None:
        # A header for what lies between the holes, behind everything.
        copy(self.path, target, self.size)
        gone = sorted(set(pages))
        with target.open("r+b") as file:
            header = list(self._header.unpack(file.read(self._header.size)))
            file.seek(header[5])
            made: List[Tuple[int, ...]] = []
            for _ in range(header[10]):
                one = self._program_header.unpack(file.read(self._program_header.size))
                made += _around(one, gone, self._by) if one[0] == PT_LOAD else [one]
            header[5], header[10] = -(-self.size // 8) * 8, len(made)
            file.seek(header[5])
            file.write(b"".join(self._program_header.pack(*one) for one in made))
            file.seek(0)
            file.write(self._header.pack(*header))

    def zeroed(self, target: Path, pages: Sequence[int]) -> None:
        copy(self.path, target, self.size)
        with target.open("r+b") as file:
            for pfn in pages:
                file.seek(self.offset(pfn))
                file.write(bytes(PAGE))


def _around(header: Tuple[int, ...], gone: Sequence[int], by: str) -> List[Tuple[int, ...]]:
    # What is left of one program header.
    kind, flags, offset, address, physical, file_size, size, align = header
    first = physical if by == "physical" else address
    begin, end = bisect.bisect(gone, first // PAGE - 1), bisect.bisect(gone, (first + size) // PAGE)
    start = 0
    found: List[Tuple[int, ...]] = []
    for pfn in [*gone[begin:end], 1 << 60]:
        stop = min(pfn * PAGE - first, size)
        if stop > start:
            at = physical + start if physical < 1 << 63 else physical
            where = address + start if address or by == "address" else 0
            bytes_there = max(0, min(stop, file_size) - start)
            found.append((kind, flags, offset + start, where, at, bytes_there, stop - start, align))
        start = max(start, (pfn + 1) * PAGE - first)
    return found


class KdumpDump(Dump):
    """A kdump file."""

    name = "kdump"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            kdump = KdumpFile(file)
            self._descriptors_at = kdump.descriptors_at
            self._bitmap_at = 0
            self._pages: List[int] = []
            for run in kdump.runs():
                self._bitmap_at = self._bitmap_at or run.bitmap_at
                first = 8 * (run.bitmap_at - self._bitmap_at)
                self._pages += (run.dumped.nonzero()[0] + first).tolist()
        self._numbers: Dict[int, int] = {pfn: n for n, pfn in enumerate(self._pages)}

    def pages(self) -> List[int]:
        return self._pages

    def offset(self, pfn: int) -> int:
        with self.path.open("rb") as file:
            file.seek(self._descriptors_at + self._numbers[pfn] * _DESCRIPTOR.size)
            return int(_DESCRIPTOR.unpack(file.read(_DESCRIPTOR.size))[0])

    def without(self, target: Path, pages: Sequence[int]) -> None:
        # As a dumper that leaves them out: neither bit nor descriptor.
        gone = set(pages)
        copy(self.path, target, self.size)
        with target.open("r+b") as file:
            file.seek(self._descriptors_at)
            table = file.read(len(self._pages) * _DESCRIPTOR.size)
            kept = [pfn for pfn in self._pages if pfn not in gone]
            file.seek(self._descriptors_at)
            for pfn in kept:
                at = self._numbers[pfn] * _DESCRIPTOR.size
                file.write(table[at : at + _DESCRIPTOR.size])
            for pfn in gone:
                file.seek(self._bitmap_at + pfn // 8)
                (byte,) = file.read(1)
                file.seek(self._bitmap_at + pfn // 8)
                file.write(bytes([byte & ~(1 << pfn % 8)]))

    def zeroed(self, target: Path, pages: Sequence[int]) -> None:
        copy(self.path, target, self.size)
        packed = zlib.compress(bytes(PAGE))
        with target.open("r+b") as file:
            place = file.seek(0, os.SEEK_END)
            file.write(packed)
            for pfn in pages:
                file.seek(self._descriptors_at + self._numbers[pfn] * _DESCRIPTOR.size)
                file.write(_DESCRIPTOR.pack(place, len(packed), 1, 0))


def to_kdump(source: Path, target: Path) -> None:
    """
    Write the memory of an ELF core as a kdump file (version 6), pages compressed with zlib.

    Of memory at and above 4 GiB nothing is written, and none of the firmware below it.
    """
    dump = ElfDump(source)
    pages = [pfn for pfn in dump.pages() if pfn < (1 << 20) - 64]
    with source.open("rb") as file:
        notes = [note for note in ElfFile(file).notes() if note.name == b"VMCOREINFO"]
        (info,) = [note.data for note in notes]
        top = pages[-1] + 1
        release = next(line[10:] for line in info.splitlines() if line.startswith(b"OSRELEASE="))
        names = (b"Linux", b"(none)", release, b"#1 SMP", b"x86_64", b"(none)")
        note_at = 2 * PAGE
        note = struct.pack("<III", 11, len(info), 0) + b"VMCOREINFO\0\0"
        sub = -(-(PAGE + len(note) + len(info)) // PAGE)
        half = -(-top // (8 * PAGE))
        header = struct.pack("<8si", b"KDUMP   ", 6)
        header += b"".join(name[:64].ljust(65, b"\0") for name in names)
        header = header.ljust(424, b"\0")
        header += struct.pack("<Iiiii", 1, PAGE, sub, 2 * half, top & 0x7FFFFFFF)
        second = struct.pack("<QiiQQ", 0, 0, 0, 0, 0)
        second += struct.pack("<QQ", note_at + len(note), len(info))
        second += struct.pack("<QQQQ", note_at, len(note) + len(info), 0, 0)
        second += struct.pack("<QQQ", 0, 0, top)
        bits = bytearray(half * PAGE)
        for pfn in pages:
            bits[pfn // 8] |= 1 << pfn % 8
        with target.open("wb") as made:
            made.write(header.ljust(PAGE, b"\0") + second.ljust(PAGE, b"\0"))
            made.write((note + info).ljust((sub - 1) * PAGE, b"\0") + bits + bits)
            table_at = made.tell()
            place = table_at + len(pages) * _DESCRIPTOR.size
            empty = zlib.compress(bytes(PAGE))
            table: List[bytes] = []
            known: Dict[int, int] = {}
            made.seek(place)
            for pfn in pages:
                file.seek(dump.offset(pfn))
                data = file.read(PAGE)
                is_empty = data.count(0) == PAGE
                packed = empty if is_empty else zlib.compress(data, 1)
                how = 1
                if len(packed) >= PAGE:  # as it is
                    packed, how = data, 0
                if not is_empty or not known:
                    at = made.tell()
                    made.write(packed)
                    if is_empty:
                        known[0] = at
                table.append(_DESCRIPTOR.pack(known[0] if is_empty else at, len(packed), how, 0))
            made.seek(table_at)
            made.write(b"".join(table))
