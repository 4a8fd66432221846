# SPDX-License-Identifier: LGPL-2.1-or-later
"""
drgn plugin
-----------

Registers the commands of :mod:`drgn_slabtype.commands` at the drgn prompt and
lets drgn open uncompressed captures. It is imported into every drgn program of
its users and imports nothing but drgn's command interface.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, Iterator, List, Mapping, Sequence

from .commands import COMMANDS, Command, answer, usage, verdict
from .habits import CRASH, of_crash, standing_for
from .typed import Named, Span

if TYPE_CHECKING:
    from drgn import Program


def drgn_prog_set(prog: Program) -> None:
    """Add types and symbols when drgn has opened an uncompressed capture."""
    if prog.core_dump_path is not None:
        from .capture import attach

        attach(prog)


def _register(spec: Command, name: str) -> None:
    from drgn.commands import CommandError, argument, parse_shell_command
    from drgn.commands.linux import linux_kernel_custom_command

    def run(
        prog: Program,
        name: str,
        words: Sequence[str],
        parser: argparse.ArgumentParser,
        **kwargs: Any,
    ) -> Any:
        # As in the shell, whatever else is missing.
        if {"-h", "--help"} & set(words):
            print(parser.format_help(), end="")
            return None
        args, left = parser.parse_known_args(words)
        if left:
            raise CommandError(_unknown(name, left))
        return _run(prog, args, kwargs.get("globals", {}))

    def _run(prog: Program, args: argparse.Namespace, names: Mapping[str, Any]) -> Any:
        from .errors import SlabTypeError, TargetError
        from .report.output import write_text
        from .signals import Interruptions, repeat
        from .target import ensure_types

        def program() -> Program:
            ensure_types(prog)
            return prog

        try:
            with Interruptions(at_once=False) as interruptions:
                for given, value in vars(args).items():
                    setattr(args, given, _variables(value, names))
                interruptions.limit(getattr(args, "max_time", None))
                found = answer(spec, program, args)
                try:
                    write_text(found.text, found.output)
                except TargetError as e:
                    told = verdict(spec, found, args.wide)
                    if told is None:
                        raise
                    write_text(told, None)
                    print(f"%{spec.prompt}: {e}", file=sys.stderr)
        except SlabTypeError as e:
            raise CommandError(str(e)) from e
        for line in spec.failures(found.records) if found.records is not None else ():
            print(f"%{spec.prompt}: {line}", file=sys.stderr)
        repeat(interruptions.signal)
        return found.records

    linux_kernel_custom_command(
        name=name,
        description=spec.description,
        long_description=spec.description,
        usage=f"{name} {usage(spec)}",
        arguments=(
            *(argument(*o.flags, **o.settings) for o in spec.all_options()),
            argument("-h", "--help", action="store_true", help="show this help"),
        ),
        parse=parse_shell_command,
    )(run)


# What says in a shell which kernel is meant.
_TARGET = ("-c", "--core", "-k", "--kernel", "--qemu", "-s", "--symbols", "--vmcoreinfo")


def _unknown(name: str, words: Sequence[str]) -> str:
    # What to say of options that a command does not have.
    see = f"see %{name} --help"
    if words[0].partition("=")[0] in _TARGET:
        return (
            f"{words[0]} is for the shell: a command at the prompt is about the program that is "
            f"open ({see})"
        )
    return f"unrecognized arguments: {' '.join(words)} ({see})"


def _variables(given: Any, names: Mapping[str, Any]) -> Any:
    # An argument in which the name of a variable of the prompt is the address that it holds.
    if isinstance(given, Span):
        return given._replace(start=_variables(given.start, names))
    if isinstance(given, list):
        return [_variables(one, names) for one in given]
    if not isinstance(given, Named) or given.symbol not in names:
        return given
    from .arguments import is_null, word_of
    from .errors import ArgumentError

    try:
        value = names[given.symbol]
        # A negative number is a word, but no address: the command knows which it is to be.
        address = (value if isinstance(value, int) else word_of(value)) + given.offset
    except ArgumentError:
        # A function, a module: what is meant is a symbol.
        return given
    if is_null(names[given.symbol]):
        raise ArgumentError(f"{given.symbol} is NULL")
    return address


def _register_help() -> None:
    from drgn.commands import CommandError, argument, parse_shell_command
    from drgn.commands.linux import linux_kernel_custom_command

    def run(prog: Program, name: str, words: Sequence[str], **kwargs: Any) -> Any:
        parser = kwargs["parser"]
        if {"-h", "--help"} & set(words):
            print(parser.format_help(), end="")
            return None
        told = _listed(words)
        if not told:
            raise CommandError(f"no command here begins with {' '.join(words)}")
        print("\n".join(_within(told)))
        return None

    linux_kernel_custom_command(
        name="slabhelp",
        description="list the commands of drgn-slabtype, or what stands for one of crash",
        long_description="list the commands of drgn-slabtype, or what stands for one of crash",
        arguments=(
            argument(
                "word",
                nargs="*",
                metavar="PREFIX",
                help="those whose names begin so; or a command of crash: kmem -s dentry",
            ),
            argument("-h", "--help", action="store_true", help="show this help"),
        ),
        parse=parse_shell_command,
    )(run)


def _listed(words: Sequence[str]) -> List[str]:
    # A line for each command that words mean.
    prompts = {spec.name: spec.prompt for spec in COMMANDS if spec.prompt is not None}
    meant = of_crash(words)
    if meant is not None:
        return [f"%{meant.spelled(prompts[meant.name])}"]
    of_kind = standing_for(words[0]) if words and words[0] in CRASH else []
    start = words[0].lstrip("%") if words else ""
    width = max(map(len, prompts.values()))
    return [
        f"%{spec.prompt:<{width}}  {spec.description}"
        for spec in COMMANDS
        if spec.prompt is not None
        and (spec.prompt.startswith(start) or spec.name in (start, *of_kind))
    ]


def _within(lines: Sequence[str]) -> Iterator[str]:
    # No line is wider than the terminal; what follows stands below the description.
    from textwrap import wrap

    from .report.output import width

    columns = width(None)
    for line in lines:
        described = line.partition("  ")[2].lstrip()
        indent = " " * (line.index(described) if described else 0)
        yield from [line] if columns is None else wrap(line, columns, subsequent_indent=indent)


def _register_crash(word: str) -> None:
    # So that a habit leads on, where drgn has no command of that name.
    from drgn.commands import DEFAULT_COMMAND_NAMESPACE, CommandError, parse_shell_command
    from drgn.commands.linux import linux_kernel_custom_command

    # If drgn calls it otherwise, it may have one.
    if word in getattr(DEFAULT_COMMAND_NAMESPACE, "_commands", (word,)):
        return

    def run(prog: Program, name: str, words: Sequence[str], **kwargs: Any) -> Any:
        told = _listed([word, *words]) if of_crash([word, *words]) else [f"%slabhelp {word}"]
        raise CommandError(f'{word} is a command of crash: did you mean "{told[0]}"?')

    linux_kernel_custom_command(
        name=word,
        description=f"tell what stands for {word} of crash",
        long_description=f"tell what stands for {word} of crash",
        arguments=(),
        parse=parse_shell_command,
    )(run)


def _register_all() -> None:
    try:
        import drgn.commands.linux  # noqa: F401
    except ImportError:
        # drgn before 0.0.33 has no commands; the library works without.
        return
    for spec in COMMANDS:
        if spec.prompt is not None:
            _register(spec, spec.prompt)
    _register_help()
    for word in CRASH:
        _register_crash(word)


_register_all()
