# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What some bytes look like
-------------------------

Bytes where something else should have been, described by what they are: text,
a poison the kernel writes, a repeating pattern, an error, addresses. No memory
is read here.
"""

from __future__ import annotations

import errno
import re
import string
from typing import Dict, List, NamedTuple, Optional, Tuple

PRINTABLE = frozenset((string.digits + string.ascii_letters + string.punctuation + " ").encode())
"""Bytes of text."""
AMONG = " among other bytes"
"""Behind a text that is not all that there is."""
_SHORTEST_TEXT = 4  # fewer printable bytes in a row come about by chance
_LONG_TEXT = 8  # as many do not, whatever is beside them
_BETWEEN = frozenset(b"\0\t\n\r")  # strings, words and lines
_LONGEST_PERIOD = 16
_MAX_ERRNO = 4095
_SMALL = 1 << 16
_SMALL_NEGATIVE = 1 << 20  # no architecture has anything in the last MiB of all addresses

ERRORS: Dict[int, str] = {
    **errno.errorcode,
    512: "ERESTARTSYS",
    513: "ERESTARTNOINTR",
    514: "ERESTARTNOHAND",
    515: "ENOIOCTLCMD",
    516: "ERESTART_RESTARTBLOCK",
    517: "EPROBE_DEFER",
    518: "EOPENSTALE",
    519: "ENOPARAM",
    521: "EBADHANDLE",
    522: "ENOTSYNC",
    523: "EBADCOOKIE",
    524: "ENOTSUPP",
    525: "ETOOSMALL",
    526: "ESERVERFAULT",
    527: "EBADTYPE",
    528: "EJUKEBOX",
    529: "EIOCBQUEUED",
    530: "ERECALLCONFLICT",
    531: "ENOGRACE",
}
"""Names of errors by number; from 512 on those of include/linux/errno.h, which users never see."""

# Fills that read as text: kkkk, ZZZZ.
_PRINTABLE_FILLS = re.compile(rb"\x6b{3,}|\x5a{3,}")

# Bytes the kernel fills memory with (include/linux/poison.h, mm/slab.c).
_FILLS: Dict[int, str] = {
    0x5A: "padding or uninitialised memory (POISON_INUSE)",
    0x6B: "poison of a free object (POISON_FREE)",
    0xA5: "the last byte of poison (POISON_END)",
    0xBB: "red zone of a free object (SLUB_RED_INACTIVE)",
    0xCC: "red zone of an object in use (SLUB_RED_ACTIVE)",
}
_WORDS: Dict[int, str] = {
    0xDEAD000000000100: "LIST_POISON1, a deleted list entry",
    0xDEAD000000000122: "LIST_POISON2, a deleted list entry",
    0x09F911029D74E35B: "SLAB's red zone of a free object",
    0xD84156C5635688C0: "SLAB's red zone of an object in use",
    0x6B6B6B6B6B6B6B6B: "poison of a free object (POISON_FREE)",
    0x5A5A5A5A5A5A5A5A: "padding or uninitialised memory (POISON_INUSE)",
}


class Content(NamedTuple):
    """What some bytes are."""

    kind: str
    """``zeroes``, ``fill``, ``text``, ``pattern``, ``words`` or ``unknown``."""
    text: str
    """The same for people, printable."""
    words: Tuple[Tuple[int, int], ...] = ()
    """(offset, value) of the whole, aligned words among the bytes, but for zero."""


def classify(data: bytes, word_size: int = 8, byteorder: str = "little", at: int = 0) -> Content:
    """
    Describe some bytes.

    :param word_size: Bytes of a pointer.
    :param byteorder: ``little`` or ``big``.
    :param at: Address of the first byte, by which words are aligned.
    """
    words = tuple(_words(data, word_size, byteorder, at))
    if not data:
        return Content("unknown", "nothing")
    if not any(data):
        return Content("zeroes", f"{len(data)} zero bytes" if len(data) > 1 else "a zero byte")
    if len(set(data)) == 1:
        return Content("fill", _fill(data), words)
    text = longest_text(data)
    least = _SHORTEST_TEXT if is_all_text(data) else _LONG_TEXT
    if len(text) >= max(least, len(data) // 2):
        return Content("text", spell_text(data), words)
    named = [f"{name} at byte {offset}" for offset, name in _named(words, word_size)]
    if named:
        return Content("words", ", ".join(named), words)
    repeat = period(data)
    if repeat is not None:
        return Content("pattern", f"{data[:repeat].hex(' ')} over and over", words)
    return Content("words" if words else "unknown", data[:_LONGEST_PERIOD].hex(" "), words)


def describe_word(value: int, word_size: int = 8) -> Optional[str]:
    """Return what a word is if its value alone tells: an error, a poison, a small number."""
    if value == 0:
        return "NULL"
    if value in _WORDS:
        return _WORDS[value]
    negative = (1 << 8 * word_size) - value
    if 0 < negative <= _MAX_ERRNO:
        name = ERRORS.get(negative)
        return f"the error -{negative}" + (f" ({name})" if name else "")
    if is_small(value, word_size):
        return f"the small number {value if value < _SMALL else -negative}"
    return None


def is_small(value: int, word_size: int = 8) -> bool:
    """
    Return whether a word is a number near to zero, and so no address.

    >>> is_small(0x8000), is_small(0xffffffffffff8000), is_small(0xffffffff00000000)
    (True, True, False)
    """
    return value < _SMALL or (1 << 8 * word_size) - value <= _SMALL_NEGATIVE


def is_poison(byte: int) -> bool:
    """Return whether the kernel itself fills memory with a byte."""
    return byte in _FILLS


def continues(before: bytes, data: bytes) -> Optional[int]:
    """
    Return the period in which some bytes carry on what stands before them.

    An object that was written past its end leaves its own pattern behind it.

    :param before: What stands directly before *data*.
    :return: Bytes after which the pattern comes again; ``None`` if it is not one.
    """
    if not data or len(before) < len(data):
        return None
    both = before[-max(2 * len(data), _LONGEST_PERIOD) :] + data
    return period(both)


def period(data: bytes) -> Optional[int]:
    """Return after how many bytes a pattern repeats, if it does so at least twice."""
    for length in range(1, min(_LONGEST_PERIOD, len(data) // 2) + 1):
        if data[length:] == data[:-length]:
            return length
    return None


def longest_text(data: bytes) -> bytes:
    """Return the longest run of printable ASCII that is no fill."""
    best = b""
    run = bytearray()
    for byte in _PRINTABLE_FILLS.sub(lambda fill: bytes(len(fill[0])), data):
        if byte in PRINTABLE:
            run.append(byte)
            if len(run) > len(best):
                best = bytes(run)
        else:
            run.clear()
    return best


def is_all_text(data: bytes) -> bool:
    """Return whether some bytes are printable, end strings, or stand between words and lines."""
    return all(byte in PRINTABLE or byte in _BETWEEN for byte in data)


def spell_text(data: bytes) -> str:
    """
    Return the longest text among some bytes, and whether there is more.

    >>> spell_text(b"secret" + bytes(2)), spell_text(b"secret" + bytes([0, 1]))
    ('text "secret"', 'text "secret" among other bytes')
    """
    spelled = longest_text(data).decode("ascii").replace("\\", "\\\\").replace('"', '\\"')
    return f'text "{spelled}"' + ("" if is_all_text(data) else AMONG)


def _fill(data: bytes) -> str:
    byte = data[0]
    name = _FILLS.get(byte)
    if name is None:
        name = f"the character {chr(byte)!r}" if byte in PRINTABLE else "one value"
    many = f"{len(data)} bytes" if len(data) > 1 else "a byte"
    return f"{many} of 0x{byte:02x}, {name}"


def _words(data: bytes, size: int, byteorder: str, at: int) -> List[Tuple[int, int]]:
    order = "little" if byteorder == "little" else "big"
    found = []
    for offset in range(-at % size, len(data) - size + 1, size):
        value = int.from_bytes(data[offset : offset + size], order)  # type: ignore[arg-type]
        if value:
            found.append((offset, value))
    return found


def _named(words: Tuple[Tuple[int, int], ...], size: int) -> List[Tuple[int, str]]:
    named = []
    for offset, value in words:
        name = describe_word(value, size)
        if name is not None and not name.startswith("the small number"):
            named.append((offset, name))
    return named
