# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Bulk reads
----------

Large blocks of target memory as numpy arrays, each with a mask of what could
not be read. Addresses in the direct map are read by physical address where the
target allows it, which saves drgn the page-table walk.
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from typing import Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt
from drgn import FaultError, PlatformFlags, Program, ProgramFlags
from drgn.helpers.linux.mm import follow_phys, phys_to_virt

from ..arguments import platform_of
from ..files.elf import PT_LOAD, ElfFile, Segment
from ..files.hidden import hide
from ..signals import TIME, Interrupted, poll
from .architecture import of_program
from .pieces import FILE_GAP_BYTES, GAP_BYTES, Keep, Rows, cut, read_blocks, read_pieces
from .tags import Tags, untagged_pointer

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LINEAR_BYTES = 1 << 46
"""No direct map is larger; vmalloc, the memory map and the kernel's image lie above it."""
_GIB = 30  # as a power of two
_MOST_GIBS = 64  # of memory in front of it
_PREV = 8  # bytes into a struct list_head


class Gathered(NamedTuple):
    """Fixed-width pieces of memory."""

    bytes: U8
    """Shape (n, width); rows that could not be read are zero."""
    ok: Bools
    """Shape (n,): which rows were read."""


class Words(NamedTuple):
    """The same words of many pieces of memory."""

    words: U64
    """Shape (n, k), in host byte order; rows that could not be read are zero."""
    ok: Bools
    """Shape (n,): which rows were read."""


class Spent(NamedTuple):
    """What reading has cost."""

    reads: int
    bytes: int

    def since(self, before: Spent) -> Spent:
        """Return what was spent after an earlier moment."""
        return Spent(self.reads - before.reads, self.bytes - before.bytes)


