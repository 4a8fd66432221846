# SPDX-License-Identifier: LGPL-2.1-or-later
"""Captures with other bytes at some addresses, as files."""

from __future__ import annotations

import io
import lzma
import os
from pathlib import Path
from typing import Iterator, Sequence

from drgn_slabtype.files.elf import PT_LOAD, ElfFile, Segment

from ..recipes.overlay import Write

_NOWHERE = (1 << 64) - 1
_FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 0, "lc": 0, "lp": 3, "pb": 3}]


class Original:
    """
    A capture that others are made from.

    :param path: Of a compressed one.
    """

    def __init__(self, path: Path) -> None:
        self.data = lzma.decompress(path.read_bytes())
        segments = ElfFile(io.BytesIO(self.data)).segments
        self._segments = [segment for segment in segments if segment.type == PT_LOAD]

    def write(self, path: Path, writes: Sequence[Write], compressed: bool = True) -> None:
        """
        Write a capture with other bytes.

        :raises ValueError: if it has no bytes there.
        """
        data = bytearray(self.data)
        for write in writes:
            places = list(self._places(write))
            if not places:
                raise ValueError(f"the capture has nothing at 0x{write.address:x}")
            for at in places:
                data[at : at + len(write.data)] = write.data
        if compressed:
            path.write_bytes(lzma.compress(data, check=lzma.CHECK_CRC32, filters=_FILTERS))
        else:
            with open(path, "wb") as file:
                for at in range(0, len(data), 4096):
                    if data.count(0, at, at + 4096) < min(4096, len(data) - at):
                        os.pwrite(file.fileno(), data[at : at + 4096], at)
                file.truncate(len(data))

    def _places(self, write: Write) -> Iterator[int]:
        # Where the memory is in the file: the same page may be mapped more than once.
        for segment in self._segments:
            offset = write.address - segment.address
            if _holds(segment, offset, write):
                yield segment.offset + offset
                physical = segment.physical + offset
                for other in self._segments:
                    there = physical - other.physical
                    known = _NOWHERE not in (segment.physical, other.physical)
                    if known and other is not segment and _holds(other, there, write):
                        yield other.offset + there


def _holds(segment: Segment, offset: int, write: Write) -> bool:
    return 0 <= offset <= segment.file_size - len(write.data)
