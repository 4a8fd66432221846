# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage at random: of words of memory, and of the bytes of a file."""

from __future__ import annotations

import random
from typing import List, NamedTuple

from ..recipes.overlay import Write
from .places import Places

_MOST_WORDS = 20
_NUMBERS = (
    0,
    1,
    2,
    0xFF,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0x100000000,
    0x7FFFFFFFFFFFFFFF,
    0x8000000000000000,
    0xFFFFFFFFFFFFFFFF,
    0xFFFFFFFFFFFFFFF0,
    0xFFFFFFFFFFFFF000,
    0x6B6B6B6B6B6B6B6B,
    0x5A5A5A5A5A5A5A5A,
    0xDEAD000000000100,
    0xDEAD000000000122,
    0x646C6F726F6C6C65,
    0x0000000012345678,
)


class Patch(NamedTuple):
    """Bytes of a file to overwrite."""

    at: int
    data: bytes


def words(places: Places, chance: random.Random) -> List[Write]:
    """Return the writes that damage one to twenty words, few more often than many."""
    count = min(int(chance.expovariate(0.4)) + 1, _MOST_WORDS)
    found: List[Write] = []
    while len(found) < count:
        found += _word(places, chance)
    return found[:_MOST_WORDS]


def _word(places: Places, chance: random.Random) -> List[Write]:
    address = places.word(chance)
    old = places.read(address)
    way = chance.randrange(6)
    if way == 0:  # a bit flips
        bit = chance.randrange(64)
        return [_write(address, int.from_bytes(old, "little") ^ 1 << bit)]
    if way == 1:  # two words change places
        other = places.word(chance)
        return [Write(address, places.read(other)), Write(other, old)]
    if way == 2:  # what is right elsewhere
        return [Write(address, places.read(places.word(chance)))]
    if way == 3:  # a little too high or too low
        step = chance.choice((1, 8, 64, 4096, 1 << 16, 1 << 32)) * chance.choice((1, -1))
        return [_write(address, int.from_bytes(old, "little") + step)]
    size = chance.choice((1, 2, 4, 4, 8, 8, 8))
    at = address + chance.randrange(0, 8, size)
    number = chance.choice(_NUMBERS) if way == 4 else chance.getrandbits(64)
    return [_write(at, number, size)]


def _write(address: int, number: int, size: int = 8) -> Write:
    return Write(address, (number & ((1 << 8 * size) - 1)).to_bytes(size, "little"))


def patches(size: int, head: int, chance: random.Random) -> List[Patch]:
    """
    Return damage to a file.

    :param size: Bytes of the file.
    :param head: Bytes of its headers and notes, where most of it goes.
    """
    found = []
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(head if chance.random() < 0.8 else size)
        length = chance.choice((1, 1, 4, 8, 64))
        byte = chance.choice((b"\0", b"\xff", b"k"))
        data = chance.choice(
            (byte * length, chance.getrandbits(8 * length).to_bytes(length, "big"))
        )
        found.append(Patch(at, data[: max(size - at, 1)]))
    return found


def smaller(writes: List[Write], places: Places) -> List[List[Write]]:
    """Return lesser forms of some damage: with a byte fewer, each in turn."""
    found = []
    for number, write in enumerate(writes):
        old = b"".join(
            places.read(at) for at in range(write.address // 8 * 8, write.address + 8, 8)
        )[write.address % 8 :][: len(write.data)]
        for at, (was, new) in enumerate(zip(old, write.data)):
            if was == new:
                continue
            data = write.data[:at] + bytes([was]) + write.data[at + 1 :]
            found.append([*writes[:number], Write(write.address, data), *writes[number + 1 :]])
    return found


def shorter(found: List[Patch]) -> List[List[Patch]]:
    """Return lesser forms of damage to a file: one of its parts cut in half, or by a byte."""
    lesser = []
    for number, (at, data) in enumerate(found):
        half = len(data) // 2
        for start, end in ((0, half), (half, len(data)), (1, len(data)), (0, len(data) - 1)):
            part = data[start:end]
            if 0 < len(part) < len(data):
                lesser.append([*found[:number], Patch(at + start, part), *found[number + 1 :]])
    return lesser
