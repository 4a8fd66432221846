# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Writing captures
----------------

Regions are declared, merged, read in large blocks, masked and written; then the
headers are known and the whole is compressed. The same memory gives the same
bytes.
"""

from __future__ import annotations

import json
import lzma
import os
import tempfile
from contextlib import nullcontext
from typing import IO, Any, ContextManager, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from drgn import FaultError, Program
from drgn.helpers.linux.mm import for_each_valid_page_range

from ..memory import U8, Bools, memory
from ..regions import Ranges, merge
from .declare import declared_regions
from .describe import describe
from .elf import (
    NO_PHYSICAL_ADDRESS,
    NOTE_NAME,
    NOTE_TYPE,
    Note,
    Segment,
    elf_format,
    elf_machine,
)
from .open import Progress, left_out

OBJECT_CONTENTS = "object contents"
"""In :func:`left_out` when what users keep in their objects was not captured."""

_BLOCK_BYTES = 1 << 20
_ZERO_RUN_PAGES = 4  # from here on a header is cheaper than compressing zeros
_COPY_BYTES = 1 << 20


class CaptureSummary(NamedTuple):
    """What a capture holds."""

    path: str
    size: int
    """Bytes of the file."""
    memory: int
    """Bytes of the target's memory in it, zero or not."""
    kept: int
    """Bytes of those that were not masked."""
    regions: Dict[str, int]
    """Bytes by kind of region; kinds may overlap."""
    unreadable: int
    """Bytes declared that the target does not have."""
    left_out: Tuple[str, ...]
    """What a rule will not find in it."""


def write_capture(
    prog: Program,
    path: str,
    *,
    contents: bool = False,
    compressed: bool = True,
    progress: Optional[Progress] = None,
) -> CaptureSummary:
    """
    Write a capture of everything this package reads.

    :param prog: A Linux kernel, stopped: a live one tears between two reads.
    :param path: File to write; it appears when it is complete.
    :param contents: Keep what users store in their slab objects.
    :param compressed: Whether to compress with xz. Uncompressed captures can
        be opened by drgn itself.
    :raises UnsupportedError: if the architecture has no ELF machine number.
    :raises OSError: if the file cannot be written.
    """
    platform = prog.platform
    assert platform is not None
    machine, format = elf_machine(platform), elf_format(platform)
    declared, missing = declared_regions(prog)
    masked = not contents and any(region.masked for region in declared)
    absent = sorted(left_out(prog) | missing | ({OBJECT_CONTENTS} if masked else set()))
    present = merge(declared)
    kept = present if contents else merge([region for region in declared if not region.masked])
    sizes: Dict[str, int] = {}
    for name in sorted({region.what for region in declared}):
        sizes[name] = merge([region for region in declared if region.what == name]).total
    with tempfile.TemporaryFile() as data:
        writer = _SegmentWriter(prog, data)
        writer.write(present, kept, progress)
        payload: Dict[str, Any] = describe(prog)
        payload["manifest"] = {
            "contents": contents,
            "left_out": absent,
            "regions": sizes,
            "unreadable": writer.unreadable,
        }
        notes = [
            Note(NOTE_NAME, NOTE_TYPE, json.dumps(payload, separators=(",", ":")).encode()),
            Note(b"VMCOREINFO", 0, prog["VMCOREINFO"].string_()),
        ]
        head = format.head(machine, notes, writer.segments)
        _write_file(path, head, data, compressed, progress)
    return CaptureSummary(
        path=path,
        size=os.path.getsize(path),
        memory=sum(segment.memory_size for segment in writer.segments),
        kept=kept.total,
        regions=sizes,
        unreadable=writer.unreadable,
        left_out=tuple(absent),
    )


