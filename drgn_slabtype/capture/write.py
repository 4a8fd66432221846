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
import os
import shutil
import tempfile
from typing import IO, Any, Callable, Dict, List, NamedTuple, Optional, Tuple

from drgn import FaultError, Program
from drgn.helpers.linux.mmzone import NODE_DATA

from ..arguments import at_least, path_of
from ..errors import TargetError
from ..files.whole import whole
from ..machine import Machine, machine
from ..machine.locks import Locks, lock_state
from ..machine.witness import witnesses
from ..pages.scan import page_ranges
from ..regions import merge
from .archive import packed
from .declare import declared_regions
from .describe import describe
from .elf import NO_PHYSICAL_ADDRESS, NOTE_NAME, NOTE_TYPE, Note, elf_format, elf_machine
from .open import Progress, left_out
from .segments import SegmentWriter
from .symbols import code_symbols

OBJECT_CONTENTS = "object contents"
"""In :func:`left_out` when what users keep in their objects was not captured."""

_COPY_BYTES = 1 << 20


class CaptureSummary(NamedTuple):
    """What a capture holds."""

    path: str
    """Of the file."""
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
    jobs: Optional[int] = 1,
) -> CaptureSummary:
    """
    Write a capture of everything this package reads.

    >>> summary = write_capture(prog, "kernel.capture.xz")
    >>> check(open_target(TargetOptions(core="kernel.capture.xz"))).outcome.value
    'consistent'

    :param prog: A Linux kernel, stopped: a live one tears between two reads.
    :param path: File to write; it appears when it is complete.
    :param contents: Keep what users store in their slab objects.
    :param compressed: Whether to compress with xz. Uncompressed captures can
        be opened by drgn itself.
    :param progress: Called as work goes on: with what is done, how far it is, and how far it goes.
    :param jobs: How many processes compress, forked from this one; with 1, this one does.
        ``None``: one a processor, if there is so much that it is worth while. The file is
        the same.
    :raises ArgumentError: if *path* is none, or *jobs* is too small.
    :raises UnsupportedError: if the architecture has no ELF machine number.
    :raises TargetError: if the file cannot be written; its cause is what the system said.
    """
    at_least("jobs", jobs, 1)
    path = path_of("path", path)
    platform = prog.platform
    assert platform is not None
    number, format = elf_machine(platform), elf_format(platform)
    of = machine(prog)
    declared, missing = declared_regions(of)
    masked = not contents and any(region.masked for region in declared)
    absent = sorted(left_out(prog) | missing | ({OBJECT_CONTENTS} if masked else set()))
    present = merge(declared)
    kept = present if contents else merge([region for region in declared if not region.masked])
    sizes: Dict[str, int] = {}
    for name in sorted({region.what for region in declared}):
        sizes[name] = merge([region for region in declared if region.what == name]).total
    with tempfile.TemporaryFile() as data:
        physical = _physical_address(of)
        read, page_size = _reader(of, physical), of.memory.page_size
        writer = SegmentWriter(data, read, physical, page_size)
        writer.write(present, kept, progress)
        payload: Dict[str, Any] = describe(of, code_symbols(of, declared))
        payload["manifest"] = {
            "contents": contents,
            "left_out": absent,
            "regions": sizes,
            "unreadable": writer.unreadable,
            "witnesses": witnesses(of).to_json(),
            "lock_owners": _lock_owners(of),
        }
        notes = [
            Note(NOTE_NAME, NOTE_TYPE, json.dumps(payload, separators=(",", ":")).encode()),
            Note(b"VMCOREINFO", 0, prog["VMCOREINFO"].string_()),
        ]
        head = format.head(number, notes, writer.segments)
        try:
            with whole(path) as out:
                if compressed:
                    _pack(out, head, data, progress, jobs)
                else:
                    data.seek(0)
                    out.write(head)
                    shutil.copyfileobj(data, out, _COPY_BYTES)
        except OSError as error:
            raise TargetError(f"{path}: {error.strerror}") from error
    return CaptureSummary(
        path=path,
        size=os.path.getsize(path),
        memory=sum(segment.memory_size for segment in writer.segments),
        kept=kept.total,
        regions=sizes,
        unreadable=writer.unreadable,
        left_out=tuple(absent),
    )


def _lock_owners(machine: Machine) -> List[int]:
    # The locks of the allocators have been read with everything else.
    for nid in machine.nodes:
        for zone in NODE_DATA(machine.prog, nid).node_zones:
            lock_state(zone.lock)
    return machine.fact(Locks).tasks.owners()


def _physical_address(machine: Machine) -> Callable[[int], int]:
    # The direct map reaches as far as pages are known; vmalloc may begin
    # anywhere after it.
    source = machine.memory
    last = max((end for _, end in page_ranges(machine)), default=0)
    end = source.linear_base + (last << source.page_shift)

    def physical(address: int) -> int:
        if source.linear_base <= address < end:
            return address - source.linear_base
        return NO_PHYSICAL_ADDRESS

    return physical


def _reader(machine: Machine, physical: Callable[[int], int]) -> Callable[[int, int], bytes]:
    # KFENCE and debug_pagealloc take pages out of the direct map that are there.
    def read(address: int, size: int) -> bytes:
        try:
            return machine.prog.read(address, size)
        except FaultError:
            at = physical(address)
            if at == NO_PHYSICAL_ADDRESS:
                raise
            return machine.prog.read(at, size, True)

    return read


def _pack(
    out: IO[bytes], head: bytes, data: IO[bytes], progress: Optional[Progress], jobs: Optional[int]
) -> None:
    data.flush()
    fd, size = data.fileno(), len(head) + data.tell()

    def read(at: int, most: int) -> bytes:
        return head[at : at + most] or os.pread(fd, most, at - len(head))

    for piece, done in packed(read, size, jobs):
        out.write(piece)
        if progress:
            progress("compress", done, size)
