# SPDX-License-Identifier: LGPL-2.1-or-later
"""QEMU's cores of ppc64 and s390x, whose headers are not what they should be."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Tuple

import pytest
from drgn import Architecture, PlatformFlags, ProgramFlags

from drgn_slabtype import target
from drgn_slabtype.files.elf import ElfFile
from drgn_slabtype.files.turned import EM_PPC64, turned
from drgn_slabtype.target import TargetOptions

from ..synthetic.elf_files import EM_S390, EM_X86_64, ET_CORE, ET_EXEC, elf, note
from .test_ownnote import PAGE, TEXT, machine_core

PID, NIP = 4321, 0xC000000000012344


def state(order: str, pid: bytes) -> bytes:
    """Return the note with the registers of a CPU."""
    status = bytearray(504)
    status[32:36] = pid
    struct.pack_into(f"{order}33Q", status, 112, *range(32), NIP)
    return note(b"CORE", 1, bytes(status), order)


def core(order: str, *, machine: int = EM_PPC64, kind: int = ET_CORE) -> bytes:
    """Return a core with the registers of one CPU and nothing else."""
    notes = state(order, struct.pack(f"{order}I", PID)) + note(b"VMCOREINFO", 0, TEXT, order)
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
    assert struct.unpack_from(f"{order}I", status.data, 32) == (1,)
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


@pytest.mark.parametrize(
    ("machine", "pids"),
    [(EM_S390, (b"\1\0\0\0", b"\2\0\0\0")), (EM_PPC64, (bytes(4), bytes(4)))],
    ids=["s390x", "ppc64"],
)
def test_registers_are_those_of_the_cpus_in_their_order(
    machine: int, pids: Tuple[bytes, bytes]
) -> None:
    other = note(b"CORE", 2, bytes(136), ">")
    notes = state(">", pids[0]) + other + state(">", pids[1]) + other
    found = turned(io.BytesIO(elf(ET_CORE, notes, machine=machine, order=">")), None)
    assert found is not None
    file = ElfFile(io.BytesIO(found))
    assert file.machine == machine
    told = [one for one in file.notes() if one.type == 1]
    assert [struct.unpack_from(">I", one.data, 32)[0] for one in told] == [1, 2]
    assert all(struct.unpack_from(">33Q", one.data, 112) == (*range(32), NIP) for one in told)
    assert turned(io.BytesIO(found), None) is None


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
