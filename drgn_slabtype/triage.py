# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands for two dumps, and for many
----------------------------------------

Rows of the table of commands, and what they do; imported into every drgn program
of its users, and so the library is imported inside the functions.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, List, Sequence

from .command import Command, code_of, option
from .typed import count, memory, number, seconds

if TYPE_CHECKING:
    from .diff import Difference
    from .fleet.known import Cause
    from .fleet.summary import Fleet


def _diff(prog: None, args: argparse.Namespace) -> Difference:
    from .diff import compare, open_moment

    before, after = (open_moment(path, args.symbols) for path in (args.before, args.after))
    found = compare(before, after, most=args.most)
    found.everything = args.wide
    return found


def _diff_code(args: argparse.Namespace) -> str:
    most = "" if args.most is None else f", most={args.most}"
    asked = f"""\
from drgn_slabtype import compare, open_moment

before, after = (open_moment(path, {args.symbols!r}) for path in ({args.before!r}, {args.after!r}))
found = compare(before, after{most})
"""
    shown = f"""\
for finding in found.findings:
    print(finding.change, finding.message)
for cache in found.{"caches" if args.wide else "grown"}:
    print(cache.cache, cache.growth, cache.bytes, cache.slabs)
for stack in found.stacks or ():
    print(stack.cache, stack.growth, stack.caller)
for page in found.pages or ():
    print(page.type, page.growth)
for name, count in found.left_out.items():
    print(count, "more", name)
print(found.overwritten_before, "records of allocations overwritten,", found.overwritten_after)
for told in found.unavailable:
    print(told)
"""
    return code_of(args, asked, "found", shown)


def _fleet(prog: None, args: argparse.Namespace) -> Fleet:
    from .fleet.judge import judge_fleet
    from .report.output import fleet_progress

    causes = _causes(args)
    with fleet_progress() as show:
        return judge_fleet(
            args.paths,
            args.folder,
            symbols=args.symbols,
            default_symbols=args.default_symbols,
            processes=args.processes,
            scheduler=args.scheduler,
            max_time=args.each_time,
            max_memory=args.each_memory,
            causes=causes,
            by_kernel=args.by_kernel,
            html=args.html,
            progress=show,
        )


def _refuse(args: argparse.Namespace) -> None:
    from .report.output import check_writable

    check_writable(args.html)


def _fleet_code(args: argparse.Namespace) -> str:
    given = [repr(args.paths), repr(args.folder)]
    for name, value, usual in (
        ("symbols", args.symbols, []),
        ("default_symbols", args.default_symbols, True),
        ("processes", args.processes, None),
        ("scheduler", args.scheduler, None),
        ("max_time", args.each_time, 3600.0),
        ("max_memory", args.each_memory, None),
    ):
        given += [] if value == usual else [f"{name}={value!r}"]
    return _code("judge_fleet", given, args)


def _report(prog: None, args: argparse.Namespace) -> Fleet:
    from .fleet.judge import fleet_summary

    causes = _causes(args)
    return fleet_summary(args.folder, causes=causes, by_kernel=args.by_kernel, html=args.html)


def _report_code(args: argparse.Namespace) -> str:
    return _code("fleet_summary", [repr(args.folder)], args)


def _code(function: str, given: List[str], args: argparse.Namespace) -> str:
    names = [function]
    if args.known:
        names.append("read_causes")
        given = [*given, f"causes=read_causes({args.known!r})"]
    if args.by_kernel:
        given = [*given, "by_kernel=True"]
    if args.html:
        given = [*given, f"html={args.html!r}"]
    asked = f"""\
from drgn_slabtype import {", ".join(names)}

fleet = {function}({", ".join(given)})
"""
    shown = """\
for group in fleet.groups:
    print(group.dumps, group.what)
for release in fleet.releases:
    print(release.release, release.dumps, release.damaged)
for dump in fleet.unjudged:
    print(dump)
for told in fleet.unread:
    print(told)
print(fleet.totals)
"""
    return code_of(args, asked, "fleet", shown)


def _causes(args: argparse.Namespace) -> Sequence[Cause]:
    from .fleet.known import read_causes

    return read_causes(args.known) if args.known else ()


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
        "diff",
        "tell what grew between two dumps, captures or saved reports of one kernel",
        _diff,
        prompt="slabdiff",
        options=(
            option("before", metavar="A", help="a dump, a capture or a report in JSON"),
            option("after", metavar="B", help="the same of a later moment"),
            option(
                "-s",
                "--symbols",
                metavar="PATH",
                action="append",
                default=[],
                help="vmlinux with debug info, for dumps; may be given more than once",
            ),
            option(
                "-n",
                dest="most",
                type=count,
                metavar="N",
                help="show no more than N caches, call traces and kinds of pages",
            ),
        ),
        target=False,
        kernels=True,
        drgn=_diff_code,
        everything="; caches without growth",
        status=lambda difference: difference.exit_status,
    ),
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
        drgn=_fleet_code,
        refuse=_refuse,
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
        drgn=_report_code,
        refuse=_refuse,
        status=lambda fleet: fleet.exit_status,
        presenter=_presenter,
    ),
)
"""The commands for many dumps."""