class _SegmentWriter:
    # Copies ranges of memory into a file, and remembers them as segments.

    def __init__(self, prog: Program, file: IO[bytes]) -> None:
        self._prog = prog
        self._file = file
        self._memory = memory(prog)
        self._offset = 0
        self._linear_end = _linear_end(prog)
        self.segments: List[Segment] = []
        self.unreadable = 0

    def write(self, present: Ranges, kept: Ranges, progress: Optional[Progress]) -> None:
        done, total = 0, present.total
        for start, end in zip(present.starts.tolist(), present.ends.tolist()):
            for address, data in self._blocks(start, end):
                self._mask(address, data, kept)
                self._add(address, data)
            done += end - start
            if progress:
                progress("memory", done, total)

    def _blocks(self, start: int, end: int) -> Iterator[Tuple[int, U8]]:
        # Like Memory.blocks(), but by pages of the target once a read fails.
        page = self._memory.page_size
        address = start
        while address < end:
            size = min(_BLOCK_BYTES - address % _BLOCK_BYTES, end - address)
            try:
                yield address, self._read(address, size)
                address += size
                continue
            except FaultError:
                pass
            stop = address + size
            while address < stop:
                size = min(page - address % page, stop - address)
                try:
                    yield address, self._read(address, size)
                except FaultError:
                    self.unreadable += size
                address += size

    def _read(self, address: int, size: int) -> U8:
        return np.frombuffer(self._memory.read(address, size), np.uint8).copy()

    def _mask(self, address: int, data: U8, kept: Ranges) -> None:
        starts, ends = kept.within(address, address + len(data))
        if len(starts) == 1 and int(ends[0] - starts[0]) == len(data):
            return
        # Kept ranges neither overlap nor touch: each begins and ends once.
        edges = np.zeros(len(data) + 1, np.int8)
        edges[(starts - np.uint64(address)).astype(np.intp)] = 1
        edges[(ends - np.uint64(address)).astype(np.intp)] = -1
        data *= np.cumsum(edges[:-1], dtype=np.int8).view(np.uint8)

    def _add(self, address: int, data: U8) -> None:
        # Split where pages of zeros follow each other for long.
        page = self._memory.page_size
        whole = len(data) // page * page
        nonzero: Bools = data[:whole].reshape(-1, page).any(axis=1)  # type: ignore[assignment]
        edges = np.flatnonzero(np.diff(nonzero.astype(np.int8))) + 1
        bounds = [0, *edges.tolist(), len(nonzero)]
        at = 0
        for first, last in zip(bounds, bounds[1:]):
            if last - first >= _ZERO_RUN_PAGES and not nonzero[first]:
                self._append(address + at, data[at : first * page])
                self._append_zeros(address + first * page, (last - first) * page)
                at = last * page
        self._append(address + at, data[at:])

    def _append(self, address: int, data: U8) -> None:
        size = len(data)
        if not size:
            return
        last = self.segments[-1] if self.segments else None
        if last and last.address + last.memory_size == address and not _ends_in_zeros(last):
            grown = last.file_size + size
            self.segments[-1] = last._replace(file_size=grown, memory_size=grown)
        else:
            self.segments.append(
                Segment(address, self._physical(address), self._offset, size, size)
            )
        self._file.write(data.tobytes())
        self._offset += size

    def _append_zeros(self, address: int, size: int) -> None:
        last = self.segments[-1] if self.segments else None
        if last and last.address + last.memory_size == address:
            self.segments[-1] = last._replace(memory_size=last.memory_size + size)
        else:
            self.segments.append(Segment(address, self._physical(address), self._offset, 0, size))

    def _physical(self, address: int) -> int:
        base = self._memory.linear_base
        if base <= address < self._linear_end:
            return address - base
        return NO_PHYSICAL_ADDRESS


def _ends_in_zeros(segment: Segment) -> bool:
    return segment.memory_size > segment.file_size


def _linear_end(prog: Program) -> int:
    # Where the direct map ends, as far as pages are known: vmalloc may begin
    # anywhere after it.
    last = max((end for _, end, _ in for_each_valid_page_range(prog)), default=0)
    return memory(prog).linear_base + (last << memory(prog).page_shift)


def _write_file(
    path: str, head: bytes, data: IO[bytes], compressed: bool, progress: Optional[Progress]
) -> None:
    part = f"{path}.part"
    total = data.tell()
    data.seek(0)
    try:
        with open(part, "wb") as raw, _compressor(raw, compressed) as out:
            out.write(head)
            done = 0
            while True:
                block = data.read(_COPY_BYTES)
                if not block:
                    break
                out.write(block)
                done += len(block)
                if progress:
                    progress("compress", done, total)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise


def _compressor(raw: IO[bytes], compressed: bool) -> ContextManager[IO[bytes]]:
    return lzma.open(raw, "wb", preset=6) if compressed else nullcontext(raw)
