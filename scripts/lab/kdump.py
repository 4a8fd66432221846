# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The formats of a crash dump, made from an ELF core of QEMU.

makedumpfile reads the core that a crashed kernel offers (``/proc/vmcore``): no
section headers, program headers with the addresses of the linear map, notes of
the CPUs and the kernel's VMCOREINFO. QEMU's core holds the same memory, so it is
written once more with such a header.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Dict, List, Tuple

from . import cache
from .elfcore import HEADER, PROGRAM_HEADER, PT_LOAD, PT_NOTE, Core, Segment
from .errors import LabError
from .packages import install
from .process import run

__all__ = ("FORMATS", "convert", "proc_vmcore")

FORMATS: Dict[str, Tuple[str, ...]] = {
    "kdump": ("-c", "-d", "0"),
    "kdump-31": ("-c", "-d", "31"),
    "kdump-31-elf": ("-E", "-d", "31"),
}
"""Formats by name, with makedumpfile's options."""

_KERNEL_MAP = 0xFFFFFFFF80000000
_BLOCK = 1 << 20


def _linear_map(core: Core, vmcoreinfo: str) -> int:
    # The kernel's own variable says where the linear map begins.
    symbol = re.search(r"^SYMBOL\(page_offset_base\)=([0-9a-f]+)$", vmcoreinfo, re.MULTILINE)
    base = re.search(r"^NUMBER\(phys_base\)=(-?\d+)$", vmcoreinfo, re.MULTILINE)
    if base is None:
        raise LabError("VMCOREINFO does not tell phys_base")
    if symbol is None:
        return 0xFFFF888000000000
    physical = int(symbol.group(1), 16) - _KERNEL_MAP + int(base.group(1))
    (address,) = struct.unpack("<Q", core.read(physical, 8))
    return int(address)


def _ram(core: Core) -> List[Segment]:
    # The flash memory with the firmware ends at 4 GiB and is no RAM.
    return [part for part in core.segments if part.address + part.size != 1 << 32]


def proc_vmcore(source: Path, target: Path) -> None:
    """
    Write QEMU's core the way a crashed kernel offers its memory.

    :raises LabError: if the core has no VMCOREINFO.
    """
    with Core(source) as core, target.open("wb") as stream:
        notes = [note for note in core.notes() if note.name in ("CORE", "VMCOREINFO")]
        information = [note.data for note in notes if note.name == "VMCOREINFO"]
        if not information:
            raise LabError(f"{source} has no VMCOREINFO")
        linear = _linear_map(core, information[0].decode("ascii", "replace"))
        note_data = b"".join(note.pack() for note in notes)
        ram = _ram(core)
        count = len(ram) + 1
        begin = HEADER.size + count * PROGRAM_HEADER.size
        offset = (begin + len(note_data) + 0xFFF) & ~0xFFF
        identity = b"\x7fELF\x02\x01\x01" + bytes(9)
        tables = (HEADER.size, PROGRAM_HEADER.size, count, 0, 0, 0)
        stream.write(HEADER.pack(identity, 4, 62, 1, 0, HEADER.size, 0, 0, *tables))
        size = len(note_data)
        stream.write(PROGRAM_HEADER.pack(PT_NOTE, 0, begin, 0, 0, size, size, 4))
        place = offset
        for part in ram:
            addresses, sizes = (linear + part.address, part.address), (part.size, part.size)
            stream.write(PROGRAM_HEADER.pack(PT_LOAD, 7, place, *addresses, *sizes, 0x1000))
            place += part.size
        stream.write(note_data)
        place = offset
        for part in ram:
            for at in range(0, part.size, _BLOCK):
                data = core.read(part.address + at, min(_BLOCK, part.size - at))
                if data.count(0) != len(data):
                    stream.seek(place + at)
                    stream.write(data)
            place += part.size
        stream.truncate(place)


def convert(source: Path, target: Path, format: str) -> None:
    """
    Write a dump in the format of a crash dump.

    :param format: A key of :data:`FORMATS`.
    :raises LabError: if makedumpfile does not take the dump.
    """
    log = cache.log_file("makedumpfile")
    install(("makedumpfile",), log=log)
    plain = target.with_name(f".{target.name}.elf")
    made = target.with_name(f".{target.name}.made")
    try:
        proc_vmcore(source, plain)
        made.unlink(missing_ok=True)
        run(["makedumpfile", *FORMATS[format], str(plain), str(made)], log=log)
        made.rename(target)
    finally:
        plain.unlink(missing_ok=True)
        made.unlink(missing_ok=True)
