# SPDX-License-Identifier: LGPL-2.1-or-later
"""Words of a kernel's memory, and the five ways to change one."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Dict, Literal, Optional

from drgn import Program

MUTATIONS = ("flip", "+1", "0", "text", "pointer")
"""One bit of it, one more, nothing, letters, and a pointer that is right elsewhere."""

_TEXT = int.from_bytes(b"/usr/bin", "little")


@dataclass(frozen=True)
class Word:
    """A number in a structure of the allocators."""

    structure: str
    """What it is in, as the table spells it: ``kmem_cache_node``, ``slab (full)``."""
    member: str
    """What it is there."""
    address: int
    """Of its first byte."""
    shift: int
    """How far it is from there, in bits."""
    bits: int
    """How wide it is."""
    other: int
    """What stands in the same place of another such structure, or a pointer to something else."""
    cache: Optional[str] = None
    """Name of the cache that the structure belongs to."""
    order: Literal["little", "big"] = "little"
    """Byte order; *shift* counts from the lowest bit of the bytes in either."""
    size: int = 0
    """How many bytes it touches; 0: as few as hold it."""

    def __post_init__(self) -> None:
        if not self.size:
            object.__setattr__(self, "size", (self.shift + self.bits + 7) // 8)

    @property
    def name(self) -> str:
        """What it is, with its structure."""
        return f"{self.structure}.{self.member}" if self.member else self.structure

    @property
    def mask(self) -> int:
        """As many ones as it has bits."""
        return (1 << self.bits) - 1

    def number(self, data: bytes) -> int:
        """Return the number in the bytes that it touches."""
        return int.from_bytes(data, self.order) >> self.shift & self.mask

    def stored(self, data: bytes, number: int) -> bytes:
        """Return these bytes with another number in them."""
        kept = int.from_bytes(data, self.order) & ~(self.mask << self.shift)
        return (kept | (number & self.mask) << self.shift).to_bytes(self.size, self.order)

    def mutations(self, prog: Program, seed: int) -> Dict[str, Optional[int]]:
        """Return the number that each mutation puts there; ``None`` if it is there already."""
        was = self.number(prog.read(self.address, self.size))
        chance = random.Random(f"{seed} {self.cache} {self.name}")
        numbers = {
            "flip": was ^ 1 << chance.randrange(self.bits),
            "+1": was + 1,
            "0": 0,
            "text": _TEXT,
            "pointer": self.other,
        }
        masked = {name: number & self.mask for name, number in numbers.items()}
        return {name: None if number == was else number for name, number in masked.items()}
