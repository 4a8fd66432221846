# SPDX-License-Identifier: LGPL-2.1-or-later
"""The members of a type that are no structures themselves, where each of them lies."""

from __future__ import annotations

from typing import Callable, Collection, Iterable, List, NamedTuple

from drgn import Type, TypeKind, sizeof

_SCALARS = (TypeKind.INT, TypeKind.BOOL, TypeKind.ENUM, TypeKind.POINTER)
_MOST_ENTRIES = 4


class Leaf(NamedTuple):
    """A number in a structure."""

    path: str
    """Dots lead into nested structures; empty for the whole of a scalar type."""
    bit: int
    """Where it begins, in bits."""
    bits: int
    """How wide it is."""
    pointer: bool = False
    """Whether it is one."""

    @property
    def end(self) -> int:
        """Where it ends, in bits."""
        return self.bit + self.bits

    def under(self, name: str, bit: int) -> Leaf:
        """Return it as a member of what lies in another structure."""
        path = ".".join(part for part in (name, self.path) if part)
        return self._replace(path=path.replace(".[", "["), bit=bit + self.bit)


Entries = Callable[[str, int], int]
"""How many entries of an array are wanted: of its name and its length."""


def few_entries(name: str, length: int) -> int:
    """Return that the first few entries stand for all."""
    return min(length, _MOST_ENTRIES)


def leaves(
    type: Type, prefer: Collection[str] = (), entries: Entries = few_entries, name: str = ""
) -> List[Leaf]:
    """
    Return the numbers in a type, in the order of their addresses.

    No two share a bit: where a union has several names for the same bits, those
    of *prefer* count, else the variant with the most members.
    """
    while type.kind == TypeKind.TYPEDEF:
        type = type.type
    if type.kind in _SCALARS:
        return [Leaf("", 0, 8 * sizeof(type), type.kind == TypeKind.POINTER)]
    if type.kind == TypeKind.ARRAY:
        return _array(type, prefer, entries, name)
    if type.kind not in (TypeKind.STRUCT, TypeKind.UNION) or not type.is_complete():
        return []
    found: List[List[Leaf]] = []
    for member in type.members or ():
        if member.bit_field_size:
            inside = [Leaf("", 0, member.bit_field_size)]
        else:
            inside = leaves(member.type, prefer, entries, member.name or "")
        found.append([leaf.under(member.name or "", member.bit_offset) for leaf in inside])
    if type.kind == TypeKind.UNION:
        found.sort(key=lambda variant: (-_preferred(variant, prefer), -len(variant)))
    return sorted(_apart(leaf for variant in found for leaf in variant), key=lambda leaf: leaf.bit)


def _array(type: Type, prefer: Collection[str], entries: Entries, name: str) -> List[Leaf]:
    size = 8 * sizeof(type.type)
    inside = leaves(type.type, prefer, entries)
    return [
        leaf.under(f"[{at}]", at * size)
        for at in range(entries(name, type.length or 0))
        for leaf in inside
    ]


def _preferred(variant: List[Leaf], prefer: Collection[str]) -> int:
    return sum(bool(set(leaf.path.split(".")) & set(prefer)) for leaf in variant)


def _apart(found: Iterable[Leaf]) -> List[Leaf]:
    # What comes later keeps what is left of it: the end of a word whose
    # beginning has other names.
    taken: List[Leaf] = []
    for leaf in found:
        covers = [one for one in taken if one.bit < leaf.end and leaf.bit < one.end]
        if not covers:
            taken.append(leaf)
            continue
        first = max(one.end for one in covers)
        if first < leaf.end and all(one.bit < first for one in covers):
            begins = min(one.bit for one in covers) <= leaf.bit
            if begins and sum(one.bits for one in covers) >= first - leaf.bit:
                taken.append(Leaf(f"{leaf.path} (rest)", first, leaf.end - first))
    return taken
