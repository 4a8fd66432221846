# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where the direct map is
-----------------------

All of physical memory is mapped in one piece, and nearly all that is read here lies in
it. Where that begins, several variables and pointers tell.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Dict, List, Optional

from drgn import FaultError, Program, ProgramFlags
from drgn.helpers.linux.mm import follow_phys, phys_to_virt

from ..files.elf import PT_LOAD, ElfFile, Segment
from ..pagetype.sources import vmcoreinfo
from .architecture import of_program
from .tags import untagged_pointer

LINEAR_BYTES = 1 << 46
"""No direct map is larger; vmalloc, the memory map and the kernel's image lie above it."""
_GIB = 30  # as a power of two
_MOST_GIBS = 64  # of memory in front of it
_PREV = 8  # bytes into a struct list_head
# One end of a list may be damaged: of each, the pointer to it and the word that leads back.
_ENDS = (("next", _PREV), ("prev", 0))


def reads_physical(prog: Program, linear_base: int, mask: int) -> bool:
    """Return whether memory in the direct map can be read by its physical address, too."""
    # Any object in it will do; the first slab cache is one.
    try:
        address = untagged_pointer(prog, prog["slab_caches"].next)
        physical = (address - linear_base) & mask
        return prog.read(physical, 64, True) == prog.read(address, 64)
    except (FaultError, LookupError, OverflowError, ValueError):
        return False


def place_direct_map(prog: Program, linear_base: int) -> None:
    """Put the direct map where it belongs, if page tables that say where are not there."""
    with suppress(FaultError, LookupError, OverflowError, ValueError):
        first = untagged_pointer(prog, prog["slab_caches"].next)
        # As far as there is memory: what lies behind it may be mapped to something else.
        size = int(prog["max_pfn"]) * int(prog["PAGE_SIZE"])
        if prog.flags & ProgramFlags.IS_LIVE or _is_there(prog, first, False):
            return
        if 0 < size <= LINEAR_BYTES and _is_borne_out(prog, linear_base):
            _map(prog, linear_base, 0, size)


def place_image(prog: Program) -> None:
    """Put the kernel's image where it belongs, if page tables that say where are not there."""
    image = of_program(prog).image
    if image is None or prog.flags & ProgramFlags.IS_LIVE:
        return
    with suppress(FaultError, LookupError, OverflowError, ValueError):
        head = prog["slab_caches"].address_
        if head is None or _is_there(prog, head, False):
            return
        # Documentation/admin-guide/kdump/vmcoreinfo.rst
        told = vmcoreinfo(prog)
        physical = int(told["NUMBER(phys_base)"])
        size = int(told["NUMBER(KERNEL_IMAGE_SIZE)"])
        if head - image in range(size) and _is_there(prog, head - image + physical, True):
            _map(prog, image, physical, size)


def _map(prog: Program, virtual: int, physical: int, size: int) -> None:
    def read(address: int, count: int, offset: int, is_physical: bool) -> bytes:
        return prog.read(address - virtual + physical, count, True)

    prog.add_memory_segment(virtual, size, read, False)


def _is_there(prog: Program, address: int, physical: bool) -> bool:
    try:
        prog.read(address, 1, physical)
    except FaultError:
        return False
    return True


def linear_base(prog: Program) -> int:
    """
    Return the virtual address of physical address 0 in the direct map.

    :raises FaultError: if nothing tells it.
    """
    # drgn takes it from one pointer, saved_command_line, and so believes a
    # damaged one. Others that lead into the direct map say the same.
    try:
        told: Optional[int] = phys_to_virt(prog, 0).value_()
    except Exception:  # drgn's error has no class of its own
        told = None
    witnesses = _mapped(prog) + _borne_out(prog)
    if told is not None and told in witnesses:
        return told
    if told is None and not witnesses:
        witnesses = _around_caches(prog)
    for name in ("kmem_cache", "slab_caches", "mem_section"):
        try:
            variable = prog[name]
            pointer = variable.next if name == "slab_caches" else variable
            pointer = untagged_pointer(prog, pointer)
            if _is_static(prog, pointer):
                continue
            physical = follow_phys(prog["init_mm"].address_of_(), pointer).value_()
        except Exception:  # not there, not mapped, or page tables that make no sense
            continue
        if pointer >= physical and (pointer - physical) % (1 << 21) == 0:
            witnesses.append(pointer - physical)
    if told is not None and (told in witnesses or not witnesses):
        return told
    if not witnesses:
        raise _nowhere(prog)
    return max(witnesses, key=witnesses.count)


def _nowhere(prog: Program) -> FaultError:
    told = "the direct map is nowhere to be found"
    try:
        prog["slab_caches"].next.value_()
    except FaultError as error:
        return FaultError(f"{told}, and neither is slab_caches: {error}", error.address)
    except LookupError:
        pass
    return FaultError(told, 0)


def _borne_out(prog: Program) -> List[int]:
    # Where x86-64 and riscv64 say that it is, or an architecture has it unless it was moved,
    # if a slab cache can be read by the physical address that follows, or what is
    # there leads back to the head of the list.
    bases = list(of_program(prog).direct_map)
    with suppress(FaultError, LookupError):
        bases.insert(0, int(prog["page_offset_base"]))
    # Since Linux kernel commit 658e2c5125bb ("riscv: Introduce structure that group all
    # variables regarding kernel mapping") (in v5.14).
    with suppress(AttributeError, FaultError, LookupError):
        bases.insert(0, int(prog["kernel_map"].va_pa_offset))
    return [base for base in bases for end in _ENDS if _leads_back(prog, base, *end)]


def _around_caches(prog: Program) -> List[int]:
    # x86-64 moves it by multiples of 1 GiB: such a one in front of the first slab cache.
    with suppress(FaultError, LookupError):
        first = untagged_pointer(prog, prog["slab_caches"].next) >> _GIB << _GIB
        bases = (first - (number << _GIB) for number in range(_MOST_GIBS))
        return [base for base in bases if base > 0 and _leads_back(prog, base, "next", _PREV)][:1]
    return []


def _is_borne_out(prog: Program, base: int) -> bool:
    return any(_leads_back(prog, base, *end) for end in _ENDS)


def _leads_back(prog: Program, base: int, name: str, back: int) -> bool:
    try:
        head = prog["slab_caches"]
        address = untagged_pointer(prog, head.member_(name))
        behind = prog.read_u64(address + back - base, True)
        if behind != head.address_ and prog.read_u64(address + back) != behind:
            return False
        return not _is_static(prog, address)
    except (FaultError, LookupError, OverflowError, ValueError):
        return False


def _is_static(prog: Program, pointer: int) -> bool:
    # SLAB never moves its first cache out of the kernel's image.
    try:
        prog.symbol(pointer)
    except LookupError:
        return False
    return True


def _mapped(prog: Program) -> List[int]:
    # Where the segments of an ELF core say both addresses, the greatest of one
    # kind is the direct map.
    sizes: Dict[int, int] = {}
    for segment in _segments(prog):
        # QEMU writes the physical address twice where it does not follow page tables.
        base = segment.address - segment.physical
        if segment.address and base and segment.physical not in (-1, (1 << 64) - 1):
            sizes[base] = sizes.get(base, 0) + segment.memory_size
    return [max(sizes, key=lambda base: sizes[base])] if sizes else []


def _segments(prog: Program) -> List[Segment]:
    if prog.core_dump_path is None:
        return []
    try:
        with open(prog.core_dump_path, "rb") as file:
            return [one for one in ElfFile(file).segments if one.type == PT_LOAD]
    except (OSError, ValueError):
        return []
