# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The bytes of an object
----------------------

As the kernel's own reports print them, 16 a line, with those marked that are not
what debugging promises, and with what the words among them are.
"""

from __future__ import annotations

import string
from contextlib import suppress
from typing import Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple, Union

import numpy as np
from drgn import FaultError

from ..findings import Damaged, Finding
from ..machine import Machine
from ..records import plural
from .address import Line, ObjectWord
from .content import describe_word, is_all_text, longest_text, spell_text
from .describe import describe, spell
from .lookup import Lookup
from .names import word_format
from .poisons import poisons
from .slots import Slot

LINE = 16
"""Bytes in a line."""
LEFT_OUT = "its bytes: this capture was written without contents (capture --contents has them)"
"""Why a capture has none."""

_MOST_PART = 1 << 17  # bytes beside an object: as many as the largest of kmalloc() has
_MOST_WORDS = 64
_SHORTEST_TEXT = 4
_PRINTABLE = frozenset((string.digits + string.ascii_letters + string.punctuation + " ").encode())


class Part(NamedTuple):
    """A part of a slot, in bytes from the object's address."""

    name: str
    first: int
    last: int


def parts(layout: Slot, object_size: int, count: int) -> Iterator[Part]:
    """
    Yield the parts of a slot whose bytes are told.

    :param count: Bytes of the object, at most.
    """
    if layout.before:
        yield Part("left red zone", -min(layout.before, _MOST_PART), 0)
    if count:
        yield Part("object", 0, min(object_size, count))
    for first, last, name in layout.parts:
        # What a user never wrote is of interest only where it is promised.
        if last > first and "track" not in name:
            yield Part(name, first, min(last, first + _MOST_PART))


def damaged_parts(
    address: int, object_size: int, findings: Sequence[Finding], start: int = 0, row: int = 1
) -> List[Part]:
    """
    Return the parts of an object itself that are damaged.

    :param address: Of the object.
    :param start: The first byte that is of interest.
    :param row: Whole rows of so many bytes are told.
    """
    found: List[Part] = []
    for one in sorted({one for finding in findings for one in finding.ranges}):
        first = max(one.address - address, start)
        last = min(one.address + one.size - address, object_size)
        if first >= last:
            continue
        first = max(first // row * row, start)
        last = min(-(-last // row) * row, object_size)
        if found and first <= found[-1].last:
            before = found.pop()
            first, last = before.first, max(before.last, last)
        found.append(Part("object", first, last))
    return found


def lines(
    machine: Machine,
    address: int,
    wanted: Iterable[Part],
    findings: Sequence[Finding],
    overwritten: Sequence[range] = (),
) -> Tuple[List[Line], List[str]]:
    """
    Return the bytes of an object, and what of them is not in the target.

    :param address: Of the object.
    :param findings: About it; their ranges are marked.
    :param overwritten: Addresses that are marked, too.
    """
    damaged = _damaged(findings)
    found: List[Line] = []
    missing: List[str] = []
    for part in wanted:
        for first, data in _pieces(machine, address + part.first, address + part.last):
            if isinstance(data, int):
                where = f"from 0x{first:x} on are not in the target"
                missing.append(f"{part.name}: {plural(data, 'byte')} {where}")
                continue
            for at in range(0, len(data), LINE):
                piece, start = data[at : at + LINE], first + at
                wrong = tuple(
                    n
                    for n in range(len(piece))
                    if start + n in damaged or any(start + n in one for one in overwritten)
                )
                found.append(
                    Line(part.name, start, start - address, piece.hex(" "), _ascii(piece), wrong)
                )
    return found, missing


def _pieces(machine: Machine, start: int, end: int) -> Iterator[Tuple[int, Union[bytes, int]]]:
    # From which address on what is read, or how many bytes are not in the target.
    memory = machine.memory
    with suppress(FaultError):
        yield start, memory.read(start, end - start)
        return
    # By page: of one object some may be there.
    lost = 0
    while start < end:
        after = min(start // memory.page_size * memory.page_size + memory.page_size, end)
        try:
            data = memory.read(start, after - start)
        except FaultError:
            lost += after - start
        else:
            if lost:
                yield start - lost, lost
            yield start, data
            lost = 0
        start = after
    if lost:
        yield end - lost, lost


def _damaged(findings: Sequence[Finding]) -> Set[int]:
    ranges: List[Damaged] = [one for finding in findings for one in finding.ranges]
    return {one.address + n for one in ranges for n in range(one.size)}


def _ascii(data: bytes) -> str:
    return "".join(chr(byte) if byte in _PRINTABLE else "." for byte in data)


def words(reading: Lookup, object: int, first: int, last: int) -> List[ObjectWord]:
    """
    Return the words of an object that can be told.

    :param object: Its address.
    :param first: The first of its bytes that are looked at.
    :param last: The first that is not.
    """
    memory = reading.machine.memory
    width = memory.word_size
    start = -(-(object + first) // width) * width
    end = (object + last) // width * width
    found = []
    for address, data in _pieces(reading.machine, start, max(start, end)):
        held = [] if isinstance(data, int) else np.frombuffer(data, memory.word).tolist()
        for number, word in enumerate(held):
            at = address + number * width
            meaning = _meaning(reading, at, word)
            if meaning is not None:
                found.append(ObjectWord(at - object, word, meaning))
    return found[:_MOST_WORDS]


def _meaning(reading: Lookup, at: int, word: int) -> Optional[str]:
    machine, width = reading.machine, reading.machine.memory.word_size
    if word >> 16 == 0:
        return None
    if word == at:
        return "itself: a list that is empty, or the first half of one"
    if word == at - width:
        return "the word before: the other half of an empty list"
    known = poisons(word, *word_format(machine))
    if known:
        return known[0]
    if machine.memory.is_kernel_address(np.array([word], np.uint64))[0]:
        info = describe(reading, word)
        return spell(info) if info.is_known else describe_word(word, width)
    order = "little" if machine.memory.byteorder == "<" else "big"
    data = word.to_bytes(width, order)  # type: ignore[arg-type]
    is_text = len(longest_text(data)) >= _SHORTEST_TEXT and is_all_text(data)
    return spell_text(data) if is_text else None
