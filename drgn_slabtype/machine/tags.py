# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Tags of KASAN in pointers
-------------------------

With CONFIG_KASAN_SW_TAGS, and with CONFIG_KASAN_HW_TAGS where the processor has MTE,
each object has a tag, and whatever points to it has that in its top byte: freelists,
sheaves, the links of caches. Nothing of this package asks for tags, and an address
has to be the same wherever it comes from.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple, Tuple, Union

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, Program

from ..distinct import distinct
from .architecture import of_program

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]

_WORD = 8
_DIRECT_MAP_BYTES = 1 << 51  # half of what 52 bits address


class _Pages(NamedTuple):
    # The struct pages.
    start: int
    bytes: int
    size: int

    def are_flags(self, addresses: U64) -> npt.NDArray[np.bool_]:
        # Whether page->flags begins at each address: KASAN's tag of the page and its zone
        # are in it, and what they add up to can look like a pointer with a tag.
        offset = addresses - np.uint64(self.start)
        flags: npt.NDArray[np.bool_] = offset < np.uint64(self.bytes)
        return flags & (offset % np.uint64(self.size) == 0)


class Tags:
    """
    Whether the pointers of a kernel have tags, and how words are rid of them.

    :param linear_base: Virtual address of physical address 0 in the direct map.
    """

    def __init__(self, prog: Program, linear_base: int) -> None:
        self._architecture = of_program(prog)
        self._base = np.uint64(linear_base)
        try:
            size = int(prog["max_pfn"]) * int(prog["PAGE_SIZE"])
        except (FaultError, LookupError):
            size = _DIRECT_MAP_BYTES
        self._size = np.uint64(min(size, _DIRECT_MAP_BYTES))
        self.used = self._architecture.is_tagged and _are_used(prog)
        """Whether there are any."""
        self._pages = _memory_map(prog) if self.used else _Pages(0, 0, 1)

    def removed(self, words: U64) -> U64:
        """
        Return words without tags.

        A word that leads to the direct map but for its top byte is a pointer; one of a
        hardened freelist may look like it, and is rid of its tag once it is decoded.

        :param words: Of any shape, in host byte order.
        """
        if not self.used:
            return words
        bare = self._architecture.untagged(words)
        return np.where(bare - self._base < self._size, bare, words)

    def removed_from(self, word: int) -> int:
        """Return one word without a tag."""
        return int(self.removed(np.array([word], np.uint64))[0])

    def remove(self, pieces: U8, addresses: U64) -> None:
        """
        Take the tags out of the whole words of some memory, in place.

        :param pieces: Shape (n, width).
        :param addresses: Shape (n,): where each piece begins.
        """
        leads = (-addresses.astype(np.int64) % _WORD).astype(np.int64)
        for lead in distinct(leads).tolist():
            rows = np.flatnonzero(leads == lead)
            count = max(0, pieces.shape[1] - lead) // _WORD
            if not count:
                continue
            cut = np.ascontiguousarray(pieces[rows, lead : lead + count * _WORD])
            kept = cut.view("<u8").astype(np.uint64)
            inside = np.arange(lead, lead + count * _WORD, _WORD).astype(np.uint64)
            at = addresses[rows][:, None] + inside
            words = np.where(self._pages.are_flags(at), kept, self.removed(kept))
            pieces[rows, lead : lead + count * _WORD] = words.astype("<u8").view(np.uint8)

    def without(self, blocks: Iterator[Tuple[int, U8]]) -> Iterator[Tuple[int, U8]]:
        """
        Return memory without tags.

        :param blocks: Address and bytes of pieces that begin with a whole word.
        """
        return self._bare(blocks) if self.used else blocks

    def _bare(self, blocks: Iterator[Tuple[int, U8]]) -> Iterator[Tuple[int, U8]]:
        for start, data in blocks:
            piece = data.copy()[None, :]
            self.remove(piece, np.array([start], np.uint64))
            yield start, piece[0]


def _memory_map(prog: Program) -> _Pages:
    try:
        size = prog.type("struct page").size or 1
        return _Pages(int(prog["vmemmap"].value_()), int(prog["max_pfn"]) * size, size)
    except (FaultError, LookupError):
        return _Pages(0, 0, 1)


def untagged_pointer(prog: Program, pointer: Union[Object, int]) -> int:
    """
    Return an address without its tag, whether or not this kernel has any.

    :param pointer: A pointer of the kernel's, or its value.
    """
    address = pointer if isinstance(pointer, int) else int(pointer.value_())
    bare = of_program(prog).untagged(np.array([address], np.uint64))
    return int(bare[0])


def _are_used(prog: Program) -> bool:
    # The objects of caches have tags themselves: both ends of their list are told by
    # pointers that have one, and lead back to it. The list's head is in the image.
    try:
        head = prog["slab_caches"]
        address = head.address_
        ends = [int(head.next.value_()), int(head.prev.value_())]
        bare = [untagged_pointer(prog, end) for end in ends]
        if any(end == plain for end, plain in zip(ends, bare)):
            return False
        return prog.read_word(bare[0] + _WORD) == prog.read_word(bare[1]) == address
    except (FaultError, LookupError, OverflowError):
        return False
