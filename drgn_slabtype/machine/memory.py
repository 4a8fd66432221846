# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Bulk reads
----------

Large blocks of target memory as numpy arrays, each with a mask of what could
not be read. Addresses in the direct map are read by physical address where the
target allows it, which saves drgn the page-table walk.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Optional, Tuple, Union

import numpy as np
import numpy.typing as npt
from drgn import FaultError, PlatformFlags, Program, ProgramFlags

from ..arguments import platform_of
from ..files.elf import ElfFile
from ..files.hidden import hide
from .architecture import of_program
from .directmap import LINEAR_BYTES, linear_base, place_direct_map, place_image, reads_physical
from .pieces import FILE_GAP_BYTES, GAP_BYTES, Keep, Rows, cut, read_blocks, read_pieces
from .reads import Reads
from .tags import Tags

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


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


class Memory(Reads):
    """
    Bulk access to the memory of one program.

    :param prog: A Linux kernel program, 32 or 64 bit, either byte order.
    :param is_capture: Whether the core is one of ours, which leaves nothing out of itself.
    """

    def __init__(self, prog: Program, is_capture: bool = False) -> None:
        platform = platform_of(prog)
        super().__init__(prog)
        self.byteorder = "<" if platform.flags & PlatformFlags.IS_LITTLE_ENDIAN else ">"
        """``<`` or ``>``, as numpy spells it."""
        self.word_size = 8 if platform.flags & PlatformFlags.IS_64_BIT else 4
        """Bytes of an ``unsigned long``."""
        self.word = np.dtype(f"{self.byteorder}u{self.word_size}")
        """dtype of an ``unsigned long`` in the target."""
        self.page_size = int(prog["PAGE_SIZE"])
        self.page_shift = self.page_size.bit_length() - 1
        place_image(prog)
        self.linear_base = linear_base(prog)
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
        place_direct_map(prog, self.linear_base)
        self._physical = reads_physical(prog, self.linear_base, self.address_mask)
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

        What page tables do not lead to is read by its physical address, if it is in the
        direct map.

        :raises FaultError: if they are not in the target.
        """
        try:
            return self.read_once(address, size, physical)
        except FaultError:
            there = None if physical else self._physical_of(address)
            if there is None:
                raise
        return self.read_once(there, size, True)

    def _physical_of(self, address: int) -> Optional[int]:
        physical = (address - self.linear_base) & self.address_mask
        return physical if self._physical and physical < LINEAR_BYTES else None

    def read_word(self, address: int) -> int:
        """
        Read an ``unsigned long``.

        :raises FaultError: if it is not in the target.
        """
        data = self.read(address, self.word_size)
        word = int.from_bytes(data, "little" if self.byteorder == "<" else "big")
        return self.tags.removed_from(word) if self.tags.used else word

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
        physical = self._physical_of(address)
        if physical is not None:
            try:
                return self.read_once(physical, size, True)
            except FaultError:
                pass
        return self.read_once(address, size)


def _last_bytes(addresses: U64, width: Union[int, U64]) -> U64:
    return addresses + np.asarray(width, np.uint64) - np.uint64(1)


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
