# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The command line
----------------

Options of a target as drgn spells them, the commands of
:mod:`drgn_slabtype.commands`, and the exit status: 0 consistent, 1 at least one
finding, 2 usage or target error (one line on standard error), 3 incomplete.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, List, NoReturn, Optional, Sequence, Tuple

from . import __version__
from .command import Once
from .commands import COMMANDS, Answer, Command, answer, usage, verdict
from .habits import CRASH, of_crash, standing_for
from .signals import TIME, Interruptions, reason_of
from .spelling import nearest

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from .report import Text

_USAGE_OR_TARGET, _INCOMPLETE = 2, 3
_FOR_PEOPLE = ("html", "text")  # as --report spells them
_WITH_PATH = ("-c", "--core", "--qemu", "--symbols")  # what names a target, and is none of crash's
_LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "none")


class _Parser(argparse.ArgumentParser):
    # argparse's error, in one line.
    def error(self, message: str) -> NoReturn:
        kind, _, words = message.partition(": ")
        word = words.split(" ")[0]
        if kind == "unrecognized arguments" and os.path.isfile(word):
            message = f'{word} is a file: did you mean "-c {word}"?'
        self.exit(_USAGE_OR_TARGET, f"{self.prog}: {message} (see {self.prog} --help)\n")

    # argparse drops what cannot be written: help on a disk that is full.
    def _print_message(self, message: str, file: Optional[SupportsWrite[str]] = None) -> None:
        if file is sys.stderr:
            super()._print_message(message, file)
            return
        try:
            sys.stdout.write(message)
            sys.stdout.flush()
        except BrokenPipeError:
            _leave_stdout()
        except OSError as e:
            _leave_stdout()
            self.exit(_USAGE_OR_TARGET, f"{self.prog}: standard output: {e.strerror}\n")


