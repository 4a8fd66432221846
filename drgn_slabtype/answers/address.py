# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known about one address."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Tuple

from ..shapes import Address
from .states import SlabObject
from .tracks import Track

NOT_KERNEL = "not an address of the kernel's half"
NOTHING = "nothing that is known"


@dataclass(frozen=True)
class Meaning:
    """One thing that a word can be."""

    kind: str
    """``poison``, ``error``, ``number``, ``text``, ``jiffies``, ``page type``, ``address``,
    ``free pointer``, ``index``, ``wrong bit`` or ``wrong byte``."""
    meaning: str
    """The same for people."""
    address: Optional[Address] = None
    """What it would lead to."""


@dataclass(frozen=True)
class AddressInfo:
    """What is known about one address; what does not apply is ``None`` or empty."""

    address: Address
    kind: str
    """``slab object``, ``slab``, ``struct slab``, ``kfence object``, ``page``, ``other``."""
    meaning: str
    """One line for people."""
    cache: Optional[str] = None
    slab_cache: Optional[Address] = None
    """``struct kmem_cache *``."""
    slab: Optional[Address] = None
    """``struct slab *`` (the head ``struct page *`` before Linux 5.17)."""
    object: Optional[Address] = None
    """Address of the object, as its users see it."""
    index: Optional[int] = None
    """Position in the slab."""
    offset: Optional[int] = None
    """Bytes to the address from the object, negative in a red zone before it; from the symbol,
    the per-CPU variable or the struct page in which it lies."""
    part: Optional[str] = None
    """What lies there, if it is not the object itself."""
    state: Optional[str] = None
    """``in use``, ``free``, ``waiting`` or ``unknown``."""
    places: Tuple[str, ...] = ()
    """Every place that records the object, with the position there."""
    contradictions: Tuple[str, ...] = ()
    """What the check says about this object and its slab."""
    previous: Optional[SlabObject] = None
    """The object before it in the slab."""
    next: Optional[SlabObject] = None
    """The object after it."""
    tracks: Tuple[Track, ...] = ()
    """Who allocated and freed it, where the kernel keeps that."""
    page: Optional[Address] = None
    """``struct page *``."""
    pfn: Optional[int] = None
    page_types: Tuple[str, ...] = field(default=())
    """Types of the head page."""
    meanings: Tuple[Meaning, ...] = ()
    """What the number can be, where it is no address of anything."""

    @property
    def is_known(self) -> bool:
        """Whether anything is there."""
        return self.meaning not in (NOT_KERNEL, NOTHING)
