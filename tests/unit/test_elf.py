# SPDX-License-Identifier: LGPL-2.1-or-later
"""Program headers of cores: what is in the file, and what the dumper left out."""

from __future__ import annotations

import io
import struct

import pytest

from drgn_slabtype.files.elf import ElfFile

_PT_LOAD = 1


@pytest.mark.parametrize("is_64_bit", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_memory_without_bytes_was_left_out(is_64_bit: bool, order: str) -> None:
    offset, address, physical, in_file, in_memory = 0x200, 0xC0001000, 0x1000, 0x3000, 0x8000
    where = (offset, address, physical)
    if is_64_bit:
        header = struct.pack(order + "HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
        loads = [
            struct.pack(order + "IIQQQQQQ", _PT_LOAD, 0, *where, size, in_memory, 0)
            for size in (in_file, in_memory)
        ]
    else:
        header = struct.pack(order + "HHIIIIIHHHHHH", 4, 3, 1, 0, 52, 0, 0, 52, 32, 2, 0, 0, 0)
        loads = [
            struct.pack(order + "IIIIIIII", _PT_LOAD, *where, size, in_memory, 0, 0)
            for size in (in_file, in_memory)
        ]
    ident = bytes([0x7F, *b"ELF", 2 if is_64_bit else 1, 1 if order == "<" else 2, 1])
    file = ElfFile(io.BytesIO(ident.ljust(16, b"\0") + header + b"".join(loads)))
    (segment,) = file.left_out()
    assert segment.address == address + in_file
    assert segment.physical == physical + in_file
    assert segment.memory_size == in_memory - in_file
