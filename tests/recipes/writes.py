# SPDX-License-Identifier: LGPL-2.1-or-later
"""The bytes of values and members, ready to be written."""

from __future__ import annotations

from typing import List

from drgn import Program, Type, TypeKind

from .overlay import Write

GARBAGE = 0x6B6B6B6B6B6B6B6B
"""No address of any kernel."""


def value(address: int, number: int, width: int = 8) -> Write:
    """Return the write of an integer or pointer."""
    return Write(address, (number & ((1 << 8 * width) - 1)).to_bytes(width, "little"))


def field(prog: Program, type: str, address: int, path: str, number: int) -> Write:
    """
    Return the write of one member of a structure, a bit field too.

    :param address: Of the structure.
    :param path: Dots lead into nested structures.
    """
    layout, bits, width = prog.type(type), 0, None
    for name in path.split("."):
        while layout.kind == TypeKind.TYPEDEF:
            layout = layout.type
        member = layout.member(name)
        layout, width = member.type, member.bit_field_size
        bits += member.bit_offset
    if width is None:
        return value(address + bits // 8, number, _size(layout))
    first, last = bits // 8, (bits + width + 7) // 8
    mask = ((1 << width) - 1) << bits % 8
    old = int.from_bytes(prog.read(address + first, last - first), "little")
    return value(address + first, old & ~mask | number << bits % 8 & mask, last - first)


def _size(type: Type) -> int:
    while type.kind == TypeKind.TYPEDEF:
        type = type.type
    return type.size or 8


def unlink(prog: Program, link: int) -> List[Write]:
    """Return the writes that make its neighbours forget a ``struct list_head``."""
    after, before = prog.read_word(link), prog.read_word(link + 8)
    return [value(before, after), value(after + 8, before)]


def push(prog: Program, link: int, head: int) -> List[Write]:
    """Return the writes that put a ``struct list_head`` at the front of a list."""
    first = prog.read_word(head)
    return [value(link, first), value(link + 8, head), value(head, link), value(first + 8, link)]
