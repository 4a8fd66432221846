# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a command is
-----------------

One description from which both the command line and the drgn prompt make a
command, and the one way to run it. Imported into every drgn program of its
users: the library is imported inside the functions.
"""

from __future__ import annotations

import argparse
import os
import re
from dataclasses import dataclass
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    FrozenSet,
    Iterator,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

if TYPE_CHECKING:
    from drgn import FaultError

    from .report import Text


class Option(NamedTuple):
    """Arguments of :meth:`argparse.ArgumentParser.add_argument`."""

    flags: Tuple[str, ...]
    settings: Any


class Once(argparse.Action):
    """An option that means one thing; of two, none is dropped in silence."""

    _GIVEN = "given_once"

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: Optional[str] = None,
    ) -> None:
        """Keep the value, or complain about a second one."""
        # A parser is used again and again at the prompt; a namespace is not.
        given: FrozenSet[str] = getattr(namespace, self._GIVEN, frozenset())
        if self.dest in given:
            raise argparse.ArgumentError(self, "may be given only once")
        setattr(namespace, self._GIVEN, given | {self.dest})
        setattr(namespace, self.dest, values)


# Names of slab caches, too, so that it can be said that they are no symbols.
_SYMBOL = re.compile(r"([A-Za-z_.$][\w.$:-]*)(?:\+(0x[0-9a-fA-F]+|[0-9]+))?")
_BEYOND = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9a-fA-F]{16})\+(0x[0-9a-fA-F]+|[0-9]+)")
_NUMERAL = re.compile("(0[xX])?[0-9a-fA-F]+")
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
    if -(1 << 63) <= number < 0:
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
    return f"0x{given:x}"


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
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text or repr(text)} is no number from 0 on")
    return number


def seconds(text: str) -> float:
    """
    Return a time that is not negative.

    :raises ValueError: if the text is none.
    """
    value = float(text)
    if not 0 <= value < 1e9:
        raise ValueError(f"{text} is no time in seconds")
    return value


def number(text: str) -> int:
    """
    Return a number from 1 on.

    :raises ValueError: if the text is none.
    """
    value = int(text)
    if value < 1:
        raise ValueError(f"{text} is not 1 or more")
    return value


_UNITS = {"": 1 << 20, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def memory(text: str) -> int:
    """
    Return bytes: ``512M``, ``4G``; without a unit, MiB are meant.

    :raises ValueError: if the text is none.
    """
    digits = text.rstrip("iIbB").rstrip("kKmMgG")
    unit = text[len(digits) :].upper()[:1]
    return number(digits) * _UNITS["" if unit in "IB" else unit]


def option(*flags: str, **settings: Any) -> Option:
    """Return an :class:`Option`; one with a value means one thing, unless it is said otherwise."""
    if flags[0].startswith("-"):
        settings.setdefault("action", Once)
    return Option(flags, settings)


def jobs_option(work: str, many: str, moves: str = "; of what moves, this one does") -> Option:
    """Return the option that says how many processes do some work."""
    return option(
        "-j",
        "--jobs",
        type=number,
        metavar="N",
        help=f"let so many processes {work} (default: one a processor where there are many "
        f"{many}{moves})",
    )


def jobs_code(args: argparse.Namespace) -> str:
    """Return the same as an argument in Python, after others."""
    return f", jobs={args.jobs}" if args.jobs else ""


def incomplete(answer: Any) -> int:
    """Return the exit status of an answer: 3 if something is missing in it."""
    return 3 if answer.unavailable else 0


@dataclass(frozen=True)
class Command:
    """One command of the shell and of the drgn prompt."""

    name: str
    """Its name in the shell, and of the functions that present its records."""
    description: str
    """One line, lower case, without full stop."""
    run: Callable[[Any, argparse.Namespace], Any]
    """Takes the program (``None`` without a target) and the options; returns records."""
    prompt: Optional[str] = None
    """Its name at the drgn prompt, if it exists there."""
    options: Tuple[Option, ...] = ()
    target: bool = True
    """Whether it reads a kernel."""
    kernels: bool = False
    """Whether it opens some by itself, all the same."""
    formats: Tuple[str, ...] = ("table", "json")
    output: bool = True
    """Whether ``-o`` says where its text goes."""
    drgn: Optional[Callable[[argparse.Namespace], str]] = None
    """Returns the Python code that does the same."""
    status: Callable[[Any], int] = lambda records: 0
    """Exit status that the records ask for."""
    stopped: Optional[Callable[[argparse.Namespace, Any, str], Any]] = None
    """
    Returns the records of a run that was stopped: takes the options, the
    records if there are any yet, and what stopped it.
    """
    failures: Callable[[Any], Sequence[str]] = lambda records: ()
    """Returns a line for each file that was asked for and could not be written."""
    presenter: Optional[Callable[[Any], str]] = None
    """Returns the name of the functions that present some records, if not the command's."""

    def all_options(self) -> Tuple[Option, ...]:
        """Return the command's own options and those that follow from what it is."""
        options = [
            *self.options,
            option("--format", choices=self.formats, default="table", help="output format"),
            option(
                "--all",
                dest="wide",
                action="store_true",
                help="all columns of tables, however narrow the terminal",
            ),
        ]
        if self.output:
            options.append(
                option(
                    "-o",
                    "--output",
                    metavar="FILE",
                    help="write to a file, whole or not at all",
                )
            )
        if self.drgn:
            options.append(
                option(
                    "--drgn", action="store_true", help="print the Python code that does the same"
                )
            )
        return tuple(options)


