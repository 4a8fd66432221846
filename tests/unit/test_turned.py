# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores of ppc64 whose headers are in another byte order than their memory."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from drgn import Architecture, PlatformFlags, ProgramFlags

from drgn_slabtype import target
from drgn_slabtype.files.elf import ElfFile
from drgn_slabtype.files.turned import EM_PPC64, turned
from drgn_slabtype.target import TargetOptions

from ..synthetic.elf_files import EM_S390, EM_X86_64, ET_CORE, ET_EXEC, elf, note
from .test_ownnote import PAGE, TEXT, machine_core

PID, NIP = 4321, 0xC000000000012344


def core(order: str, *, machine: int = EM_PPC64, kind: int = ET_CORE) -> bytes:
    """Return a core with the registers of one CPU and nothing else."""
    status = bytearray(504)
    struct.pack_into(f"{order}I", status, 32, PID)
    struct.pack_into(f"{order}33Q", status, 112, *range(32), NIP)
    notes = note(b"CORE", 1, bytes(status), order) + note(b"VMCOREINFO", 0, TEXT, order)
    return elf(kind, notes, bytes(PAGE), machine=machine, order=order)


@pytest.mark.parametrize(("before", "order"), [(">", "<"), ("<", ">")])
def test_headers_and_registers_are_turned_and_memory_is_left_out(before: str, order: str) -> None:
    found = turned(io.BytesIO(core(before)), order)
    assert found is not None
    file = ElfFile(io.BytesIO(found))
    assert (file.order, file.type, file.machine) == (order, ET_CORE, EM_PPC64)
    assert len(file.segments) == 1  # that of the notes
    status, text = file.notes()
    assert (status.name, status.type, len(status.data)) == (b"CORE", 1, 504)
    assert struct.unpack_from(f"{order}I", status.data, 32) == (PID,)
    assert struct.unpack_from(f"{order}33Q", status.data, 112) == (*range(32), NIP)
    assert text.data == TEXT


@pytest.mark.parametrize(
    "file",
    [
        core("<"),
        core(">", machine=EM_S390),
        core(">", machine=EM_X86_64),
        core(">", kind=ET_EXEC),
        b"text",
    ],
    ids=["right", "s390x", "x86-64", "program", "no ELF"],
)
def test_nothing_else_is_turned(file: bytes) -> None:
    assert turned(io.BytesIO(file), "<") is None


@pytest.mark.parametrize("size", [0, 31, 34, 113, 119])
def test_registers_that_are_cut_off_are_kept_as_they_are(size: int) -> None:
    notes = note(b"CORE", 1, bytes(range(size)), ">")
    found = turned(io.BytesIO(elf(ET_CORE, notes, machine=EM_PPC64, order=">")), "<")
    assert found is not None
    (status,) = ElfFile(io.BytesIO(found)).notes()
    assert len(status.data) == size


def test_program_has_the_order_of_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(machine_core(TEXT, order=">", inside="<", machine=EM_PPC64))
    prog = target._program(TargetOptions(core=str(path)))
    target._open_core(prog, str(path))
    assert prog.platform is not None
    assert prog.platform.arch == Architecture.PPC64
    assert prog.platform.flags & PlatformFlags.IS_LITTLE_ENDIAN
    assert prog.flags & ProgramFlags.IS_LINUX_KERNEL
    assert prog["VMCOREINFO"].string_() == TEXT
    assert prog.read(3 * PAGE + 12, 10, True) == b"VMCOREINFO"
