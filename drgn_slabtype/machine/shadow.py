# SPDX-License-Identifier: LGPL-2.1-or-later
"""
KASAN's shadow
--------------

With generic KASAN each byte of the shadow says how many of 8 bytes of memory may be
touched: all of them (0), the first so many (1 to 7), or none, and why. Where the
shadow begins is a number that the compiler was given and no variable holds; so it
is looked for where the architecture can have it, and is believed if what it says
of the slab caches, which are in use, is true.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, List, Optional

import numpy as np
from drgn import FaultError

from .architecture import of_program
from .tags import untagged_pointer

if TYPE_CHECKING:
    from . import Machine
    from .memory import U64, Gathered

GRANULE = 8
"""Bytes of memory that a byte of the shadow is about: KASAN_GRANULE_SIZE."""
FREED = 0xFB
"""KASAN_SLAB_FREE: of an object that was freed."""
FREED_WITH_TRACK = 0xFA
"""KASAN_SLAB_FREE_META: the same of its first bytes, if it is kept who freed it."""
_RED_ZONE = 0xFC  # KASAN_SLAB_REDZONE
_SHIFT = 3
# mm/kasan/kasan.h, and what compilers write.
_WORDS = {
    FREED: "freed",
    FREED_WITH_TRACK: "freed, and kept who did it",
    _RED_ZONE: "never handed out, or beside an object",
    0xF1: "red zone of a variable on the stack",
    0xF2: "red zone of a variable on the stack",
    0xF3: "red zone of a variable on the stack",
    0xF8: "vmalloc() has not mapped it",
    0xF9: "red zone of a global variable",
    0xFE: "red zone of a page",
    0xFF: "free page",
}
_SAMPLED = 16  # caches that are asked


class Shadow:
    """
    The shadow of one machine.

    :param offset: KASAN_SHADOW_OFFSET.
    """

    def __init__(self, machine: Machine, offset: int) -> None:
        self._machine = machine
        self._offset = np.uint64(offset)
        # Nothing of the kernel's lies below the direct map.
        ends = machine.memory.linear_base, of_program(machine.prog).last
        self._first, self._last = self.of(np.array(ends, np.uint64)).tolist()

    def of(self, addresses: U64) -> U64:
        """Return where the bytes lie that are about some addresses."""
        where: U64 = (addresses >> np.uint64(_SHIFT)) + self._offset
        return where

    def about(self, address: int) -> Optional[int]:
        """Return the first of the addresses that a byte of the shadow is about, if it is one."""
        if not self._first <= address <= self._last:
            return None
        return ((address - int(self._offset)) << _SHIFT) & self._machine.memory.address_mask

    def told(self, address: int) -> Optional[str]:
        """Return what is said of a byte, in words; ``None`` if that is not in the target."""
        granule = np.array([address], np.uint64) & ~np.uint64(GRANULE - 1)
        said = self.read(granule, GRANULE)
        if not said.ok[0]:
            return None
        value = int(said.bytes[0, 0])
        if not value:
            return "may be touched"
        if value < GRANULE:
            may = "may" if address % GRANULE < value else "may not"
            return f"{may} be touched (the first {value} of its {GRANULE} bytes may)"
        return f"may not be touched: {_WORDS.get(value, 'no reason known')} (0x{value:02x})"

    def read(self, addresses: U64, size: int) -> Gathered:
        """
        Read what is said of pieces of memory.

        :param addresses: Multiples of :data:`GRANULE`.
        :param size: Bytes of each piece; of the last granule, all of it counts.
        """
        return self._machine.memory.gather(self.of(addresses), -(-size // GRANULE))


def shadow(machine: Machine) -> Optional[Shadow]:
    """
    Return the shadow of generic KASAN.

    :return: ``None`` if the kernel has none, or it is not in the target.
    """
    if not machine.structure("struct kmem_cache").has("kasan_info.alloc_meta_offset"):
        return None
    caches = np.array(list(_some_caches(machine)), np.uint64)
    for offset in of_program(machine.prog).shadows:
        found = Shadow(machine, offset)
        if len(caches) and _is_true(machine, found, caches):
            return found
    return None


def _some_caches(machine: Machine) -> Iterator[int]:
    structure = machine.structure("struct kmem_cache")
    seen: List[int] = []
    try:
        head = machine.prog["slab_caches"]
        at = untagged_pointer(machine.prog, head.next)
        while at != head.address_ and at not in seen and len(seen) < _SAMPLED:
            seen.append(at)
            yield at - structure.offset("list")
            at = machine.memory.read_word(at)
    except (FaultError, LookupError):
        return


def _is_true(machine: Machine, shadow: Shadow, caches: U64) -> bool:
    # Most say that they are in use, and have a red zone behind them; one may be damaged.
    own = _own_cache(machine)
    if own is None:
        return False
    size = -(-own // GRANULE) * GRANULE
    said, behind = shadow.read(caches, GRANULE), shadow.read(caches + np.uint64(size), GRANULE)
    true = said.ok & behind.ok & (said.bytes[:, 0] == 0) & (behind.bytes[:, 0] == _RED_ZONE)
    return 2 * int(np.count_nonzero(true)) > int(np.count_nonzero(said.ok & behind.ok))


def _own_cache(machine: Machine) -> Optional[int]:
    # Size of the objects that caches are.
    try:
        size = int(machine.prog["kmem_cache"].object_size)
    except (FaultError, LookupError, AttributeError):
        return None
    return size if 0 < size <= machine.memory.page_size else None
