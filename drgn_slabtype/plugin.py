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
from typing import TYPE_CHECKING, Any, Sequence

from .commands import COMMANDS, Command, answer

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
        return _run(prog, parser.parse_args(words))

    def _run(prog: Program, args: argparse.Namespace) -> Any:
        from .errors import SlabTypeError
        from .report.output import emit
        from .signals import Interruptions, repeat
        from .target import ensure_types

        def program() -> Program:
            ensure_types(prog)
            return prog

        try:
            with Interruptions(at_once=False) as interruptions:
                interruptions.limit(getattr(args, "max_time", None))
                found = answer(spec, program, args)
                emit(found.text, found.output)
        except SlabTypeError as e:
            raise CommandError(str(e)) from e
        repeat(interruptions.signal)
        return found.records

    linux_kernel_custom_command(
        name=name,
        description=spec.description,
        long_description=spec.description,
        arguments=(
            *(argument(*o.flags, **o.settings) for o in spec.all_options()),
            argument("-h", "--help", action="store_true", help="show this help"),
        ),
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


_register_all()
