# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Virtual addresses that drgn does not translate
----------------------------------------------

drgn 0.3 follows no page tables of riscv64, so that nothing of a core with physical
addresses alone could be read. VMCOREINFO says where they begin.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Dict, Optional, Tuple

import numpy as np
from drgn import Architecture, FaultError, Program
from drgn.helpers.linux.mm import follow_phys

from .memory import U64

if TYPE_CHECKING:
    from . import Machine

# The RISC-V Instruction Set Manual, volume II, "Sv39: Page-Based 39-bit Virtual-Memory
# System" and the two after it, by the bits of an address.
_LEVELS = {39: 3, 48: 4, 57: 5}
_PAGE_SHIFT, _INDEX_BITS = 12, 9
_VALID, _LEAF = 1, 0b1110  # readable, writable, executable: all zero leads to another table
_NUMBER_SHIFT, _NUMBER_BITS = 10, 44  # of the page frame, in an entry
_CONTIGUOUS = 1 << 63  # Svnapot: the entry is one of several that map a larger page


def add_translation(prog: Program) -> None:
    """
    Let a program read the virtual addresses of a core of riscv64, if drgn does not.

    :param prog: Opened, of physical memory that does not change.
    """
    walker = _walker(prog)
    if walker is None:
        return
    try:
        prog.read(walker.start, 8)
    except FaultError:
        half = 1 << (walker.bits - 1)
        prog.add_memory_segment((1 << 64) - half, half, walker.read, False)


def _walker(prog: Program) -> Optional[_Walker]:
    # Since Linux kernel commit 649d6b1019a2 ("RISC-V: Add arch_crash_save_vmcoreinfo
    # support") (in v5.19), VMCOREINFO has all of this; va_kernel_pa_offset since
    # 3335068f8721 ("riscv: Use PUD/P4D/PGD pages for the linear mapping") (in v6.4).
    if prog.platform is None or prog.platform.arch != Architecture.RISCV64:
        return None
    text = prog["VMCOREINFO"].string_().decode("ascii", "replace")
    said = dict(re.findall(r"^\w+\((\w+)\)=(?:0x)?([0-9a-f]+)$", text, re.MULTILINE))
    try:
        bits, root = int(said["VA_BITS"]), int(said["swapper_pg_dir"], 16)
        offset = int(said["va_kernel_pa_offset"], 16)
    except (LookupError, ValueError):
        return None
    if bits not in _LEVELS:
        return None
    return _Walker(prog, bits, root, root - offset & (1 << 64) - 1)


def physical_address(machine: Machine, address: int) -> int:
    """
    Return where a virtual address of the kernel's lies in physical memory.

    :raises FaultError: if it is not mapped, or its page tables are not in the target.
    :raises LookupError: if nothing tells where these are.
    """
    walker = machine.fact(_walker_of)
    if walker is not None:
        return walker.physical(address)
    try:
        return int(follow_phys(machine.prog["init_mm"].address_of_(), address))
    except NotImplementedError:  # of riscv64, without VMCOREINFO
        raise LookupError("nothing says where the page tables are") from None


def _walker_of(machine: Machine) -> Optional[_Walker]:
    return _walker(machine.prog)


class _Walker:
    # Follows the kernel's page tables, and keeps what it has read of them.

    def __init__(self, prog: Program, bits: int, start: int, root: int) -> None:
        self.bits, self.start = bits, start
        self._prog, self._root = prog, root
        self._tables: Dict[int, U64] = {}

    def read(self, address: int, count: int, offset: int, physical: bool) -> bytes:
        parts = []
        while count:
            place, room = self._translated(address)
            size = min(count, room)
            parts.append(self._prog.read(place, size, True))
            address, count = address + size, count - size
        return b"".join(parts)

    def physical(self, address: int) -> int:
        return self._translated(address)[0]

    def _translated(self, address: int) -> Tuple[int, int]:
        # Where an address lies, and how many bytes of its page follow.
        table = self._root
        for level in reversed(range(_LEVELS[self.bits])):
            shift = _PAGE_SHIFT + level * _INDEX_BITS
            entry = int(self._table(table)[address >> shift & (1 << _INDEX_BITS) - 1])
            number = entry >> _NUMBER_SHIFT & (1 << _NUMBER_BITS) - 1
            if not entry & _VALID:
                break
            if entry & _LEAF:
                if entry & _CONTIGUOUS and number:
                    # The lowest bit that is set says how large the page is.
                    lowest = number & -number
                    number, shift = number - lowest, shift + lowest.bit_length()
                inside = address & (1 << shift) - 1
                page = number >> (shift - _PAGE_SHIFT) << shift
                return page + inside, (1 << shift) - inside
            table = number << _PAGE_SHIFT
        raise FaultError("not mapped", address)

    def _table(self, address: int) -> U64:
        if address not in self._tables:
            data = self._prog.read(address, 1 << _PAGE_SHIFT, True)
            self._tables[address] = np.frombuffer(data, "<u8").astype(np.uint64)
        return self._tables[address]
