# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a kdump file has and what it lacks
---------------------------------------

A kdump file (``diskdump`` format) is a header, a sub header with notes, two
bitmaps (which pages exist, which of them were dumped), a descriptor for each
dumped page, and their compressed bytes. libkdumpfile maps what the headers
promise and dies of SIGBUS where the file ends before; so every number of the
file is compared with its length first.

QEMU's ``dump-guest-memory`` in the format ``kdump-zlib`` fills in the machine of
the ``struct new_utsname`` in the header and nothing else of it. libkdumpfile then
believes none of it, and drgn opens the file only if it is told the platform.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Iterator, NamedTuple, Optional

import numpy as np
from drgn import Architecture, Platform

from .extents import FLATTENED, U8, Bools, open_extents

SIGNATURE = b"KDUMP   "
"""What a kdump file begins with, unless it is flattened."""

_NAMES = struct.Struct("<8si65s65s65s65s65s65s")
# After the names and a struct timeval: status, block size, blocks of the sub
# header, blocks of the bitmaps, max_mapnr, …
_COUNTS = "Iiiii"
_COUNTS_AT = {True: 424, False: 412}
_HEADER_BYTES = 464
_LARGEST_BLOCK = 1 << 18  # 4 KiB in the other byte order are 1 MiB
_LAST_VERSION = 100  # it was 6 in 2026
_U32 = 0xFFFFFFFF
_INCOMPLETE = 8  # DUMP_DH_COMPRESSED_INCOMPLETE in the status
_DESCRIPTOR_BYTES = 24
_CHUNK = 1 << 16  # bytes of bitmap at a time: half a million pages

# As uname -m has them, where they are not drgn's own names.
_ARCHITECTURES = {"i386": "I386", "i686": "I386", "ppc64le": "PPC64"}


class KdumpError(ValueError):
    """A kdump file that cannot be opened, and why, in one line."""


class Lost(NamedTuple):
    """How many pages of a kdump file cannot be read from it."""

    pages: int
    """Dumped pages whose bytes are not in the file."""
    of: int
    """Pages that were dumped."""
    cut: bool
    """Whether some are behind the end of the file."""
    elsewhere: int = 0
    """Of the lost ones, those in the other files of a split dump."""
    incomplete: bool = False
    """Whether the dumper says that it could not write all."""

    def __str__(self) -> str:
        if self.elsewhere:
            return (
                f"one file of a split dump: {self.pages} of {self.of} pages are not in it; "
                "makedumpfile --reassemble puts the files together"
            )
        why = "incomplete, as its dumper says: " if self.incomplete else "damaged: "
        if self.cut:
            why = "truncated: "
        return f"{why}{self.pages} of {self.of} pages are not in the file"


class PageRun(NamedTuple):
    """Some bytes of the second bitmap, and the pages dumped there."""

    bitmap_at: int
    """Where these bytes of the bitmap are."""
    bitmap: U8
    dumped: Bools
    """For each bit, whether its page was dumped."""
    descriptors: U8
    """Shape (n, 24): one a dumped page; zeros where the file has none."""
    lost: Bools
    """Shape (n,): which of the dumped pages cannot be read."""
    cut: bool
    elsewhere: int


