# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Cores whose headers are in another byte order than the memory in them
----------------------------------------------------------------------

QEMU 7.1 to 8.0 writes headers and registers of ppc64 big-endian whatever the guest
runs as; crash calls that an "endian mismatch". Fixed by "target: ppc: Use MSR_HVB bit
to get the target endianness for memory dump" (in QEMU 8.1).
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Optional

from .elf import ET_CORE, ElfFile, Note

EM_PPC64 = 21
"""``e_machine`` of ppc64, which runs either way."""

_PT_NOTE, _NT_PRSTATUS = 4, 1
_HEADER, _PROGRAM_HEADER = "HHIQQQIHHHHHH", "IIQQQQQQ"
_PID = slice(32, 36)  # struct elf_prstatus.pr_pid
_REGISTERS = 112  # struct elf_prstatus.pr_reg: words of 8 bytes to the end


def turned(file: BinaryIO, order: str) -> Optional[bytes]:
    """
    Return the headers of a core of ppc64 in the byte order of its memory.

    It holds the registers of CPUs, and no memory.

    :param file: Open for reading, seekable.
    :param order: That of the memory: ``<`` or ``>``.
    :return: ``None`` if the headers are right, or this is no such core.
    """
    try:
        elf = ElfFile(file)
    except ValueError:
        return None
    if elf.type != ET_CORE or elf.machine != EM_PPC64 or elf.order == order:
        return None
    notes = b"".join(_packed(note, elf.order, order) for note in elf.notes())
    head = struct.calcsize(f"={_HEADER}") + 16
    begin = head + struct.calcsize(f"={_PROGRAM_HEADER}")
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    fields = (ET_CORE, EM_PPC64, 1, 0, head, 0, 0, head, begin - head, 1, 0, 0, 0)
    size = len(notes)
    row = struct.pack(order + _PROGRAM_HEADER, _PT_NOTE, 0, begin, 0, 0, size, size, 4)
    return ident + struct.pack(order + _HEADER, *fields) + row + notes


def _packed(note: Note, before: str, order: str) -> bytes:
    data = note.data
    if note.name == b"CORE" and note.type == _NT_PRSTATUS:
        count = max(0, len(data) - _REGISTERS) // 8
        words = struct.unpack_from(f"{before}{count}Q", data, min(_REGISTERS, len(data)))
        end = data[_REGISTERS + 8 * count :]
        start = data[: _PID.start] + data[_PID][::-1] + data[_PID.stop : _REGISTERS]
        data = start + struct.pack(f"{order}{count}Q", *words) + end
    name = note.name + b"\0"
    head = struct.pack(f"{order}III", len(name), len(data), note.type)
    return head + _padded(name) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
