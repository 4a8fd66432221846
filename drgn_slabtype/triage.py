# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands for many dumps
---------------------------

Rows of the table of commands, and what they do; imported into every drgn program
of its users, and so the library is imported inside the functions.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Sequence

from .command import Command, option
from .typed import memory, number, seconds

if TYPE_CHECKING:
    from .fleet.known import Cause
    from .fleet.summary import Fleet


def _fleet(prog: None, args: argparse.Namespace) -> Fleet:
    from .fleet.run import Options, Run
    from .report.output import check_writable, fleet_progress

    check_writable(args.html)
    causes = _causes(args)
    options = Options(
        args.symbols,
        args.default_symbols,
        args.processes,
        args.scheduler,
        args.each_time,
        args.each_memory,
    )
    with fleet_progress() as show:
        run = Run(args.paths, args.folder, options, show)
        run.go()
    fleet = _summary(args, causes)
    fleet.unread = run.unread
    return fleet


def _report(prog: None, args: argparse.Namespace) -> Fleet:
    from .report.output import check_writable

    check_writable(args.html)
    return _summary(args, _causes(args))


def _causes(args: argparse.Namespace) -> Sequence[Cause]:
    from .fleet.known import read_causes

    return read_causes(args.known) if args.known else ()


def _summary(args: argparse.Namespace, causes: Sequence[Cause]) -> Fleet:
    from .fleet.summary import summarise

    fleet = summarise(args.folder, causes, args.by_kernel)
    if args.html:
        from .report import html
        from .report.output import emit

        emit("".join(html.fleet(fleet)), args.html)
    return fleet


def _stopped(args: argparse.Namespace, records: Any, reason: str) -> Fleet:
    from .errors import TargetError
    from .fleet.summary import Fleet, summarise

    try:
        fleet = records or summarise(args.folder, by_kernel=args.by_kernel)
    except TargetError:  # it had not begun
        fleet = Fleet(args.folder)
    fleet.stop(reason)
    return fleet


def _presenter(records: Any) -> str:
    return "fleet"


_OF_BOTH = (
    option(
        "--known",
        metavar="FILE",
        help="tell which of the known causes in this TOML file groups look like",
    ),
    option(
        "--by-kernel",
        action="store_true",
        help="make groups of their own of kernels of another version or layout",
    ),
    option("--html", metavar="FILE", help="also write a page with all groups"),
)

TRIAGE = (
    Command(
        "fleet",
        "check all dumps and captures below some paths, and group them by what is wrong",
        _fleet,
        options=(
            option(
                "paths",
                nargs="+",
                metavar="PATH",
                help="a folder, a dump, a capture, or a report of check in JSON",
            ),
            option(
                "-o",
                dest="folder",
                metavar="FOLDER",
                required=True,
                help="where results are kept; a run that was stopped goes on there",
            ),
            option(
                "-s",
                "--symbols",
                metavar="FOLDER",
                action="append",
                default=[],
                help="where the vmlinux of each dump is, found by its build ID; more than once: "
                "in any of them",
            ),
            option(
                "--no-default-symbols",
                dest="default_symbols",
                action="store_false",
                help="do not look for debug info where drgn does",
            ),
            option(
                "-j",
                dest="processes",
                type=number,
                metavar="N",
                help="how many dumps are checked at a time (default: one a processor)",
            ),
            option(
                "--max-time",
                dest="each_time",
                type=seconds,
                default=3600.0,
                metavar="SECONDS",
                help="give a dump up after so many seconds (default: 3600)",
            ),
            option(
                "--max-memory",
                dest="each_memory",
                type=memory,
                metavar="SIZE",
                help="give a dump up that takes more memory, such as 4G (default: together, "
                "80 %% of the machine's)",
            ),
            option(
                "--scheduler",
                metavar="ADDRESS",
                help="have the workers of this Dask scheduler do the work; they must see the same "
                "files",
            ),
            *_OF_BOTH,
        ),
        target=False,
        kernels=True,
        output=False,
        status=lambda fleet: fleet.exit_status,
        stopped=_stopped,
        presenter=_presenter,
    ),
    Command(
        "fleet report",
        "tell what fleet has found in a folder, by groups of dumps",
        _report,
        options=(option("folder", metavar="FOLDER", help="that fleet wrote to"), *_OF_BOTH),
        target=False,
        kernels=True,
        status=lambda fleet: fleet.exit_status,
        presenter=_presenter,
    ),
)
"""The commands for many dumps."""
