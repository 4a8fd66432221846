# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is known about one address."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, Optional, Tuple

from ..findings import Stretch
from ..records import Record
from ..shapes import HIDDEN, Address, Hex
from .states import SlabObject
from .tracks import Track

NOT_KERNEL = "not an address of the kernel's half"
NOTHING = "nothing that is known"


@dataclass(frozen=True)
class Meaning(Record):
    """One thing that a word can be."""

    kind: str
    """``poison``, ``error``, ``number``, ``text``, ``jiffies``, ``page type``, ``address``,
    ``free pointer``, ``index``, ``wrong bit`` or ``wrong byte``."""
    meaning: str
    """The same for people."""
    address: Optional[Address] = None
    """What it would lead to."""


class Line(NamedTuple):
    """Some bytes in a row."""

    part: str
    """``object``, or what lies beside it: ``right red zone``, ``padding`` …"""
    address: Address
    """Of the first."""
    offset: int
    """The same from the object's address."""
    bytes: str
    """In hex."""
    text: str
    """As ASCII, with dots for what cannot be printed."""
    damaged: Tuple[int, ...] = ()
    """Positions in the line of the bytes that debugging promises to be others, or that lie in one
    piece of damage with such."""


class ObjectWord(NamedTuple):
    """A word of an object that can be told."""

    offset: int
    """In the object, in bytes."""
    word: Hex
    """The word."""
    meaning: str
    """What it is, for people."""


@dataclass(frozen=True)
class AddressInfo(Record):
    """What is known about one address; what does not apply is ``None`` or empty."""

    address: Address
    """What was asked about."""
    kind: str
    """``slab object``, ``slab``, ``struct slab``, ``struct page``, ``per-CPU``, ``kfence object``,
    ``page``, ``other``."""
    meaning: str
    """One line for people."""
    cache: Optional[str] = None
    """Name of the slab cache."""
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
    holds: Optional[str] = None
    """What the allocator keeps there of its own, and of which cache."""
    everywhere: bool = False
    """Whether all caches of the machine were asked, not its own alone."""
    list: Optional[str] = None
    """The list that its slab stands on: see :attr:`SlabUsage.list
    <drgn_slabtype.answers.slabs.SlabUsage.list>`."""
    owner: Optional[int] = None
    """The CPU, or the node, whose list that is."""
    contradictions: Tuple[str, ...] = ()
    """What the check says about this object and its slab."""
    previous: Optional[SlabObject] = None
    """The object before it in the slab."""
    next: Optional[SlabObject] = None
    """The object after it."""
    tracks: Tuple[Track, ...] = ()
    """Who allocated and freed it, where the kernel keeps that."""
    shadow: Optional[str] = None
    """What KASAN's shadow says of the byte at the address, where there is a shadow."""
    page: Optional[Address] = None
    """``struct page *``."""
    pfn: Optional[int] = None
    """Page frame number."""
    page_types: Tuple[str, ...] = field(default=())
    """Types of the head page."""
    meanings: Tuple[Meaning, ...] = ()
    """What the number can be, where it is no address of anything."""
    neighbours: Tuple[SlabObject, ...] = ()
    """More of the objects around it, if they were asked for."""
    lines: Tuple[Line, ...] = ()
    """Its bytes and those beside it, if they were asked for."""
    words: Tuple[ObjectWord, ...] = ()
    """What the words among them are."""
    stretches: Tuple[Stretch, ...] = ()
    """How far damage to the object or its slab reaches, if its bytes were asked for."""
    unavailable: Tuple[str, ...] = ()
    """Which of its bytes were asked for and are not in the target."""
    incomplete: Annotated[bool, HIDDEN] = False
    """Whether some of these are missing, and were not left out of a capture on purpose."""

    @property
    def is_known(self) -> bool:
        """Whether anything is there."""
        return self.meaning not in (NOT_KERNEL, NOTHING)
