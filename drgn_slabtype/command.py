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
)

from .typed import number

if TYPE_CHECKING:
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


def code_of(args: argparse.Namespace, asked: str, answer: str, shown: str, end: str = "") -> str:
    """
    Return the Python code of a command, in the format that is asked for.

    :param asked: Its first lines; the first of all imports from this package.
    :param answer: Name of the variable that has the answer then.
    :param shown: The lines that print it, as text.
    :param end: Those after them.
    """
    if args.format == "table":
        return f"{asked}{shown}{end}"
    first, _, rest = asked.partition("\n")
    start, _, names = first.rpartition("import ")
    imported = ", ".join(sorted(["as_json", *names.split(", ")]))
    indent = shown[: len(shown) - len(shown.lstrip())]
    printed = f'{indent}print(as_json({answer}), end="")\n'
    return f"{start}import {imported}\n{rest}{printed}{end}"


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
    refuse: Callable[[argparse.Namespace], None] = lambda args: None
    """Raises :exc:`TargetError` for options that do not go together."""
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
    everything: str = ""
    """What ``--all`` shows besides, behind a semicolon."""

    def all_options(self) -> Tuple[Option, ...]:
        """Return the command's own options and those that follow from what it is."""
        options = [
            *self.options,
            option("--format", choices=self.formats, default="table", help="output format"),
            option(
                "--all",
                dest="wide",
                action="store_true",
                help="all columns of tables, however narrow the terminal" + self.everything,
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
    from .signals import interruptible, poll, reason_of

    path = args.output if command.output else None
    if command.stopped is None:
        check_writable(path)  # a verdict counts, whatever becomes of the file
    check_apart(*_files(args))
    command.refuse(args)
    if command.drgn and args.drgn:
        keep = command.stopped is not None
        return Answer(None, _into(path, command.drgn(args), keep), None)
    renderer(args.format)
    columns = None if args.wide else width(path)
    records = None
    try:
        with interruptible():
            prog = program() if command.target else None
            poll()  # what drgn lost on its way back from C
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


def _into(path: Optional[str], code: str, keep: bool) -> str:
    # What the code prints goes where the command would have written it; a verdict is not lost.
    if path in (None, "-"):
        return code
    inside = "".join(f"    {line}" if line.strip() else line for line in code.splitlines(True))
    written = f"write_text(text.getvalue(), {path!r})\n"
    if keep:
        printed = 'except TargetError:\n    print(text.getvalue(), end="")\n    raise\n'
        written = f"try:\n    {written}{printed}"
    return (
        "from contextlib import redirect_stdout\n"
        "from io import StringIO\n\n"
        f"from drgn_slabtype import {'TargetError, ' if keep else ''}write_text\n\n"
        f"with redirect_stdout(StringIO()) as text:\n{inside}{written}"
    )


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
        from .target import nothing_judged  # not for a command without a target

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
