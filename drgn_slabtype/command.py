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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, NamedTuple, Optional, Tuple

if TYPE_CHECKING:
    from drgn import FaultError

    from .report import Text


class Option(NamedTuple):
    """Arguments of :meth:`argparse.ArgumentParser.add_argument`."""

    flags: Tuple[str, ...]
    settings: Any


def option(*flags: str, **settings: Any) -> Option:
    """Return an :class:`Option`."""
    return Option(flags, settings)


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
    formats: Tuple[str, ...] = ("table", "json")
    output: bool = True
    """Whether ``-o`` says where its text goes."""
    drgn: Optional[Callable[[argparse.Namespace], str]] = None
    """Returns the Python code that does the same."""
    status: Callable[[Any], int] = lambda records: 0
    """Exit status that the records ask for."""

    def all_options(self) -> Tuple[Option, ...]:
        """Return the command's own options and those that follow from what it is."""
        options = [
            *self.options,
            option("--format", choices=self.formats, default="table", help="output format"),
        ]
        if self.output:
            options.append(
                option(
                    "-o", "--output", metavar="FILE", help="write to a file, whole or not at all"
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
    from drgn import FaultError

    from .errors import TargetError
    from .report import present
    from .report.output import check_writable

    path = args.output if command.output else None
    check_writable(path)
    if command.drgn and args.drgn:
        return Answer(None, command.drgn(args), path)
    prog = program() if command.target else None
    try:
        records = command.run(prog, args)
    except FaultError as e:
        raise TargetError(nothing_judged(prog, e)) from e
    return Answer(records, present(command.name, records, args.format), path)


def nothing_judged(prog: Any, fault: FaultError) -> str:
    """Return what is to be said where what is missing is needed to begin with."""
    # The memory map, a list of caches.
    from .target import shortfall

    missing = shortfall(prog)
    start = f"{missing.message}; " if missing is not None else ""
    return f"{start}nothing could be judged: {fault}"
