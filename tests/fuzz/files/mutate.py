# SPDX-License-Identifier: LGPL-2.1-or-later
"""Inputs like others, with a few bytes changed."""

from __future__ import annotations

import random
from typing import Callable, Sequence, Tuple

_NUMBERS = (
    *(0, 1, 2, 3, 4, 7, 8, 16, 24, 56, 64, 127, 128, 255, 256, 4095, 4096, 65535, 65536),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, 1 << 40, 1 << 62),
    *((1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1),
)
_TEXTS = (b"null", b"true", b"[]", b"{}", b'""', b"-1", b"1e9", b"[[", b'"\\u0000"', b"9" * 24)
_MOST_BYTES = 1 << 16
_SPAN = 64


def mutated(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """
    Return an input that is like another.

    :param others: What parts may be taken from.
    """
    made = bytearray(data)
    for _ in range(1 << chance.randrange(4)):
        chance.choice(_WAYS)(made, others, chance)
    return bytes(made[:_MOST_BYTES])


def _place(data: bytearray, chance: random.Random) -> int:
    # Near the start more often than elsewhere: that is where headers are. Where
    # all is zeroes, hardly anything is read.
    end = len(data) if chance.random() < 0.7 else min(len(data), 256)
    for _ in range(8):
        at = chance.randrange(end + 1)
        if any(data[at : at + 8]):
            break
    return at


def _flip(data: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    if at < len(data):
        data[at] ^= 1 << chance.randrange(8)


def _set(data: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    size = chance.choice((1, 2, 4, 4, 8, 8))
    at = _place(data, chance)
    if chance.random() < 0.8:
        at -= at % size
    number = chance.choice((*_NUMBERS, len(data), chance.getrandbits(8 * size)))
    order = chance.choice(_ORDERS)
    data[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, order)  # type: ignore[arg-type]


def _step(data: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    size = chance.choice((1, 2, 4, 8))
    at = _place(data, chance) // size * size
    order = chance.choice(_ORDERS)
    number = int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]
    number += chance.randint(-16, 16)
    data[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, order)  # type: ignore[arg-type]


def _text(data: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    data[at : at + chance.randrange(8)] = chance.choice(_TEXTS)


def _remove(data: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    at = _place(data, chance)
    del data[at : at + chance.randrange(1, _SPAN)]


def _cut(data: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    if chance.random() < 0.3:
        del data[_place(data, chance) :]


def _copy(data: bytearray, others: Sequence[bytes], chance: random.Random) -> None:
    source = data if chance.random() < 0.5 else chance.choice(others)
    size = chance.randrange(1, _SPAN)
    start, at = _place(bytearray(source), chance), _place(data, chance)
    end = at + size if chance.random() < 0.7 else at
    data[at:end] = source[start : start + size]


_ORDERS: Tuple[str, ...] = ("little", "big")
_WAYS: Tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    *(_flip, _flip, _set, _set, _set, _step, _step, _text, _remove, _cut, _copy, _copy),
)
