# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Bytes that a file has
---------------------

Formats say where their parts lie; a file that was cut, or a stream that ended
early, has some of them. What is read here never goes past what is there.
"""

from __future__ import annotations

import os
import struct
from typing import BinaryIO, List, Tuple

import numpy as np
import numpy.typing as npt

U8 = npt.NDArray[np.uint8]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FLATTENED = b"makedumpfile\0\0\0\0"
"""What a flattened file begins with."""

_STREAM_AT = 4096  # bytes before the first piece
_PIECE = struct.Struct(">qq")  # where the piece belongs, and its size
_COPY_BYTES = 1 << 20


class Extents:
    """
    Parts of a file by where they belong, each with the place where its bytes are.

    A plain file is one part. Of parts that overlap, the later one counts.

    :param file: Open for reading, seekable.
    :param parts: (where it belongs, its size, where its bytes are), in the order of writing.
    :param ended: Whether nothing is missing at the end, as far as the format says that.
    """

    def __init__(self, file: BinaryIO, parts: List[Tuple[int, int, int]], ended: bool) -> None:
        self.file = file
        self.ended = ended
        self.parts = parts
        self.size = max((at + size for at, size, _ in parts), default=0)
        """Bytes up to the end of the last part."""
        self._starts, self._ends = _merged(parts)

    def holds(self, offsets: I64, sizes: I64) -> Bools:
        """Return which ranges are there from their first byte to their last."""
        if not len(self._starts):
            return np.zeros(len(offsets), np.bool_)
        which = np.searchsorted(self._starts, offsets, "right") - 1
        # An offset of the file's own can be anything: no sums that overflow.
        inside = (which >= 0) & (offsets <= self._ends[which])
        return inside & (sizes >= 0) & (sizes <= self._ends[which] - np.where(inside, offsets, 0))

    def read(self, offset: int, size: int) -> bytes:
        """Return the bytes of a range, zeros where no part is, and none after the last part."""
        found = bytearray(max(0, min(size, self.size - offset)))
        for at, length, place in self.parts:
            low, high = max(at, offset), min(at + length, offset + len(found))
            if low < high:
                self.file.seek(place + low - at)
                data = self.file.read(high - low)
                found[low - offset : low - offset + len(data)] = data
        return bytes(found)

    def copy(self, target: BinaryIO) -> None:
        """
        Write every part where it belongs, without what lies between them.

        :raises OSError: if there is no room.
        """
        for at, size, place in self.parts:
            target.seek(at)
            self.file.seek(place)
            while size > 0:
                data = self.file.read(min(size, _COPY_BYTES))
                if not data:
                    break
                target.write(data)
                size -= len(data)
        target.truncate(self.size)


def open_extents(file: BinaryIO) -> Extents:
    """
    Return the parts of a file, plain or in makedumpfile's flattened format.

    A flattened file is a stream of pieces, written where seeking was not
    possible; its end is marked.
    """
    length = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(len(FLATTENED)) != FLATTENED:
        return Extents(file, [(0, length, 0)], True)
    parts: List[Tuple[int, int, int]] = []
    place = _STREAM_AT
    while place + _PIECE.size <= length:
        file.seek(place)
        at, size = _PIECE.unpack(file.read(_PIECE.size))
        if at < 0 or size <= 0 or at + size > 1 << 62:
            # -1 and -1 end the stream; anything else is no piece.
            return Extents(file, parts, (at, size) == (-1, -1))
        place += _PIECE.size
        parts.append((at, min(size, length - place), place))
        place += size
    return Extents(file, parts, False)


def _merged(parts: List[Tuple[int, int, int]]) -> Tuple[I64, I64]:
    starts: List[int] = []
    ends: List[int] = []
    for at, size, _ in sorted(parts):
        if size <= 0:
            continue
        if starts and at <= ends[-1]:
            ends[-1] = max(ends[-1], at + size)
        else:
            starts.append(at)
            ends.append(at + size)
    return np.array(starts, np.int64), np.array(ends, np.int64)
