# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Packed captures
---------------

A capture is packed piece by piece, each into an xz stream of its own, which several
processes do at a time; so do they unpack it. ``xz`` and :func:`lzma.open` take the
streams as one file. This module is imported into every drgn program through the
plugin and therefore imports nothing heavy.
"""

from __future__ import annotations

import lzma
import os
import zlib
from typing import BinaryIO, Callable, Iterator, List, NamedTuple, Optional, Tuple

from ..workers import spread, worth_while

MAGIC = b"\xfd7zXZ\0"
"""What a packed capture begins with."""

_PIECE_BYTES = 16 << 20
_MANY_BYTES = 64 << 20  # of which unpacking takes longer than processes do to begin
_STEP_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16
_ZEROS = bytes(_BLOCK_BYTES)
# Structs of aligned 64-bit words repeat for long: modelling positions in a word
# gains more than searching harder, which takes twenty times as long. Zeros in between
# are found in the fewest steps where a repeat may be as long as can be.
_FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 1,
        "mf": lzma.MF_HC3,
        "nice_len": 273,
        "lc": 0,
        "lp": 3,
        "pb": 3,
    }
]
# The format of xz: https://tukaani.org/xz/xz-file-format.txt
_HEADER_SIZE = 12
_FOOTER_SIZE = 12
_FOOTER_MAGIC = b"YZ"
_CRC_SIZE = 4
_MOST_INDEX = 1 << 20  # bytes; a stream of ours has one of a dozen
_MOST_DIGITS = 9  # of seven bits, in a number


def packed(
    read: Callable[[int, int], bytes], size: int, jobs: Optional[int]
) -> Iterator[Tuple[bytes, int]]:
    """
    Yield what is read piece by piece: packed, and up to which byte that is.

    :param read: Returns some bytes: takes where they begin, and how many to return at most.
    :param size: How many there are.
    :param jobs: How many processes pack; ``None``: one a processor, if that is worth while.
    """

    def pack(start: int) -> bytes:
        archive = lzma.LZMACompressor(filters=_FILTERS)
        out, at, end = [], start, min(start + _PIECE_BYTES, size)
        while at < end:
            block = read(at, min(_STEP_BYTES, end - at))
            out.append(archive.compress(block))
            at += len(block)
        return b"".join([*out, archive.flush()])

    starts = range(0, size, _PIECE_BYTES)
    jobs = worth_while(jobs, False, size >= _MANY_BYTES)
    for start, piece in zip(starts, spread(pack, starts, jobs)):
        yield piece, min(start + _PIECE_BYTES, size)


def unpack(file: BinaryIO) -> int:
    """
    Unpack a file into memory and return its descriptor. Pages of zeros take no memory.

    Of a file cut short, what there is.

    :raises lzma.LZMAError: if it is damaged.
    """
    memory = os.memfd_create("slabtype-capture", os.MFD_CLOEXEC)
    try:
        streams = _streams(file)
        if streams:
            # Each begins with what this process has open, and reads by position.
            fd, end = file.fileno(), streams[-1].end
            jobs = worth_while(None, False, end >= _MANY_BYTES)
            for _ in spread(lambda stream: _unpack_stream(fd, stream, memory), streams, jobs):
                pass
        else:
            end = 0
            for block in unpacked(file):
                _put(memory, block, end)
                end += len(block)
        os.ftruncate(memory, end)
    except BaseException:
        os.close(memory)
        raise
    return memory


def unpacked(file: BinaryIO) -> Iterator[bytes]:
    """Yield what a packed file holds, in blocks, from its first byte on."""
    archive, data = lzma.LZMADecompressor(), b""
    while True:
        if archive.eof:
            # Between streams there may be zeros.
            data = archive.unused_data.lstrip(b"\0")
            while len(data) < len(MAGIC) and (more := file.read(_BLOCK_BYTES)):
                data = (data + more).lstrip(b"\0")
            if not data.startswith(MAGIC):
                break
            archive = lzma.LZMADecompressor()
        elif archive.needs_input:
            data = file.read(_BLOCK_BYTES)
            if not data:
                break
        yield archive.decompress(data, _BLOCK_BYTES)
        data = b""


class _Stream(NamedTuple):
    # One of several in a file.
    at: int
    size: int
    start: int
    """Where what it holds begins."""
    end: int


def _unpack_stream(fd: int, stream: _Stream, memory: int) -> None:
    archive = lzma.LZMADecompressor()
    at, taken = stream.start, 0
    while not archive.eof:
        data = b""
        if archive.needs_input:
            data = os.pread(fd, min(_BLOCK_BYTES, stream.size - taken), stream.at + taken)
            if not data:
                raise lzma.LZMAError("a stream has no end")
            taken += len(data)
        block = archive.decompress(data, min(_BLOCK_BYTES, stream.end - at + 1))
        if at + len(block) > stream.end:
            break
        _put(memory, block, at)
        at += len(block)
    if not archive.eof or at != stream.end:
        raise lzma.LZMAError("a stream holds another number of bytes than is said")


def _put(memory: int, block: bytes, at: int) -> None:
    # Comparing ends at the first byte that is none.
    if block != (_ZEROS if len(block) == _BLOCK_BYTES else bytes(len(block))):
        os.pwrite(memory, block, at)


def _streams(file: BinaryIO) -> List[_Stream]:
    # The streams of a file, told by what stands at the end of each; none if there is one
    # alone, or the file was cut, or is put together in another way.
    fd, end = file.fileno(), os.fstat(file.fileno()).st_size
    sizes: List[Tuple[int, int, int]] = []
    while end:
        found = _stream_before(fd, end)
        if found is None:
            return []
        at, holds = found
        sizes.append((at, end - at, holds))
        end = at
    streams: List[_Stream] = []
    start = 0
    for at, size, holds in reversed(sizes):
        streams.append(_Stream(at, size, start, start + holds))
        start += holds
    return streams if len(streams) > 1 else []


def _stream_before(fd: int, end: int) -> Optional[Tuple[int, int]]:
    # (where it begins, bytes that it holds) of the stream that ends there.
    footer = os.pread(fd, _FOOTER_SIZE, max(end - _FOOTER_SIZE, 0))
    if len(footer) < _FOOTER_SIZE or footer[-2:] != _FOOTER_MAGIC:
        return None
    size = (int.from_bytes(footer[4:8], "little") + 1) * 4
    at = end - _FOOTER_SIZE - size
    if size > _MOST_INDEX or at < _HEADER_SIZE:
        return None
    index = os.pread(fd, size, at)
    if zlib.crc32(index[:-_CRC_SIZE]) != int.from_bytes(index[-_CRC_SIZE:], "little"):
        return None
    try:
        numbers = _numbers(index[1:-_CRC_SIZE])
        count = next(numbers)
        blocks = [(next(numbers), next(numbers)) for _ in range(min(count, size))]
    except IndexError:
        return None
    at -= _HEADER_SIZE + sum((packed + 3) // 4 * 4 for packed, _ in blocks)
    if at < 0 or os.pread(fd, len(MAGIC), at) != MAGIC:
        return None
    return at, sum(holds for _, holds in blocks)


def _numbers(data: bytes) -> Iterator[int]:
    # Of seven bits a byte, the lowest first, in each but the last of which the eighth is set.
    at = 0
    while True:
        number = 0
        for digit in range(_MOST_DIGITS):
            byte = data[at]
            at += 1
            number |= (byte & 0x7F) << 7 * digit
            if not byte & 0x80:
                break
        yield number