class Memory:
    """
    Bulk access to the memory of one program.

    :param prog: A Linux kernel program, 32 or 64 bit, either byte order.
    :param is_capture: Whether the core is one of ours, which leaves nothing out of itself.
    """

    def __init__(self, prog: Program, is_capture: bool = False) -> None:
        platform = platform_of(prog)
        self.prog = prog
        self._reads = self._bytes = 0
        self._deadline: Optional[float] = None
        self.byteorder = "<" if platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"
        """``<`` or ``>``, as numpy spells it."""
        self.word_size = 8 if platform.flags & PlatformFlags.IS_64_BIT else 4
        """Bytes of an ``unsigned long``."""
        self.word = np.dtype(f"{self.byteorder}u{self.word_size}")
        """dtype of an ``unsigned long`` in the target."""
        self.page_size = int(prog["PAGE_SIZE"])
        self.page_shift = self.page_size.bit_length() - 1
        self.linear_base = _linear_base(prog)
        """Virtual address of physical address 0 in the direct map."""
        self.is_live = bool(prog.flags & ProgramFlags.IS_LIVE)
        self.address_mask = (1 << 8 * self.word_size) - 1
        """All bits of an address."""
        # The kernel's half begins no lower than the 128 TiB (of 64-bit address
        # space) that hold the direct map, unless the architecture says so.
        architecture = of_program(prog)
        halves = [half for half in architecture.halves if half <= self.linear_base]
        half = max(halves, default=self.linear_base >> 47 << 47)
        self._lowest = max(self.page_size, half)
        left_out = None if is_capture else _hide_left_out(prog)
        self._last = np.uint64(min(architecture.last, self.address_mask))
        self.zero_filled_pages = (left_out or 0) // self.page_size
        """Pages that the dumper left out of the core, which would read as zeroes."""
        is_whole = left_out == 0 and not self.is_live
        self._gap_bytes = FILE_GAP_BYTES if is_whole else GAP_BYTES
        self._physical = _reads_physical(prog, self.linear_base, self.address_mask)
        self.tags = Tags(prog, self.linear_base)
        """The tags of KASAN, which what is read here is without."""

    def is_kernel_address(self, addresses: U64) -> Bools:
        """
        Return which addresses can be pointers into the kernel's own half.

        QEMU's dumps map small virtual addresses onto physical memory, so that
        following NULL does not fault; ask here first.

        :param addresses: Virtual addresses.
        """
        inside: Bools = addresses >= np.uint64(self._lowest)
        return inside & (addresses <= self._last)

    def in_direct_map(self, addresses: U64) -> Bools:
        """Return which addresses lie where physical memory is mapped as a whole."""
        inside: Bools = addresses - np.uint64(self.linear_base) < np.uint64(LINEAR_BYTES)
        return inside

    def phys_to_virt(self, physical: U64) -> U64:
        """Return the direct-map addresses of physical addresses."""
        return physical + np.uint64(self.linear_base)

    def read(self, address: int, size: int, physical: bool = False) -> bytes:
        """
        Read *size* bytes at a virtual address, or a physical one.

        :raises FaultError: if they are not in the target.
        """
        poll()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise Interrupted(TIME)
        self._reads += 1
        data = self.prog.read(address, size, physical)
        self._bytes += size
        return data

    def read_word(self, address: int) -> int:
        """
        Read an ``unsigned long``.

        :raises FaultError: if it is not in the target.
        """
        data = self.read(address, self.word_size)
        word = int.from_bytes(data, "little" if self.byteorder == "<" else "big")
        return self.tags.removed_from(word) if self.tags.used else word

    @property
    def spent(self) -> Spent:
        """What reading has cost so far."""
        return Spent(self._reads, self._bytes)

    def count(self, spent: Spent) -> None:
        """Count what another process has read for this one."""
        self._reads, self._bytes = self._reads + spent.reads, self._bytes + spent.bytes

    @contextmanager
    def until(self, deadline: Optional[float]) -> Iterator[None]:
        """
        Bound how long memory is read.

        :param deadline: Of :func:`time.monotonic`: reads after it raise
            :class:`~drgn_slabtype.signals.Interrupted`.
        """
        before, self._deadline = self._deadline, deadline
        try:
            yield
        finally:
            self._deadline = before

    def blocks(self, start: int, end: int, step: int) -> Iterator[Tuple[int, U8]]:
        """
        Read [*start*, *end*) piece by piece.

        Pieces are at most *step* bytes; what cannot be read is left out, by page.
        Let go of a piece before asking for the next one, and that is read into
        the same memory, which the processor still has in its cache.

        :return: Iterator of (virtual address, bytes).
        """
        yield from self.tags.without(read_blocks(self.read, start, end, step, self.page_size))

    def linear_blocks(self, start: int, end: int, step: int) -> Iterator[Tuple[int, U8]]:
        """Read addresses of the direct map as :meth:`blocks` does, and faster."""
        read = self._read_linear
        yield from self.tags.without(read_blocks(read, start, end, step, self.page_size))

    def gather(self, addresses: U64, width: int) -> Gathered:
        """
        Read *width* bytes at each of many virtual addresses.

        Neighbours are read together. NULL and user addresses are not followed.

        :param addresses: Shape (n,).
        """
        addresses = np.asarray(addresses, np.uint64)
        out = np.zeros((len(addresses), width), np.uint8)

        def keep(data: bytes, offsets: Rows, rows: Rows) -> None:
            out[rows] = cut(data, offsets, width)

        ok = self.each(addresses, width, keep)
        if self.tags.used:
            self.tags.remove(out, addresses)
        return Gathered(out, ok)

    def gather_words(self, addresses: U64, width: int, at: I64) -> Words:
        """
        Read the same words of many pieces of memory.

        What lies between the words is read with them, and nothing is made of it.

        :param addresses: Shape (n,): where each piece begins; multiples of a word's size.
        :param width: Bytes of each piece.
        :param at: Shape (k,): which words of a piece, counted from its first.
        """
        out = np.zeros((len(addresses), len(at)), np.uint64)

        def keep(data: bytes, offsets: Rows, rows: Rows) -> None:
            words = np.frombuffer(data, self.word, len(data) // self.word_size)
            out[rows] = words.take((offsets // self.word_size)[:, None] + at)

        ok = self.each(addresses, width, keep)
        return Words(self.tags.removed(out) if self.tags.used else out, ok)

    def each(self, addresses: U64, width: Union[int, U64], keep: Keep) -> Bools:
        """
        Read pieces of memory, neighbours together, and return which of them could be read.

        :param width: Bytes of each.
        :param keep: Takes what it wants of them, in the order of their addresses.
        """
        ends = _last_bytes(addresses, width)
        ok = self._holds(addresses, ends)
        rows = ok.nonzero()[0]
        ordered, last = addresses[rows], ends[rows]
        if (ordered[1:] < ordered[:-1]).any():
            order = np.argsort(ordered, kind="stable")
            ordered, last, rows = ordered[order], last[order], rows[order]
        for lost in read_pieces(self._read_linear, ordered, last, rows, keep, self._gap_bytes):
            ok[lost] = False
        return ok

    def reachable(self, addresses: U64, width: Union[int, U64]) -> Bools:
        """Return which pieces of so many bytes can be the kernel's, and have an end."""
        return self._holds(addresses, _last_bytes(addresses, width))

    def _holds(self, addresses: U64, last: U64) -> Bools:
        return self.is_kernel_address(addresses) & (last >= addresses)

    def _read_linear(self, address: int, size: int) -> bytes:
        physical = (address - self.linear_base) & self.address_mask
        if self._physical and physical < LINEAR_BYTES:
            try:
                return self.read(physical, size, True)
            except FaultError:
                pass
        return self.read(address, size)


def _last_bytes(addresses: U64, width: Union[int, U64]) -> U64:
    return addresses + np.asarray(width, np.uint64) - np.uint64(1)


def _reads_physical(prog: Program, linear_base: int, mask: int) -> bool:
    # Any object in the direct map will do; the first slab cache is one.
    try:
        address = untagged_pointer(prog, prog["slab_caches"].next)
        physical = (address - linear_base) & mask
        return prog.read(physical, 64, True) == prog.read(address, 64)
    except (FaultError, LookupError, OverflowError, ValueError):
        return False


def _linear_base(prog: Program) -> int:
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
        raise FaultError("the direct map is nowhere to be found", 0)
    return max(witnesses, key=witnesses.count)


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
    # One end of the list may be damaged: of each, the pointer to it and the word that leads back.
    ends = (("next", _PREV), ("prev", 0))
    return [base for base in bases for name, back in ends if _leads_back(prog, base, name, back)]


def _around_caches(prog: Program) -> List[int]:
    # x86-64 moves it by multiples of 1 GiB: such a one in front of the first slab cache.
    with suppress(FaultError, LookupError):
        first = untagged_pointer(prog, prog["slab_caches"].next) >> _GIB << _GIB
        bases = (first - (number << _GIB) for number in range(_MOST_GIBS))
        return [base for base in bases if base > 0 and _leads_back(prog, base, "next", _PREV)][:1]
    return []


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


def _hide_left_out(prog: Program) -> Optional[int]:
    # What is not in an ELF core must fault, as it does in other formats: zeroes
    # would look like damage. Returns how many bytes that is; None of anything else.
    if prog.core_dump_path is None:
        return None
    try:
        with open(prog.core_dump_path, "rb") as file:
            left_out = ElfFile(file).left_out()
    except (OSError, ValueError):
        return None
    return hide(prog, left_out)
