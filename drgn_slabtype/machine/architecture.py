# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Facts of each architecture
--------------------------

What follows from the architecture alone, and where the kernel says it. What a kernel
says of itself counts more; locks have words of their own (``spinwords.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, FrozenSet, Mapping, NamedTuple, Optional, Tuple

import numpy as np
from drgn import Architecture as Name

if TYPE_CHECKING:
    from drgn import Program

    from .memory import U64

_TOP_BYTE = np.uint64(0xFF << 56)
_KERNEL_HALF = np.uint64(1 << 55)


class Architecture(NamedTuple):
    """What is known of one architecture."""

    direct_map: Tuple[int, ...] = ()
    """Where the direct map begins if nothing has moved it."""
    image: Optional[int] = None
    """What is mapped to VMCOREINFO's ``phys_base``, where the kernel's image is mapped so."""
    memory_map: Tuple[int, ...] = ()
    """Where the struct pages begin if nothing has moved them."""
    saved_stack: str = ""
    """Member of ``struct task_struct`` with the stack pointer of a task that does not run."""
    poison: Optional[int] = None
    """CONFIG_ILLEGAL_POINTER_VALUE: added to what stands for a pointer, so that following it
    faults."""
    halves: Tuple[int, ...] = ()
    """Where the kernel's half can begin, if that is below the 128 TiB with the direct map."""
    last: int = (1 << 64) - 1
    """The last address that the kernel can have."""
    user_state: Tuple[str, int] = ("", 0)
    """Register, as drgn names it, and its bit that says that a CPU runs a user's program; for
    architectures where an address does not tell."""
    entries: FrozenSet[str] = frozenset()
    """Where the kernel is entered with the stack pointer of a user."""
    is_signed: bool = False
    """Whether return addresses may be signed, in bits that an address does not use."""
    is_tagged: bool = False
    """Whether KASAN may give pointers a tag in their top byte."""
    shadows: Tuple[int, ...] = ()
    """KASAN_SHADOW_OFFSET of generic KASAN (arch/*/Kconfig), for each width of addresses."""

    def untagged(self, addresses: U64) -> U64:
        """
        Return addresses without the tags of KASAN's tag modes.

        :param addresses: Pointers of any kind; those of users stay as they are.
        """
        if not self.is_tagged:
            return addresses
        kernel = addresses & _KERNEL_HALF != 0
        return np.where(kernel, addresses | _TOP_BYTE, addresses)


_DEAD = 0xDEAD000000000000  # arch/*/Kconfig: ILLEGAL_POINTER_VALUE

_KNOWN: Mapping[Name, Architecture] = {
    # Documentation/arch/x86/x86_64/mm.rst, with four and five levels of page tables.
    Name.X86_64: Architecture(
        direct_map=(0xFFFF888000000000, 0xFF11000000000000),
        image=0xFFFFFFFF80000000,
        memory_map=(0xFFFFEA0000000000, 0xFFD4000000000000),
        saved_stack="thread.sp",
        poison=_DEAD,
        shadows=(0xDFFFFC0000000000,),
    ),
    # arch/arm64/include/asm/memory.h: PAGE_OFFSET for 48 and 52 bits. The memory map
    # begins at VMEMMAP_START, which VMCOREINFO has. Tags: __tag_reset().
    Name.AARCH64: Architecture(
        direct_map=(0xFFFF000000000000, 0xFFF0000000000000),
        saved_stack="thread.cpu_context.sp",
        poison=_DEAD,
        is_signed=True,
        is_tagged=True,
        shadows=(
            0xDFFF800000000000,
            0xDFFFC00000000000,
            0xDFFFFE0000000000,
            0xDFFFFFC000000000,
            0xDFFFFFF800000000,
            # Before "arm64: mm: extend linear region for 52-bit VA configurations" (in v5.11).
            0xDFFFA00000000000,
            0xDFFFD00000000000,
            0xDFFFFE8000000000,
            0xDFFFFFD000000000,
            0xDFFFFFFA00000000,
        ),
    ),
    # arch/s390/boot/startup.c chooses where everything is, below _REGION1_SIZE; the lower
    # half is not the users', who have an address space of their own.
    # arch/s390/include/asm/ptrace.h: PSW_MASK_PSTATE; arch/s390/kernel/entry.S.
    Name.S390X: Architecture(
        saved_stack="thread.ksp",
        poison=_DEAD,
        last=(1 << 53) - 1,
        shadows=(0x1C000000000000, 0x18000000000000),
        user_state=("pswm", 1 << 48),
        entries=frozenset(
            "system_call pgm_check_handler ext_int_handler io_int_handler mcck_int_handler".split()
        ),
    ),
    # arch/powerpc/include/asm/page.h: PAGE_OFFSET; arch/powerpc/Kconfig for the poison.
    Name.PPC64: Architecture(
        direct_map=(0xC000000000000000,),
        saved_stack="thread.ksp",
        poison=0x5DEADBEEF0000000,
        shadows=(0xA80E000000000000,),
    ),
    # arch/riscv/include/asm/page.h: PAGE_OFFSET for five, four and three levels;
    # Documentation/arch/riscv/vm-layout.rst: the memory map lies below the direct map.
    Name.RISCV64: Architecture(
        direct_map=(0xFF60000000000000, 0xFFFFAF8000000000, 0xFFFFFFD600000000),
        halves=(0xFF00000000000000, 0xFFFF800000000000, 0xFFFFFFC000000000),
        saved_stack="thread.sp",
        poison=_DEAD,
        shadows=(0xDFFFFFFF00000000, 0xDFFFFFC800000000),
    ),
}
_OTHER = Architecture()


def of_program(prog: Program) -> Architecture:
    """Return what is known of a program's architecture; of one not listed, nothing."""
    platform = prog.platform
    return _OTHER if platform is None else _KNOWN.get(platform.arch, _OTHER)


def of_name(name: str) -> Architecture:
    """
    Return what is known of an architecture.

    :param name: As drgn names it: ``X86_64``.
    """
    return _KNOWN.get(getattr(Name, name, Name.UNKNOWN), _OTHER)
