# SPDX-License-Identifier: LGPL-2.1-or-later
"""VMCOREINFO out of the memory of a core that has none among its notes."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import List

import pytest
from drgn import ProgramFlags

from drgn_slabtype import target
from drgn_slabtype.errors import TargetError
from drgn_slabtype.files.ownnote import OwnNote, own_vmcoreinfo
from drgn_slabtype.files.turned import EM_PPC64
from drgn_slabtype.target import TargetOptions, open_target

from ..synthetic.elf_files import EM_S390, EM_X86_64, ET_CORE, ET_EXEC, VMCOREINFO, elf, note

TEXT = "".join(f"{name}={value}\n" for name, value in VMCOREINFO.items()).encode()
OTHER = TEXT.replace(b"6.1.0", b"6.1.1")
PAGE = 4096
LOWCORE = 0xE0C


def machine_core(
    *notes: bytes,
    at: int = 3 * PAGE,
    order: str = "<",
    machine: int = EM_X86_64,
    lowcore: int = 0,
    kind: int = ET_CORE,
    virtual: int = 0,
    physical: int = 0,
    cut: int = 0,
    inside: str = "",
) -> bytes:
    """Return a core of 16 pages; some begin with VMCOREINFO, as a kernel keeps it."""
    memory = bytearray(16 * PAGE)
    struct.pack_into(f"{order}Q", memory, LOWCORE, lowcore)
    for number, data in enumerate(notes):
        own = note(b"VMCOREINFO", 0, data, inside or order)
        start = at + 4 * number * PAGE
        memory[start : start + len(own)] = own
    cpu = note(b"CORE", 1, bytes(336), order)
    return elf(
        kind,
        cpu,
        bytes(memory[: len(memory) - cut]),
        machine=machine,
        order=order,
        virtual=virtual,
        physical=physical,
    )


def found(core: bytes) -> List[bytes]:
    """Return what is found in a file."""
    return [one.data for one in own_vmcoreinfo(io.BytesIO(core))]


@pytest.mark.parametrize("order", ["<", ">"])
def test_note_at_the_beginning_of_a_page(order: str) -> None:
    assert found(machine_core(TEXT, order=order)) == [TEXT]


def test_note_elsewhere_in_a_page_is_none() -> None:
    assert found(machine_core(TEXT, at=3 * PAGE + 64)) == []


def test_note_that_stands_twice_is_one() -> None:
    assert found(machine_core(TEXT, TEXT)) == [TEXT]


def test_lowcore_says_which_it_is() -> None:
    core = machine_core(TEXT, OTHER, order=">", machine=EM_S390, lowcore=7 * PAGE)
    assert found(core) == [OTHER]


@pytest.mark.parametrize("lowcore", [0, 5 * PAGE, 1 << 60])
def test_lowcore_that_leads_nowhere_is_not_believed(lowcore: int) -> None:
    core = machine_core(TEXT, order=">", machine=EM_S390, lowcore=lowcore)
    assert found(core) == [TEXT]


def test_size_that_cannot_be_is_no_note() -> None:
    core = bytearray(machine_core(TEXT))
    at = core.index(b"VMCOREINFO\0\0OSRELEASE") - 8
    core[at : at + 4] = struct.pack("<I", 1 << 20)
    assert found(bytes(core)) == []


def test_note_that_is_cut_off_is_none() -> None:
    assert found(machine_core(TEXT, at=15 * PAGE, cut=PAGE - 40)) == []


@pytest.mark.parametrize("kind", ["process", "program", "text"])
def test_only_cores_of_machines_are_searched(kind: str) -> None:
    cores = {
        "process": machine_core(TEXT, virtual=0x400000),
        "program": machine_core(TEXT, kind=ET_EXEC),
        "text": b"VMCOREINFO" * 100,
    }
    assert found(cores[kind]) == []


def test_core_that_has_its_physical_addresses_twice_is_searched() -> None:
    assert found(machine_core(TEXT, virtual=1 << 31, physical=1 << 31)) == [TEXT]


def test_only_ppc64_runs_in_both_orders() -> None:
    cores = {
        machine: io.BytesIO(machine_core(TEXT, order=">", inside="<", machine=machine))
        for machine in (EM_PPC64, EM_S390)
    }
    assert own_vmcoreinfo(cores[EM_PPC64]) == [OwnNote(TEXT, "<")]
    assert own_vmcoreinfo(cores[EM_S390]) == []


def test_core_with_a_note_of_its_own_is_not_searched() -> None:
    own = note(b"VMCOREINFO", 0, TEXT)
    assert found(elf(ET_CORE, own, note(b"VMCOREINFO", 0, OTHER))) == []


def test_program_reads_by_physical_address_what_begins_at_0(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(machine_core(TEXT))
    with pytest.raises(TargetError, match="no debug info for Linux 6"):
        open_target(TargetOptions(core=str(path), default_symbols=False))
    prog = target._program(TargetOptions(core=str(path)))
    target._open_core(prog, str(path))
    assert prog.flags & ProgramFlags.IS_LINUX_KERNEL
    assert prog.read(3 * PAGE + 12, 10, True) == b"VMCOREINFO"


def test_two_notes_that_differ_are_left_to_the_user(tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(machine_core(TEXT, OTHER))
    with pytest.raises(TargetError, match="2 in its memory that differ: give the right one"):
        open_target(TargetOptions(core=str(path), default_symbols=False))
