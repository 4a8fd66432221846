# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What users type
---------------

Addresses, words, numbers, sizes and files, as text: what is meant by it, by one
rule for all commands. Imported into every drgn program of its users: the library
is imported inside the functions.
"""

from __future__ import annotations

import argparse
import os
import re
from typing import Any, NamedTuple, Optional, Union

# Names of slab caches, too, so that it can be said that they are no symbols.
_SYMBOL = re.compile(r"([A-Za-z_.$][\w.$:-]*)(?:\+(0x[0-9a-fA-F]+|[0-9]+))?")
_BEYOND = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9a-fA-F]{16})\+(0x[0-9a-fA-F]+|[0-9]+)")
_NUMERAL = re.compile("(0[xX])?[0-9a-fA-F]+")
_MOST_SECONDS = 999_999_999
_ADDRESS_DIGITS = 16  # as tables print addresses

NUMBERS = "digits alone are decimal, but 16 of them hexadecimal, as in tables"
"""How numbers are read wherever an address, a page or a word is given; for help texts."""


class Named(NamedTuple):
    """An address that is given by the name of a symbol."""

    symbol: str
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.symbol}+0x{self.offset:x}" if self.offset else self.symbol


AnyAddress = Union[int, Named]
"""An address as users give it."""


def address(text: str) -> AnyAddress:
    """
    Return the address or number that a text means, or the symbol.

    Digits alone are a decimal number, as JSON has page frames, unless there are 16
    of them, as in the addresses of tables. Whatever else can be hexadecimal is.

    :param text: ``ffff888003a1c480`` or ``0xffff888003a1c480``, ``init_task``,
        ``init_task+0x10``, ``0xffff888003a1c480+8``, ``403``.
    :raises argparse.ArgumentTypeError: if it is none of these, or has more than 64 bits.
    """
    if text == "NULL":
        return 0
    try:
        number = numeral(text)
    except ValueError:
        beyond = _BEYOND.fullmatch(text)
        if beyond is not None:
            return _whole_address(text, numeral(beyond[1]) + int(beyond[2], 0))
        named = _SYMBOL.fullmatch(text)
        if os.path.exists(text):
            raise argparse.ArgumentTypeError(
                f'{text} is a file: did you mean "-c {text}"?'
            ) from None
        if named is None:
            raise argparse.ArgumentTypeError(
                f"{text or repr(text)} is neither a hexadecimal number nor a symbol"
            ) from None
        return Named(named[1], int(named[2] or "0", 0))
    return _whole_address(text, number)


def _whole_address(text: str, number: int) -> int:
    if number < 0:
        raise argparse.ArgumentTypeError(
            f'{text} is no address: it is negative; "what {text}" tells what it can be'
        )
    if number >= 1 << 64:
        raise argparse.ArgumentTypeError(f"{text} is no address: it has more than 64 bits")
    return number


def page(text: str) -> AnyAddress:
    """
    Return the page that a text means: the first by its number, 0; by no address.

    :raises argparse.ArgumentTypeError: if it is NULL, or not what an address can be.
    """
    given = address(text)
    if given == 0 and not _is_decimal(text):
        raise argparse.ArgumentTypeError("NULL is no page; the first page frame is 0")
    return given


def word(text: str) -> AnyAddress:
    """
    Return the 64 bits that a text means, or the symbol; a negative number, too.

    :raises argparse.ArgumentTypeError: if it is none of these, or has more than 64 bits.
    """
    try:
        number = numeral(text)
    except ValueError:
        number = 0
    if number < -(1 << 63):
        raise argparse.ArgumentTypeError(f"{text} has more than 64 bits")
    if number < 0:
        return number + (1 << 64)
    return address(text)


def numeral(text: str) -> int:
    """
    Return the number that a text means, by the rule that :data:`NUMBERS` tells.

    :raises ValueError: if it is none.
    """
    digits = text[1:] if text[:1] == "-" else text
    if not _NUMERAL.fullmatch(digits):
        raise ValueError(f"{text} is no number")
    return int(text, 10 if _is_decimal(digits) else 16)


def _is_decimal(digits: str) -> bool:
    return digits.isdigit() and len(digits) != _ADDRESS_DIGITS


def word32(text: str) -> int:
    """
    Return the 32 bits that a text means, signed as VMCOREINFO has them or unsigned.

    :raises argparse.ArgumentTypeError: if it is no number, or has more bits.
    """
    try:
        value = numeral(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text or repr(text)} is not a hexadecimal number"
        ) from None
    if not -(1 << 31) <= value < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} has more than 32 bits")
    return value


def resolved(prog: Any, given: AnyAddress) -> int:
    """
    Return the address that users gave.

    :raises ArgumentError: if there is no such symbol.
    """
    if not isinstance(given, Named):
        return given
    from .answers.names import find_symbol
    from .machine import machine

    return find_symbol(machine(prog), *given)


def spelled(given: AnyAddress) -> str:
    """Return an address as Python code."""
    if isinstance(given, Named):
        offset = f" + {given.offset:#x}" if given.offset else ""
        return f"prog.symbol({given.symbol!r}).address{offset}"
    return f"{given:#x}"


class Span(NamedTuple):
    """Some memory, as users give it."""

    start: AnyAddress
    size: Optional[int] = None
    """In bytes, if it is said."""


def span(text: str) -> Span:
    """
    Return the memory that a text means: ``ADDRESS``, ``ADDRESS+SIZE`` or ``ADDRESS:SIZE``.

    Behind a symbol, ``+`` is an offset, as everywhere else: ``init_task+0x10:8``.

    :raises argparse.ArgumentTypeError: if it is none of these.
    """
    start, mark, size = text.rpartition(":") if ":" in text else text.partition("+")
    if mark == "+" and _SYMBOL.fullmatch(text) and not _BEYOND.fullmatch(text):
        return Span(address(text))
    try:
        length = numeral(size) if mark else None
    except ValueError:
        length = 0
    if length is not None and length < 1:
        raise argparse.ArgumentTypeError(f"{size or repr(size)} is no number of bytes")
    return Span(address(start), length)


class ReportFile(NamedTuple):
    """A report beside the one that is printed."""

    format: str
    path: str


REPORTS = ("json", "junit", "html", "text", "github", "gitlab")
"""What the report of a check can be written as."""


def report_file(text: str) -> ReportFile:
    """
    Return the report that a text asks for: ``json=report.json``.

    :raises argparse.ArgumentTypeError: if it names no format or no file.
    """
    format, _, path = text.partition("=")
    if format not in REPORTS or not path:
        raise argparse.ArgumentTypeError(
            f"{text or repr(text)} is not FORMAT=FILE, of these formats: {', '.join(REPORTS)}"
        )
    return ReportFile(format, path)


def count(text: str) -> int:
    """
    Return a number that is not negative.

    :raises argparse.ArgumentTypeError: if the text is none.
    """
    try:
        number = _decimal(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text or repr(text)} is no number from 0 on")
    return number


def seconds(text: str) -> float:
    """
    Return a time that is not negative.

    :raises argparse.ArgumentTypeError: if the text is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text or repr(text)} is no number of seconds from 0 to {_MOST_SECONDS}"
        )
    return value


def number(text: str) -> int:
    """
    Return a number from 1 on.

    :raises argparse.ArgumentTypeError: if the text is none.
    """
    try:
        value = _decimal(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text or repr(text)} is no number from 1 on")
    return value


def integer(text: str) -> int:
    """
    Return a number; only the kernel knows which there are.

    :raises argparse.ArgumentTypeError: if the text is none.
    """
    try:
        return _decimal(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text or repr(text)} is no number") from None


def _decimal(text: str) -> int:
    # Nothing else can be meant by an 0x.
    return int(text, 16 if text.lower().startswith("0x") else 10)


_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def memory(text: str) -> int:
    """
    Return bytes: ``512M``, ``4G``; without a unit, MiB are meant.

    :raises argparse.ArgumentTypeError: if the text is none.
    """
    digits = text.rstrip("iIbB").rstrip("kKmMgG")
    unit = _UNITS.get(text[len(digits) :].upper().rstrip("IB"))
    if not digits.isdecimal() or not int(digits) or unit is None:
        raise argparse.ArgumentTypeError(
            f"{text or repr(text)} is no amount of memory: 512M and 4G are, and MiB are meant "
            "without a unit"
        )
    return int(digits) * unit