class _OnOneScreen(argparse.HelpFormatter):
    # Most options beside what is said of them.
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """
    Run the command line.

    :param argv: Arguments without the program's name; those of the process if ``None``.
    :return: Exit status.
    """
    with Interruptions(at_once=True) as interruptions:
        words = _joined(sys.argv[1:] if argv is None else argv)
        parser = _parser()
        unknown = _unknown(words)
        if unknown is not None:
            parser.error(unknown)
        args, left = parser.parse_known_args(words)
        if left:
            # By the parser of the command: its help is what there is to see.
            alone = not args.command.target and left[0] in ("-c", "--core")
            told = f"; the files of {args.command.name} stand without {left[0]}" if alone else ""
            args.refuse(f"unrecognized arguments: {' '.join(left)}{told}")
        interruptions.limit(getattr(args, "max_time", None))
        return _run(args)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Return what some arguments mean; ``command`` is the :class:`Command`."""
    return _parser().parse_args(_joined(argv))


def _unknown(words: Sequence[str]) -> Optional[str]:
    # What to say of a command that there is not.
    names = {name: command.name for command in COMMANDS for name in (command.name, command.prompt)}
    if not words or words[0].startswith("-") or words[0] in {*names.values()}:
        return None
    target, rest = _apart(words)
    meant = of_crash(rest)
    if meant is not None:
        typed = " ".join(["drgn-slabtype", meant.spelled(), *target])
        return f'{words[0]} is a command of crash: did you mean "{typed}"?'
    if words[0] in CRASH:
        return f"{words[0]} is a command of crash: here are {', '.join(standing_for(words[0]))}"
    near = nearest(words[0], (name for name in names if name))
    close = dict.fromkeys(names[name] for name in near)
    every = dict.fromkeys(names.values())
    told = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(every)}"
    return f"there is no command {words[0]}; {told}"


def _apart(words: Sequence[str]) -> Tuple[List[str], List[str]]:
    # What says which target, and the rest. crash's -s and -k are its own; no cache is a file.
    target: List[str] = []
    rest: List[str] = []
    given = False
    for word, after in zip(words, [*words[1:], ""]):
        names = not given and (word in _WITH_PATH or (word == "-s" and os.path.isfile(after)))
        (target if given or names else rest).append(word)
        given = names
    return target, rest


def _joined(argv: Sequence[str]) -> List[str]:
    # The name of a command may have two words.
    name = " ".join(argv[:2])
    if " " in name and any(command.name == name for command in COMMANDS):
        return [name, *argv[2:]]
    return list(argv)


def _run(args: argparse.Namespace) -> int:
    # Imports drgn, which takes a while; until main() runs, a signal is not ours.
    from .errors import SlabTypeError

    _set_up_logging(args.log_level)
    command: Command = args.command
    # What has an answer when it is stopped judges.
    when = "before there was an answer" if command.stopped is None else "before anything was judged"
    try:
        found = answer(command, lambda: _open(args), args)
        when = "while the answer was written"
        return _finish(command, args, found)
    except KeyboardInterrupt as stop:
        ended = "stopped by time" if reason_of(stop) == TIME else "interrupted"
        return _fail(args, f"{ended} {when}", _INCOMPLETE)
    except SlabTypeError as e:
        return _no_report(args, str(e))
    except Exception as e:
        if args.log_level == "debug":
            raise
        return _no_report(args, f"{type(e).__name__}: {e}")


def _no_report(args: argparse.Namespace, message: str) -> int:
    # What a CI system reads has to say so; else it shows the report of the run before.
    from .errors import TargetError
    from .report import failure

    wanted = [(args.format, args.output if args.command.output else None)]
    for format, path in (*wanted, *getattr(args, "report", ())):
        told = None if format in _FOR_PEOPLE else failure(format, " ".join(message.split()))
        if told is not None:
            with suppress(TargetError):
                _emit(told, path)
    return _fail(args, message, _USAGE_OR_TARGET)


def _finish(command: Command, args: argparse.Namespace, found: Answer) -> int:
    # Whatever cannot be written, what was found counts, and is said.
    from .errors import TargetError

    failed: List[str] = []
    try:
        _emit(found.text, found.output)
    except TargetError as e:
        failed.append(str(e))
        told = verdict(command, found, args.wide)
        if told is not None:
            with suppress(TargetError):
                _emit(told, None)
    if found.records is None:
        status = 0
    else:
        status = command.status(found.records)
        failed += command.failures(found.records)
    for line in failed:
        _fail(args, line, status)
    return (1 if status == 1 else _USAGE_OR_TARGET) if failed else status


def _emit(text: Text, path: Optional[str]) -> None:
    from .report.output import write_text

    try:
        write_text(text, path)
    except BrokenPipeError:
        # Whoever read the output has seen enough; the exit status still tells
        # the outcome.
        _leave_stdout()


def _leave_stdout() -> None:
    # Python flushes it once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(args: argparse.Namespace, message: str, status: int) -> int:
    print(f"drgn-slabtype {args.command.name}: {' '.join(message.split())}", file=sys.stderr)
    return status


def _refuse_files(args: argparse.Namespace) -> None:
    # Where the name of a cache is due and no target is given.
    from .errors import TargetError

    given = getattr(args, "cache", None) or ()
    for name in (given,) if isinstance(given, str) else given:
        if os.path.isfile(name) and not (args.kernel or args.core or args.qemu):
            raise TargetError(f'{name} is a file: did you mean "-c {name}"?')


def _open(args: argparse.Namespace) -> object:
    from .footprint import opened, step_back
    from .target import TargetOptions, open_target

    _refuse_files(args)
    if args.nice and args.qemu is None and args.core in (None, "/proc/kcore"):
        step_back()
    prog = open_target(
        TargetOptions(
            kernel=args.kernel,
            core=args.core,
            qemu=args.qemu,
            symbols=args.symbols,
            default_symbols=args.default_symbols,
            debug_directories=args.debug_directories,
            vmcoreinfo=args.vmcoreinfo,
            architecture=args.architecture,
        )
    )
    opened()
    return prog


def _set_up_logging(level: str) -> None:
    logger = logging.getLogger("drgn")
    logger.setLevel(logging.CRITICAL + 1 if level == "none" else level.upper())
    logger.addHandler(logging.StreamHandler())


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="drgn-slabtype", description="fsck for the Linux slab allocators")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        target = "[TARGET] " if command.target else ""
        sub = commands.add_parser(
            command.name,
            help=command.description,
            description=command.description,
            usage=f"drgn-slabtype {command.name} {target}{usage(command)}",
            formatter_class=_OnOneScreen,
        )
        if command.target:
            _add_target_options(sub)
        for option in command.all_options():
            sub.add_argument(*option.flags, **option.settings)
        sub.add_argument(
            "--log-level",
            action=Once,
            choices=_LOG_LEVELS,
            default="error",
            metavar="LEVEL",
            help="show drgn's log from debug, info, warning, error (default) or critical on; "
            "or none",
        )
        sub.set_defaults(command=command, refuse=sub.error)
    return parser


def _add_target_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("target", "spelled as drgn spells them")
    which = group.add_mutually_exclusive_group()
    which.add_argument("-k", "--kernel", action="store_true", help="the running kernel (default)")
    which.add_argument("-c", "--core", action=Once, metavar="PATH", help="a core dump or a capture")
    which.add_argument(
        "--qemu",
        action=Once,
        metavar="ADDRESS",
        help="a QEMU guest, by its QMP socket path or host:port",
    )
    group.add_argument(
        "-s",
        "--symbols",
        metavar="PATH",
        action="append",
        default=[],
        help="vmlinux with debug info; may be repeated",
    )
    symbols = group.add_mutually_exclusive_group()
    symbols.add_argument(
        "--main-symbols",
        dest="default_symbols",
        action="store_true",
        default=True,
        help="look for debug info where drgn does (default)",
    )
    symbols.add_argument(
        "--no-default-symbols",
        dest="default_symbols",
        action="store_false",
        help="use no debug info but that given with -s",
    )
    group.add_argument(
        "--debug-directory",
        dest="debug_directories",
        metavar="PATH",
        action="append",
        default=[],
        help="look for debug info here first; may be repeated",
    )
    group.add_argument(
        "--vmcoreinfo",
        action=Once,
        metavar="PATH",
        help="file to use instead of the target's VMCOREINFO",
    )
    group.add_argument(
        "--no-nice",
        dest="nice",
        action="store_false",
        help="do not step back behind others with -k",
    )
    group.add_argument(
        "--architecture",
        action=Once,
        metavar="ARCH",
        help="architecture, where it cannot be detected",
    )


__all__: List[str] = ["main"]
