# SPDX-License-Identifier: LGPL-2.1-or-later
"""ELF files made of headers and notes, for tests of how targets are opened."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Dict, Optional

from drgn import Program

ET_REL, ET_EXEC, ET_CORE = 1, 2, 4
BUILD_ID = bytes.fromhex("00112233445566778899aabbccddeeff00112233")
OTHER_BUILD_ID = bytes.fromhex("ffeeddccbbaa99887766554433221100ffeeddcc")

VMCOREINFO = {
    "OSRELEASE": "6.1.0-test",
    "BUILD-ID": BUILD_ID.hex(),
    "PAGESIZE": "4096",
    "SYMBOL(swapper_pg_dir)": "ffffffff82a0a000",
    "SYMBOL(_stext)": "ffffffff81000000",
    "NUMBER(phys_base)": "0",
    "KERNELOFFSET": "0",
    "NUMBER(pgtable_l5_enabled)": "0",
}


EM_X86_64, EM_S390 = 62, 22


def note(name: bytes, type: int, data: bytes, order: str = "<") -> bytes:
    """Return one ELF note."""
    name += b"\0"
    header = struct.pack(f"{order}III", len(name), len(data), type)
    return header + name + bytes(-len(name) % 4) + data + bytes(-len(data) % 4)


def elf(
    type: int,
    notes: bytes,
    memory: bytes = b"",
    *,
    machine: int = EM_X86_64,
    order: str = "<",
    virtual: int = 0,
    physical: int = 0,
) -> bytes:
    """Return a 64-bit ELF file with notes and one segment of memory."""
    at = 64 + 2 * 56
    identity = b"\x7fELF\2" + (b"\1" if order == "<" else b"\2") + b"\1"
    fields = (identity, type, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    header = struct.pack(f"{order}16sHHIQQQIHHHHHH", *fields)
    shape = f"{order}IIQQQQQQ"
    sizes, place = (len(memory), len(memory)), at + len(notes)
    headers = struct.pack(shape, 4, 0, at, 0, 0, len(notes), len(notes), 0)
    headers += struct.pack(shape, 1, 4, place, virtual, physical, *sizes, 0)
    return header + headers + notes + memory


def core(vmcoreinfo: Optional[Dict[str, str]] = VMCOREINFO, memory_bytes: int = 1 << 16) -> bytes:
    """Return a QEMU dump of nothing but zeros, with or without VMCOREINFO."""
    notes = note(b"QEMU", 0, bytes(16))
    if vmcoreinfo is not None:
        text = "".join(f"{name}={value}\n" for name, value in vmcoreinfo.items())
        notes += note(b"VMCOREINFO", 0, text.encode())
    return elf(ET_CORE, notes, bytes(memory_bytes))


def vmlinux(build_id: Optional[bytes] = BUILD_ID, type: int = ET_EXEC) -> bytes:
    """Return a vmlinux without debug info."""
    return elf(type, b"" if build_id is None else note(b"GNU", 3, build_id))


def kernel_program(folder: Path) -> Program:
    """Return a kernel's program without debug info: that of :func:`core`, written to a folder."""
    path = folder / "vmcore"
    path.write_bytes(core())
    prog = Program()
    prog.set_core_dump(str(path))
    return prog
