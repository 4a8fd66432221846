# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrate types of blocks of pages, on made-up kernels of both layouts of their bits."""

from __future__ import annotations

import struct
from typing import Dict

import pytest
from drgn import FaultError, Object

from drgn_slabtype.machine import machine
from drgn_slabtype.pages.blocks import migrate_type, pageblock_order
from tests.direct_map import make_mapped_kernel
from tests.synthetic.kernel import Kernel

SECTIONS, USAGE = 0xFFFF888000100000, 0xFFFF888000110000
TYPES = {"MIGRATE_UNMOVABLE": 0, "MIGRATE_MOVABLE": 1, "MIGRATE_CMA": 4, "MIGRATE_ISOLATE": 5}
OLD = {"PB_migrate": 0, "PB_migrate_end": 2, "PB_migrate_skip": 3, "NR_PAGEBLOCK_BITS": 4}
NEW = {"PB_migrate_0": 0, "PB_compact_skip": 3, "PB_migrate_isolate": 4, "__NR_PAGEBLOCK_BITS": 5}


def make_kernel(bits: Dict[str, int]) -> Kernel:
    """Return a kernel with one section of 64 blocks."""
    kernel = make_mapped_kernel()
    prog, t, objects = kernel.prog, kernel.types, kernel.objects
    kernel.add_memory(SECTIONS, 0x1000)
    kernel.add_memory(USAGE, 0x1000)
    t.enum("migratetype", TYPES)
    t.enum("pageblock_bits", bits)
    t.struct(
        "mem_section_usage", ("subsection_map", t.ulong), ("pageblock_flags", t.array(t.ulong, 0))
    )
    section = t.struct("mem_section", ("section_mem_map", t.ulong), ("usage", t.pointer))
    objects["mem_section"] = Object(prog, t.array(section, 1), address=SECTIONS)
    objects["SECTIONS_PER_ROOT"] = Object(prog, t.ulong, value=1)
    objects["SECTION_SIZE_BITS"] = Object(prog, t.int, value=27)
    kernel.write(SECTIONS, struct.pack("<QQ", 0, USAGE))
    return kernel


@pytest.mark.parametrize(("bits", "width"), [(OLD, 4), (NEW, 8)])
def test_each_block_has_bits_of_its_own(bits: Dict[str, int], width: int) -> None:
    kernel = make_kernel(bits)
    # Every block is movable and skipped by compaction, but for block 19.
    flags = sum((4 if block == 19 else 1 | 8) << width * block for block in range(64))
    kernel.write(USAGE + 8, flags.to_bytes(64 * width // 8, "little"))
    assert pageblock_order(machine(kernel.prog)) == 9
    assert [migrate_type(machine(kernel.prog), pfn) for pfn in (0, 19 * 512 - 1, 20 * 512)] == [
        1,
        1,
        1,
    ]
    assert [migrate_type(machine(kernel.prog), pfn) for pfn in (19 * 512, 20 * 512 - 1)] == [4, 4]


def test_isolated_block_is_of_no_other_type() -> None:
    kernel = make_kernel(NEW)
    kernel.write(USAGE + 8, bytes([4 | 1 << 4]))
    assert migrate_type(machine(kernel.prog), 0) == TYPES["MIGRATE_ISOLATE"]


def test_section_that_is_not_there() -> None:
    kernel = make_kernel(OLD)
    kernel.write(SECTIONS, bytes(16))
    kernel.add_memory(0, 0x1000)  # as in QEMU's dumps, where NULL does not fault
    with pytest.raises(FaultError):
        migrate_type(machine(kernel.prog), 0)
