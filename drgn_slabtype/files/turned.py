# SPDX-License-Identifier: LGPL-2.1-or-later
"""
QEMU's cores of ppc64 and s390x, with the headers that they should have
------------------------------------------------------------------------

QEMU 7.1 to 8.0 writes headers and registers of ppc64 big-endian whatever the guest
runs as; crash calls that an "endian mismatch". Fixed by "target: ppc: Use MSR_HVB bit
to get the target endianness for memory dump" (in QEMU 8.1).

QEMU tells in pr_pid which CPU the registers are of: its number and 1. On ppc64 it
leaves that out, on s390x it writes it little-endian; drgn then has registers of none.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Iterator, List, Optional

from .elf import ET_CORE, ElfFile, Note

EM_PPC64 = 21
"""``e_machine`` of ppc64, which runs either way."""
EM_S390 = 22
"""``e_machine`` of s390x."""

_PT_NOTE, _NT_PRSTATUS = 4, 1
_HEADER, _PROGRAM_HEADER = "HHIQQQIHHHHHH", "IIQQQQQQ"
_PID = slice(32, 36)  # struct elf_prstatus.pr_pid, of 64-bit machines
_REGISTERS = 112  # struct elf_prstatus.pr_reg: words of 8 bytes to the end


def turned(file: BinaryIO, order: Optional[str]) -> Optional[bytes]:
    """
    Return the headers of a core of ppc64 or s390x in the byte order of its memory.

    They hold the registers of CPUs, and no memory.

    :param file: Open for reading, seekable.
    :param order: That of the memory: ``<`` or ``>``; ``None`` for that of the headers.
    :return: ``None`` if the headers are right, or this is no such core.
    """
    try:
        elf = ElfFile(file)
    except ValueError:
        return None
    if elf.type != ET_CORE or elf.machine not in (EM_PPC64, EM_S390):
        return None
    order = order if order and elf.machine == EM_PPC64 else elf.order
    notes = list(elf.notes())
    if elf.order == order and any(note.name == b"VMCOREINFO" for note in notes):
        return None  # of a crash kernel
    states = [note for note in notes if _is_of_cpu(note)]
    if elf.order == order and [_pid(note, order) for note in states] == _pids(states):
        return None
    packed = b"".join(_packed(note, elf.order, order) for note in _numbered(notes, order))
    head = struct.calcsize(f"={_HEADER}") + 16
    begin = head + struct.calcsize(f"={_PROGRAM_HEADER}")
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    fields = (ET_CORE, elf.machine, 1, 0, head, 0, 0, head, begin - head, 1, 0, 0, 0)
    size = len(packed)
    row = struct.pack(order + _PROGRAM_HEADER, _PT_NOTE, 0, begin, 0, 0, size, size, 4)
    return ident + struct.pack(order + _HEADER, *fields) + row + packed


def _is_of_cpu(note: Note) -> bool:
    return note.name == b"CORE" and note.type == _NT_PRSTATUS and len(note.data) >= _REGISTERS


def _pid(note: Note, order: str) -> int:
    return int(struct.unpack_from(f"{order}I", note.data, _PID.start)[0])


def _pids(states: List[Note]) -> List[int]:
    return list(range(1, len(states) + 1))


def _numbered(notes: List[Note], order: str) -> Iterator[Note]:
    # QEMU writes the CPUs in the order of their numbers.
    cpu = 0
    for note in notes:
        if _is_of_cpu(note):
            cpu += 1
            pid = struct.pack(f"{order}I", cpu)
            note = note._replace(data=note.data[: _PID.start] + pid + note.data[_PID.stop :])
        yield note


def _packed(note: Note, before: str, order: str) -> bytes:
    data = note.data
    if _is_of_cpu(note):
        count = (len(data) - _REGISTERS) // 8
        words = struct.unpack_from(f"{before}{count}Q", data, _REGISTERS)
        end = data[_REGISTERS + 8 * count :]
        data = data[:_REGISTERS] + struct.pack(f"{order}{count}Q", *words) + end
    name = note.name + b"\0"
    head = struct.pack(f"{order}III", len(name), len(data), note.type)
    return head + _padded(name) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
