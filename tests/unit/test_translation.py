# SPDX-License-Identifier: LGPL-2.1-or-later
"""Page tables of riscv64, which drgn does not follow."""

from __future__ import annotations

import struct
from typing import Dict, cast

import pytest
from drgn import Architecture, FaultError, Platform, Program

from drgn_slabtype.machine import Machine
from drgn_slabtype.machine.facts import Found
from drgn_slabtype.machine.translation import add_translation, physical_address

PAGE = 4096
START = 0x80000000  # of physical memory
IMAGE = 0xFFFFFFFF80000000  # KERNEL_LINK_ADDR
LEVELS = {39: 3, 48: 4, 57: 5}
TABLE, LEAF, CONTIGUOUS = 0b1, 0b1111, 1 << 63


class Memory:
    """Physical memory: page tables from its first page, and what they lead to."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.data = bytearray(64 * PAGE)
        self.reads = 0
        self._tables: Dict[int, int] = {}
        self._last = 0

    def map(self, address: int, page: int, *, level: int = 0, flags: int = LEAF) -> None:
        """
        Map an address.

        :param page: Number of the page that an entry is to name, from the first.
        :param level: Of the entry: 0 for 4 KiB, 1 for 2 MiB, …
        """
        table = 0
        for at in reversed(range(level, LEVELS[self.bits])):
            place = table * PAGE + 8 * (address >> (12 + 9 * at) & 511)
            if at == level:
                self._put(place, page, flags)
            elif place in self._tables:
                table = self._tables[place]
            else:
                self._last += 1
                self._put(place, self._last, TABLE)
                table = self._tables[place] = self._last

    def _put(self, place: int, page: int, flags: int) -> None:
        number = (START // PAGE + page) << 10 if page >= 0 else 0
        struct.pack_into("<Q", self.data, place, number | flags)

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        """Read it, for a program."""
        self.reads += 1
        return bytes(self.data[offset : offset + count])

    def program(self, arch: Architecture = Architecture.RISCV64, more: str = "") -> Program:
        """Return a program with this memory."""
        prog = Program(Platform(arch))
        prog.add_memory_segment(START, len(self.data), self.read, True)
        text = (
            "OSRELEASE=6.12.0-test\nPAGESIZE=4096\n"
            f"NUMBER(VA_BITS)={self.bits}\nSYMBOL(swapper_pg_dir)={IMAGE:x}\n"
            f"NUMBER(va_kernel_pa_offset)=0x{IMAGE - START:x}\n{more}"
        )
        prog.set_linux_kernel_custom(text.encode(), False)
        return prog


@pytest.fixture(params=LEVELS, ids=lambda bits: f"Sv{bits}")
def memory(request: pytest.FixtureRequest) -> Memory:
    """Return memory whose root table is mapped."""
    found = Memory(request.param)
    found.map(IMAGE, 0)
    found.data[32 * PAGE : 34 * PAGE] = bytes(range(256)) * 32
    return found


def test_page(memory: Memory) -> None:
    memory.map(IMAGE + 5 * PAGE, 33)
    prog = memory.program()
    with pytest.raises(FaultError):
        prog.read(IMAGE + 5 * PAGE + 17, 4)
    add_translation(prog)
    assert prog.read(IMAGE + 5 * PAGE + 17, 4) == bytes([17, 18, 19, 20])
    before = memory.reads
    prog.read(IMAGE + 5 * PAGE, 8)
    assert memory.reads == before + 1  # the tables are known


def test_read_goes_on_in_the_page_that_is_mapped_next(memory: Memory) -> None:
    memory.map(IMAGE + 5 * PAGE, 33)
    memory.map(IMAGE + 6 * PAGE, 32)
    prog = memory.program()
    add_translation(prog)
    assert prog.read(IMAGE + 6 * PAGE - 2, 4) == bytes([254, 255, 0, 1])


def test_page_of_2_mib(memory: Memory) -> None:
    low = 1 << (memory.bits - 1)
    address = (1 << 64) - low  # the first of the kernel's half
    memory.map(address, 0, level=1)
    prog = memory.program()
    add_translation(prog)
    assert prog.read(address + 32 * PAGE + 3, 2) == bytes([3, 4])


def test_entry_of_16_pages(memory: Memory) -> None:
    for number in range(16):
        memory.map(IMAGE + (16 + number) * PAGE, 32 | 8, flags=LEAF | CONTIGUOUS)
    prog = memory.program()
    add_translation(prog)
    assert prog.read(IMAGE + 17 * PAGE + 9, 2) == bytes([9, 10])


class _Machine(Found):
    # As much of one as is asked for.
    is_live = False

    def __init__(self, prog: Program) -> None:
        super().__init__()
        self.prog = prog


def _physical(prog: Program, address: int) -> int:
    return physical_address(cast(Machine, _Machine(prog)), address)


def test_physical_address(memory: Memory) -> None:
    memory.map(IMAGE + 5 * PAGE, 33)
    prog = memory.program()
    assert _physical(prog, IMAGE + 5 * PAGE + 17) == START + 33 * PAGE + 17
    with pytest.raises(FaultError, match="not mapped"):
        _physical(prog, IMAGE + 6 * PAGE)


def test_physical_address_where_nothing_says_how(memory: Memory) -> None:
    prog = memory.program(more="NUMBER(VA_BITS)=40\n")
    with pytest.raises(LookupError):
        _physical(prog, IMAGE)


def test_what_is_not_mapped_faults(memory: Memory) -> None:
    memory.map(IMAGE + 5 * PAGE, 33, flags=LEAF & ~1)
    prog = memory.program()
    add_translation(prog)
    for address in (IMAGE + 5 * PAGE, IMAGE + (1 << 30), PAGE):
        with pytest.raises(FaultError):
            prog.read(address, 8)


def test_tables_that_lead_out_of_memory_fault(memory: Memory) -> None:
    memory.map(IMAGE + (1 << 30), 1 << 20, level=1, flags=TABLE)
    prog = memory.program()
    add_translation(prog)
    with pytest.raises(FaultError):
        prog.read(IMAGE + (1 << 30), 8)


@pytest.mark.parametrize("what", ["VA_BITS", "va_kernel_pa_offset"])
def test_without_the_numbers_nothing_is_added(what: str) -> None:
    memory = Memory(57)
    memory.map(IMAGE, 0)
    prog = Program(Platform(Architecture.RISCV64))
    text = memory.program()["VMCOREINFO"].string_().decode()
    kept = "".join(line + "\n" for line in text.splitlines() if what not in line)
    prog.set_linux_kernel_custom(kept.encode(), False)
    add_translation(prog)
    with pytest.raises(FaultError):
        prog.read(IMAGE, 8)


def test_other_architectures_are_left_to_drgn() -> None:
    memory = Memory(48)
    memory.map(IMAGE, 0)
    prog = memory.program(Architecture.S390X)
    add_translation(prog)
    with pytest.raises(FaultError):
        prog.read(IMAGE, 8)
