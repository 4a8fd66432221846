# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What recipes do to memory
-------------------------

A change says what becomes of a victim, without knowing it: ``add("inuse", 1)``.
Numbers and places that depend on the victim are functions of it. Changes are
put one after the other with ``+``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List, NamedTuple, Sequence, Union

from drgn import Program, Type, TypeKind, sizeof

from .overlay import Write, order_of

GARBAGE = 0x6B6B6B6B6B6B6B6B
"""No address of any kernel."""
LIST_POISON = 0xDEAD000000000100, 0xDEAD000000000122
"""What ``list_del()`` leaves in links."""


@dataclass(frozen=True)
class Spot:
    """Where a number stands in memory."""

    prog: Program
    address: int
    width: int = 8
    """In bytes."""
    shift: int = 0
    bits: int = 0
    """Of a bit field; 0 where the number fills its bytes."""
    encode: Callable[[int], int] = int
    """How the kernel stores a number there."""
    decode: Callable[[int], int] = int

    @property
    def number(self) -> int:
        """The number as it is stored now."""
        return self.decode(self._bytes >> self.shift & self._mask)

    @property
    def _bytes(self) -> int:
        return int.from_bytes(self.prog.read(self.address, self.width), order_of(self.prog))

    @property
    def _mask(self) -> int:
        return (1 << (self.bits or 8 * self.width)) - 1

    def write(self, number: int) -> Write:
        """Return the write of another number."""
        data = self.encode(number) & self._mask
        if self.bits:
            data = self._bytes & ~(self._mask << self.shift) | data << self.shift
        return Write(self.address, data.to_bytes(self.width, order_of(self.prog)))


def member(prog: Program, type: str, address: int, path: str) -> Spot:
    """
    Return where a member of a structure stands, a bit field too.

    :param address: Of the structure.
    :param path: Dots lead into nested structures.
    """
    layout, bits, width = prog.type(type), 0, None
    for name in path.split("."):
        found = _plain(layout).member(name)
        layout, width = found.type, found.bit_field_size
        bits += found.bit_offset
    if width is None:
        return Spot(prog, address + bits // 8, sizeof(layout))
    first, last = bits // 8, (bits + width + 7) // 8
    # On big-endian machines bits are counted from the highest one.
    shift = bits % 8 if order_of(prog) == "little" else 8 * last - bits - width
    return Spot(prog, address + first, last - first, shift, width)


def _plain(type: Type) -> Type:
    while type.kind == TypeKind.TYPEDEF:
        type = type.type
    return type


class Edit(NamedTuple):
    """A number that takes the place of another."""

    spot: Spot
    number: int


@dataclass(frozen=True)
class Change:
    """What becomes of a victim."""

    edits: Callable[[Any], Sequence[Edit]]

    def __add__(self, other: Change) -> Change:
        """Return a change of both, this one first."""
        return Change(lambda victim: [*self.edits(victim), *other.edits(victim)])


Number = Union[int, Callable[[Any], int]]
"""A number, or how it follows from the victim."""
Where = Union[str, Callable[[Any], Spot]]
"""A member of the victim, or a function that finds the place."""


def of(number: Any, victim: Any) -> Any:
    """Return what a number, or anything else, is for a victim."""
    return number(victim) if callable(number) else number


def _spot(where: Where, victim: Any) -> Spot:
    spot: Spot = victim.spot(where) if isinstance(where, str) else where(victim)
    return spot


def entry(position: int) -> Callable[[Any], Spot]:
    """Return where an entry of the victim stands, as a place for a change."""
    return lambda victim: victim.entry(position)


def enter(position: int) -> Change:
    """Put the victim, an object, into the container beside it."""
    return put(lambda victim: victim.other.entry(position), lambda victim: victim.slot)


def put(where: Where, number: Number) -> Change:
    """Set a number."""
    return Change(lambda victim: [Edit(_spot(where, victim), of(number, victim))])


def add(where: Where, number: Number) -> Change:
    """Make a number greater, or smaller."""

    def edits(victim: Any) -> List[Edit]:
        spot = _spot(where, victim)
        return [Edit(spot, spot.number + of(number, victim))]

    return Change(edits)


def flip(where: Where, bits: Number) -> Change:
    """Turn bits of a number over."""

    def edits(victim: Any) -> List[Edit]:
        spot = _spot(where, victim)
        return [Edit(spot, spot.number ^ of(bits, victim))]

    return Change(edits)


def store(address: Number, data: Union[bytes, Callable[[Any], bytes]]) -> Change:
    """Write over bytes."""

    def edits(victim: Any) -> List[Edit]:
        found = of(data, victim)
        spot = Spot(victim.machine.prog, of(address, victim), len(found))
        return [Edit(spot, int.from_bytes(found, order_of(victim.machine.prog)))]

    return Change(edits)


def when(holds: Callable[[Any], Any], change: Change) -> Change:
    """Make a change only to victims for which a condition holds."""
    return Change(lambda victim: change.edits(victim) if holds(victim) else [])


def unlink() -> Change:
    """Make the neighbours of the victim on a list forget it."""

    def edits(victim: Any) -> List[Edit]:
        prog, link = victim.machine.prog, victim.link
        after, before = prog.read_u64(link), prog.read_u64(link + 8)
        return [Edit(Spot(prog, before), after), Edit(Spot(prog, after + 8), before)]

    return Change(edits)


def push(head: Number) -> Change:
    """Put the victim at the front of a list, whatever list it is on."""

    def edits(victim: Any) -> List[Edit]:
        prog, link, front = victim.machine.prog, victim.link, of(head, victim)
        first = prog.read_u64(front)
        links = {link: first, link + 8: front, front: link, first + 8: link}
        return [Edit(Spot(prog, at), to) for at, to in links.items()]

    return Change(edits)


def move(head: Number) -> Change:
    """Take the victim off its list and put it at the front of another."""
    return unlink() + push(head)
