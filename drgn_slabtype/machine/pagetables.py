# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Page tables
-----------

Where the architecture has no variable that says where the direct map is, drgn
translates one address in it. Everything else that this package reads is found
by its virtual address and needs no page table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, List, Tuple

import numpy as np
from drgn import FaultError, Platform, Program

from ..regions import Region, region

if TYPE_CHECKING:
    from . import Machine


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the page tables that drgn walks to find the direct map."""
    source = machine.memory
    for physical, size in _walked(machine, machine.prog["saved_command_line"].value_()):
        yield region("page tables", source.phys_to_virt(np.array([physical], np.uint64)), size)


def _walked(machine: Machine, address: int) -> List[Tuple[int, int]]:
    # Let drgn walk and see which physical memory it reads.
    platform = machine.prog.platform
    assert isinstance(platform, Platform)
    seen: List[Tuple[int, int]] = []

    def read(physical: int, size: int, offset: int, is_physical: bool) -> bytes:
        data = machine.memory.read(physical, size, True)
        seen.append((physical, size))
        return data

    walker = Program(platform)
    walker.add_memory_segment(0, 1 << 63, read, True)
    walker.set_linux_kernel_custom(machine.prog["VMCOREINFO"].string_(), False)
    try:
        walker.read(address, 1)
    except FaultError:
        return seen  # the last read, of the address itself, fails in a capture
    return seen[:-1]
