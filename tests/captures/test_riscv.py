# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is another way round on riscv64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drgn import offsetof, sizeof

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine

_CAPTURE = Path(__file__).parent / "debian-6.12-riscv64-plain" / "capture.xz"
_PAGES = 1 << 15  # of a section


def test_what_lies_before_the_memory_map_is_no_struct_page() -> None:
    prog = open_capture(str(_CAPTURE))
    # Memory begins at 2 GiB. Where lower pages would have their struct pages, devices are.
    layout = prog.type("struct page")
    page = bytearray(sizeof(layout))
    at = offsetof(layout, "_mapcount")
    page[at : at + 4] = (0xF5000000).to_bytes(4, "little")
    other = bytes(page) * _PAGES
    start = int(prog["vmemmap"].value_())
    assert int(prog["min_low_pfn"]) >= _PAGES

    def read(address: int, count: int, offset: int, physical: bool) -> bytes:
        return other[offset : offset + count]

    prog.add_memory_segment(start, len(other), read, False)
    report = check(prog)
    assert (report.findings, report.unavailable) == ([], [])


def test_memory_map_below_the_direct_map_is_the_kernels() -> None:
    memory = machine(open_capture(str(_CAPTURE))).memory
    page = int(memory.prog["vmemmap"].value_())
    assert page < memory.linear_base >> 47 << 47
    told = memory.is_kernel_address(np.array([page, 0x7FFF00000000, 1 << 62], np.uint64))
    assert told.tolist() == [True, False, False]
