# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cores of guests and the numbers in them, in the byte order of the guest."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import List

import pytest
from lab import oracle
from lab.elfcore import Core
from lab.errors import GuestError

from ..synthetic.elf_files import EM_S390, EM_X86_64, ET_CORE, elf, note

FLAGS = [1 << 7, 0, 1 << 20]
VERSION = b"Linux version 6.12\n"
orders = pytest.mark.parametrize("order", ["<", ">"])


def guest(order: str, step: int, magic: bytes = b"SLABTYPE-ORACLE1", wrong: int = 0) -> bytes:
    """Return a core with an oracle: its header, a page of numbers, and the data."""
    words = struct.pack(f"{order}{len(FLAGS)}Q", *FLAGS)
    data = b"proc/version %d\n%s" % (len(VERSION), VERSION)
    data += b"proc/kpageflags %d\n%s" % (len(words), words)
    length = len(data)
    data += bytes(-length % step)
    total = sum(struct.unpack(f"{order}{len(data) // 8}Q", data)) + wrong
    pages: List[bytes] = [
        b"",
        struct.pack(
            f"{order}16sQQQQQQ", magic, length, total % (1 << 64), 2, len(data) // step, 1, 2
        ),
        struct.pack(f"{order}Q", 3),
        data,
    ]
    memory = b"".join(page.ljust(step, b"\0") for page in pages)
    machine = EM_S390 if order == ">" else EM_X86_64
    notes = note(b"CORE", 1, bytes(8), order)
    return elf(ET_CORE, notes, memory, machine=machine, order=order)


@orders
@pytest.mark.parametrize("step", [4096, 16384])
def test_numbers_are_read_in_the_order_of_the_guest(tmp_path: Path, order: str, step: int) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(guest(order, step))
    with Core(path) as core:
        assert core.order == order
        assert [one.name for one in core.notes()] == ["CORE"]
        files = oracle.read_guest(core, f"pfn=1 bytes={step} tries=2 changed=-", order)
    oracle.save(files, tmp_path / "oracle")
    assert (tmp_path / "oracle" / "version").read_bytes() == VERSION
    # Little-endian, whatever the guest is.
    assert list(oracle.Oracle(tmp_path / "oracle").kpageflags) == FLAGS


@orders
def test_damaged_numbers_are_refused(tmp_path: Path, order: str) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(guest(order, 4096, wrong=1))
    with Core(path) as core, pytest.raises(GuestError, match="its sum differs"):
        oracle.read_guest(core, "pfn=1 bytes=4096 tries=2 changed=-", order)
    path.write_bytes(guest(order, 4096, magic=b"something else.."))
    with Core(path) as core, pytest.raises(GuestError, match="no oracle where"):
        oracle.read_guest(core, "pfn=1 bytes=4096 tries=2 changed=-", order)