class KdumpFile:
    """
    The headers of a kdump file.

    :param file: Open for reading, seekable.
    :raises KdumpError: if the file ends before the last of them, or they make no sense.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.extents = open_extents(file)
        self.descriptors_at = 0
        """Where the page descriptors begin."""
        self._need(_HEADER_BYTES, "header")
        start = self.extents.read(0, _HEADER_BYTES)
        if start[:8] != SIGNATURE:
            raise KdumpError("damaged: no kdump header where the stream should have one")
        self.version = 0
        self._order = "<"
        self._find_header(start)
        self._first = (1 + self._sub_blocks) * self.block_size
        self.descriptors_at = self._first + self._bitmap_blocks * self.block_size
        self._need(self._first, "sub header")
        self._start, self._stop = 0, self.pages
        self.is_split = False
        """Whether the pages are spread over several files."""
        self._read_sub_header()
        half = self._bitmap_blocks // 2 * self.block_size
        # Without a second bitmap all pages of the first were dumped.
        self._has_two = half * 8 >= self.pages
        self._bitmap_at = self._first + (half if self._has_two else 0)
        self._bitmap_bytes = -(-self.pages // 8)
        self._need(self.descriptors_at, "bitmaps")

    def _need(self, end: int, what: str) -> None:
        # A part without which no page can be read.
        there = self.extents.size
        if there < end:
            raise KdumpError(
                f"truncated in its {what}: it has {there} bytes, and at least "
                f"{max(end, self.descriptors_at) - there} more are missing; "
                "nothing in it can be judged"
            )

    def _find_header(self, start: bytes) -> None:
        sound = []
        for order in "<>":
            for wide, at in _COUNTS_AT.items():
                counts = struct.unpack_from(order + _COUNTS, start, at)
                _, block_size, sub_blocks, bitmap_blocks, pages = counts
                sane = 512 <= block_size <= _LARGEST_BLOCK and not block_size & (block_size - 1)
                # libkdumpfile looks at no more than this.
                if sane and (bitmap_blocks & _U32) * block_size * 8 >= pages & _U32:
                    sound.append((order, wide, counts))
        if len(sound) > 1:
            raise KdumpError("damaged: its header makes sense in more than one way")
        if not sound or min(sound[0][2][2:4]) <= 0:
            raise KdumpError("damaged: the kdump header has no block size and no bitmaps")
        order, wide, (status, block_size, sub_blocks, bitmap_blocks, pages) = sound[0]
        if not wide:
            raise KdumpError("its header is that of a 32-bit kernel, which is not supported")
        self._order = order
        (self.version,) = struct.unpack_from(order + "i", start, 8)
        if not 0 < self.version <= _LAST_VERSION:
            raise KdumpError(f"damaged: there is no kdump header of version {self.version}")
        self.block_size = int(block_size)
        """Bytes of a block, which is a page."""
        self.pages = int(pages) & _U32
        """Page frames that the bitmaps cover (``max_mapnr``)."""
        self.incomplete = bool(status & _INCOMPLETE)
        """Whether the dumper says that it could not write all."""
        self._sub_blocks, self._bitmap_blocks = int(sub_blocks), int(bitmap_blocks)

    def _read_sub_header(self) -> None:
        # struct kdump_sub_header, which grew by the version of the header.
        size = min(104, self._sub_blocks * self.block_size)
        data = self.extents.read(self.block_size, size).ljust(104, b"\0")
        _, _, split, start, end, *places = struct.unpack(self._order + "QiiQQ9Q", data)
        if self.version >= 6:
            start, end, pages = places[-3:]
            self.pages = pages or self.pages
        if self.pages > self._bitmap_blocks * self.block_size * 8:
            raise KdumpError("damaged: its bitmaps are too small for the pages it is said to have")
        self.is_split = bool(split) and self.version >= 2
        if self.is_split:
            self._start, self._stop = min(start, self.pages), min(end, self.pages)
        for since, name, at, count in (
            (3, "VMCOREINFO", *places[0:2]),
            (4, "notes", *places[2:4]),
            (4, "erased data", *places[4:6]),
        ):
            if self.version >= since and count:
                if at >= 1 << 62 or count >= 1 << 32:
                    raise KdumpError(f"damaged: no file has its {name} at byte {at}")
                self._need(at + count, name)

    def runs(self) -> Iterator[PageRun]:
        """Return the pages that were dumped, in pieces, with what became of each."""
        extents, at = self.extents, self.descriptors_at
        fields = np.dtype(
            [("offset", f"{self._order}i8"), ("size", f"{self._order}u4"), ("rest", "V12")]
        )
        for begin in range(0, self._bitmap_bytes, _CHUNK):
            count = min(_CHUNK, self._bitmap_bytes - begin)
            where = self._bitmap_at + begin
            bitmap = np.frombuffer(extents.read(where, count), np.uint8)
            dumped = np.unpackbits(bitmap, bitorder="little").view(np.bool_)
            numbers = np.arange(8 * begin, 8 * begin + len(dumped))
            dumped &= numbers < self.pages
            here = dumped & (numbers >= self._start) & (numbers < self._stop)
            wanted = int(np.count_nonzero(here)) * _DESCRIPTOR_BYTES
            data = extents.read(at, wanted)
            at += wanted
            described = np.frombuffer(data.ljust(wanted, b"\0"), fields)
            offsets, sizes = described["offset"].astype(np.int64), described["size"]
            possible = (sizes > 0) & (sizes <= self.block_size) & (offsets >= self.descriptors_at)
            there = possible & extents.holds(offsets, sizes.astype(np.int64))
            cut = len(data) < wanted or bool((possible & ~there).any())
            descriptors = np.zeros((int(np.count_nonzero(dumped)), _DESCRIPTOR_BYTES), np.uint8)
            inside = here[dumped]
            descriptors[inside] = described.view(np.uint8).reshape(-1, _DESCRIPTOR_BYTES)
            lost = ~inside
            lost[inside] = ~there
            elsewhere = int(np.count_nonzero(~inside))
            yield PageRun(where, bitmap, dumped, descriptors, lost, cut, elsewhere)

    def lost(self) -> Lost:
        """Return how many pages cannot be read."""
        pages = of = elsewhere = 0
        cut = not self.extents.ended
        for run in self.runs():
            pages += int(np.count_nonzero(run.lost))
            of += len(run.lost)
            elsewhere += run.elsewhere
            cut |= run.cut
        return Lost(pages, of, cut, elsewhere, self.incomplete)

    def mend(self, target: BinaryIO) -> None:
        """
        Write the file as if the pages that cannot be read had not been dumped.

        :raises OSError: if there is no room for it.
        """
        self.extents.copy(target)
        at = self.descriptors_at
        for run in self.runs():
            bits = run.dumped.copy()
            bits[run.dumped] = ~run.lost
            target.seek(run.bitmap_at)
            target.write(np.packbits(bits, bitorder="little").tobytes())
            kept = run.descriptors[~run.lost].tobytes()
            target.seek(at)
            target.write(kept)
            at += len(kept)
        if self.is_split:
            # What is in the other files was not dumped, so that this is all there is.
            target.seek(self.block_size + 12)
            target.write(bytes(4))


def is_kdump(start: bytes) -> bool:
    """Return whether a file that begins with these bytes is a kdump file, flattened or not."""
    return start.startswith((SIGNATURE, FLATTENED))


def missing_platform(path: str) -> Optional[Platform]:
    """
    Return the platform of a kdump file whose header names a machine and no kernel.

    :return: ``None`` for all other files, whose platform drgn finds by itself.
    :raises KdumpError: if it names no machine either.
    """
    try:
        with open(path, "rb") as file:
            if not is_kdump(file.read(16)):
                return None
            header = open_extents(file).read(0, _NAMES.size)
    except OSError:
        return None
    if len(header) < _NAMES.size:
        return None
    signature, _, system, node, release, version, machine, _ = _NAMES.unpack(header)
    if signature != SIGNATURE or all(name[0] for name in (system, node, release, version)):
        return None
    name = machine.partition(b"\0")[0].decode("ascii", "replace")
    architecture = getattr(Architecture, _ARCHITECTURES.get(name, name.upper()), None)
    if architecture is Architecture.UNKNOWN:
        # As QEMU 7.2 writes it of arm64. Without, libkdumpfile follows no page tables.
        raise KdumpError(
            "the header names no machine, so that no address can be found in it: "
            "an ELF core of the guest can be read"
        )
    return Platform(architecture) if isinstance(architecture, Architecture) else None