class Answer(NamedTuple):
    """What a command found, and how it says so."""

    records: Any
    """``None`` if only code was asked for."""
    text: Text
    output: Optional[str]
    """File to write the text to."""


def answer(command: Command, program: Callable[[], Any], args: argparse.Namespace) -> Answer:
    """
    Run a command.

    :param program: Opens the program; called only if the command reads one.
    """
    # Imported before anything can interrupt them: half a numpy is none.
    if command.target or command.kernels:
        import numpy  # noqa: F401

    from .report import present, renderer
    from .report.output import check_apart, check_writable, width
    from .signals import interruptible, reason_of

    path = args.output if command.output else None
    if command.stopped is None:
        check_writable(path)  # a verdict counts, whatever becomes of the file
    check_apart(*_files(args))
    if command.drgn and args.drgn:
        return Answer(None, command.drgn(args), path)
    renderer(args.format)
    columns = None if args.wide else width(path)
    records = None
    try:
        with interruptible():
            prog = program() if command.target else None
            records = _run(command, prog, args)
            text = present(_presenter(command, records), records, args.format, columns)
    except KeyboardInterrupt as stop:
        if command.stopped is None:
            raise
        records = command.stopped(args, records, reason_of(stop))
        text = present(_presenter(command, records), records, args.format, columns)
    if not isinstance(text, str) and command.stopped is None:
        text = _piecemeal(text)
    return Answer(records, text, path)


def _files(args: argparse.Namespace) -> Iterator[str]:
    # All that is written, after what is read.
    names = "core", "output", "file", "html", "capture", "write_baseline", "kpageflags"
    yield from (path for name in (*names, "kpagecount") if (path := getattr(args, name, None)))
    yield from (report.path for report in getattr(args, "report", ()))


def _run(command: Command, prog: Any, args: argparse.Namespace) -> Any:
    from drgn import FaultError

    from .errors import TargetError

    try:
        return command.run(prog, args)
    except FaultError as e:
        raise TargetError(nothing_judged(prog, e)) from e


def _presenter(command: Command, records: Any) -> str:
    return command.name if command.presenter is None else command.presenter(records)


def _piecemeal(text: Iterator[str]) -> Iterator[str]:
    # What is made as it is written can be stopped between two pieces, and in one.
    from .signals import interruptible

    while True:
        with interruptible():
            piece = next(text, None)
        if piece is None:
            return
        yield piece


def nothing_judged(prog: Any, fault: FaultError) -> str:
    """Return what is to be said where what is missing is needed to begin with."""
    # The memory map, a list of caches.
    from .target import shortfall

    missing = shortfall(prog)
    start = f"{missing.message}; " if missing is not None else ""
    return f"{start}nothing could be judged: {fault}"
