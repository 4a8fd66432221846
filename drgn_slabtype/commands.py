# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands
------------

One table, from which both the command line (``cli.py``) and the commands at the
drgn prompt (``plugin.py``) are made, so that both take the same options and give
the same answers. This module is imported into every drgn program of its users:
the library is imported inside the functions.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, List, Optional, Sequence

from .command import (
    Answer,
    Command,
    Option,
    answer,
    code_of,
    incomplete,
    jobs_code,
    jobs_option,
    option,
)
from .pagecommands import PAGE_COMMANDS
from .questions import MOST, QUESTIONS
from .triage import TRIAGE
from .typed import NUMBERS, address, number, report_file, seconds, word32

if TYPE_CHECKING:
    from drgn import Program

    from .answers.caches import CachesAnswer
    from .answers.decode import Decoded
    from .answers.explanations import Explanations
    from .capture import CaptureSummary
    from .demo import Act
    from .pagetype.detect import PageTypeLayout
    from .report import Text

__all__ = ("COMMANDS", "Answer", "Command", "Option", "answer", "option", "usage", "verdict")

_AS_OFTEN = {None: "{}", "?": "[{}]", "*": "[{} ...]", "+": "{0} [{0} ...]"}


def usage(command: Command) -> str:
    """Return what can be given to a command; options that need not be are listed elsewhere."""
    needed = []
    given = []
    for flags, settings in command.options:
        metavar = settings.get("metavar", flags[0])
        if not flags[0].startswith("-"):
            given.append(_AS_OFTEN[settings.get("nargs")].format(metavar))
        elif settings.get("required"):
            needed.append(f"{flags[0]} {metavar}")
    return " ".join([*needed, "[OPTION ...]", *given])


def _check(prog: Program, args: argparse.Namespace) -> Any:
    from .checking import run

    return run(prog, args)


def _check_refuse(args: argparse.Namespace) -> None:
    from .unjudged import is_watch

    if is_watch(args):
        from .checking import refuse_rounds

        refuse_rounds(args)


def _check_stopped(args: argparse.Namespace, records: Any, reason: str) -> Any:
    from .unjudged import is_watch, nothing

    if records is None and not is_watch(args):
        return nothing(args, reason)
    from .checking import stopped

    return stopped(args, records, reason)


def _check_presenter(records: Any) -> str:
    from .findings import Report

    return "check" if isinstance(records, Report) else "watch"


def _check_failures(records: Any) -> Sequence[str]:
    # A line for each report that was asked for and could not be written.
    notes = getattr(records, "notes", ())  # rounds of checks have none
    return [note.message for note in notes if note.code == "not-saved" and note.place]


def _check_code(args: argparse.Namespace) -> str:
    from .checking import code

    return code(args)


def _caches(prog: Program, args: argparse.Namespace) -> CachesAnswer:
    from .answers.caches import caches
    from .report.output import progress

    with progress() as show:
        return caches(
            prog,
            *args.cache,
            sort=args.sort,
            per_node=args.per_node,
            per_cpu=args.per_cpu,
            aliases=args.aliases,
            most=args.most,
            progress=show,
        )


def _caches_code(args: argparse.Namespace) -> str:
    names = "".join(f"{name!r}, " for name in args.cache)
    given = [name for name in ("per_node", "per_cpu", "aliases") if getattr(args, name)]
    options = "".join(f", {name}=True" for name in given)
    options += "" if args.most is None else f", most={args.most}"
    members = {
        "per_node": ", [(node.node, node.slabs, node.objects) for node in cache.nodes]",
        "per_cpu": ", [(cpu.cpu, cpu.free) for cpu in cache.cpus]",
        "aliases": ", cache.aliases",
    }
    more = "".join(members[name] for name in given)
    asked = f"""\
from drgn_slabtype import caches

answer = caches(prog, {names}sort={args.sort!r}{options})
"""
    shown = f"""\
for cache in answer.caches:
    print(cache.name + "*" * (not cache.consistent), cache.in_use, cache.objects{more})
for told in answer.unavailable:
    print(told)
if answer.damaged:
    print(answer.damaged, "caches with something wrong: see check")
"""
    return code_of(args, asked, "answer", shown)


def _layout(prog: Program, args: argparse.Namespace) -> PageTypeLayout:
    from dataclasses import replace

    from .machine import machine
    from .pages.exported import misread, missed_by_equality

    kernel = machine(prog)
    notes = misread(kernel.layout, missed_by_equality(kernel))
    return replace(kernel.layout, notes=notes)


def _layout_code(args: argparse.Namespace) -> str:
    asked = """\
from drgn_slabtype import page_type_layout

layout = page_type_layout(prog)
"""
    shown = "print(layout.encoding.name, layout.allocator, layout.evidence, layout.notes)\n"
    return code_of(args, asked, "layout", shown)


def _decode(prog: None, args: argparse.Namespace) -> List[Decoded]:
    from .answers.decode import decode

    return decode(args.value, args.layout)


def _decode_code(args: argparse.Namespace) -> str:
    layout = "" if args.layout is None else f", {args.layout!r}"
    asked = f"""\
from drgn_slabtype import decode

answer = decode({args.value:#x}{layout})
"""
    shown = """\
for one in answer:
    print(one.layout, one.printed, one.meaning)
"""
    return code_of(args, asked, "answer", shown)


def _capture(prog: Program, args: argparse.Namespace) -> CaptureSummary:
    from .capture import write_capture
    from .report.output import progress

    with progress() as show:
        return write_capture(
            prog,
            args.file,
            contents=args.contents,
            compressed=args.compressed,
            progress=show,
            jobs=args.jobs,
        )


def _capture_code(args: argparse.Namespace) -> str:
    given = ", contents=True" if args.contents else ""
    given += "" if args.compressed else ", compressed=False"
    asked = f"""\
from drgn_slabtype import write_capture

summary = write_capture(prog, {args.file!r}{given}{jobs_code(args)})
"""
    shown = """\
print(summary.path, summary.size, summary.memory, summary.unreadable)
for name, size in summary.regions.items():
    print(name, size)
for told in summary.left_out:
    print(told)
"""
    return code_of(args, asked, "summary", shown)


def _explain(prog: None, args: argparse.Namespace) -> Explanations:
    from .answers.explanations import explain

    return explain(*args.code, most=args.most)


def _explain_code(args: argparse.Namespace) -> str:
    given = [repr(code) for code in args.code]
    given += [] if args.most is None else [f"most={args.most}"]
    asked = f"""\
from drgn_slabtype import explain

answer = explain({", ".join(given)})
"""
    return code_of(args, asked, "answer", "for one in answer:\n    print(one)\n")


def _demo(prog: None, args: argparse.Namespace) -> List[Act]:
    from .demo import demo

    return demo()


def _demo_code(args: argparse.Namespace) -> str:
    asked = """\
from drgn_slabtype import demo

acts = demo()
"""
    shown = """\
for act in acts:
    print(act.title)
    for finding in act.report.findings:
        print(finding.message)
    print(act.report.outcome.value)
"""
    return code_of(args, asked, "acts", shown)


COMMANDS = (
    Command(
        "check",
        "check that slab counts, freelists and lists agree with each other",
        _check,
        prompt="slabcheck",
        options=(
            option(
                "address",
                nargs="*",
                type=address,
                metavar="ADDRESS",
                help="check only these slabs, given by any address in them; " + NUMBERS,
            ),
            option(
                "--cache",
                action="append",
                default=[],
                metavar="NAME",
                help="only this cache, or those that fit; may be repeated",
            ),
            option(
                "--html",
                metavar="FILE",
                help="also write a page with a map of memory and charts",
            ),
            option(
                "--report",
                type=report_file,
                action="append",
                default=[],
                metavar="FORMAT=FILE",
                help="also write json, junit, html, text, or what GitHub and GitLab read, github "
                "or gitlab; may be repeated",
            ),
            jobs_option("judge caches", "slabs"),
            option(
                "--watch",
                type=seconds,
                metavar="SECONDS",
                help="check again and again, with a pause of so many seconds: tell what is new, "
                "still there and gone",
            ),
            option(
                "--rounds",
                type=number,
                metavar="N",
                help="check so many times (default with --watch: no end)",
            ),
            option(
                "--until-finding", action="store_true", help="check again until there is a finding"
            ),
            option(
                "--max-time",
                type=seconds,
                metavar="SECONDS",
                help="end after so many seconds, with the report so far",
            ),
            option(
                "--capture",
                metavar="FILE",
                help="at the first finding, write a capture",
            ),
            option(
                "--known",
                metavar="FILE",
                help="tell which causes in a TOML file findings are like",
            ),
            option(
                "--baseline",
                metavar="FILE",
                help="accept findings that this TOML file has: tell them, fail for others only",
            ),
            option(
                "--write-baseline",
                metavar="FILE",
                help="write a baseline that accepts all that was found",
            ),
        ),
        formats=("table", "json", "junit", "github", "gitlab"),
        refuse=_check_refuse,
        drgn=_check_code,
        status=lambda records: records.exit_status,
        stopped=_check_stopped,
        failures=_check_failures,
        presenter=_check_presenter,
    ),
    *PAGE_COMMANDS,
    Command(
        "caches",
        "list all slab caches: objects, free ones and where they are, slabs, memory, waste",
        _caches,
        prompt="slabcaches",
        options=(
            option(
                "cache",
                nargs="*",
                metavar="CACHE",
                help="only these: names, names of merged caches, patterns (kmalloc-*)",
            ),
            option(
                "--sort",
                choices=(
                    "memory",
                    "name",
                    "objects",
                    "in-use",
                    "free",
                    "slabs",
                    "size",
                    "waste",
                    "occupancy",
                ),
                default="memory",
                help="largest first, but names A to Z and the emptiest first (default: memory)",
            ),
            option("--per-node", action="store_true", help="also list what each node has"),
            option("--per-cpu", action="store_true", help="also list what each CPU keeps"),
            option(
                "--aliases", action="store_true", help="show the names of caches merged into one"
            ),
            MOST,
        ),
        drgn=_caches_code,
        status=lambda answer: 1 if answer.damaged else incomplete(answer),
    ),
    *QUESTIONS,
    Command(
        "layout",
        "show how this kernel marks its pages, and how that is known",
        _layout,
        prompt="slablayout",
        drgn=_layout_code,
    ),
    Command(
        "decode",
        "read a page type word, without a kernel",
        _decode,
        options=(
            option(
                "value",
                type=word32,
                metavar="VALUE",
                help="the word, of 32 bits, also as a negative number; " + NUMBERS,
            ),
            option("--layout", metavar="NAME", help="read it by this layout only"),
        ),
        target=False,
        drgn=_decode_code,
    ),
    Command(
        "capture",
        "write what a check reads to a small file that can be checked anywhere",
        _capture,
        options=(
            option(
                "-o",
                dest="file",
                metavar="FILE",
                required=True,
                help="the file to write",
            ),
            option(
                "--contents", action="store_true", help="keep what users store in their objects"
            ),
            option(
                "--uncompressed",
                dest="compressed",
                action="store_false",
                help="write a file that drgn itself can open",
            ),
            jobs_option("compress", "pages", ""),
        ),
        output=False,
        drgn=_capture_code,
    ),
    *TRIAGE,
    Command(
        "explain",
        "tell what a code means: what the kernel promises, usual causes, where to look next",
        _explain,
        prompt="slabexplain",
        options=(
            option(
                "code",
                nargs="*",
                metavar="CODE",
                help="only these: codes, patterns (freelist-*), families of rules (claim)",
            ),
            MOST,
        ),
        target=False,
        drgn=_explain_code,
    ),
    Command(
        "demo",
        "check a kernel that ships with this program, whole and then damaged",
        _demo,
        target=False,
        kernels=True,
        drgn=_demo_code,
        status=lambda acts: 0 if all(act.as_expected for act in acts) else 1,
    ),
)
"""Every command; adding a row here adds it to the shell and to the prompt."""


def verdict(command: Command, found: Answer, wide: bool = False) -> Optional[Text]:
    """
    Return a verdict in words, which counts although its file could not be written.

    :param wide: Also wider than the terminal.
    """
    from .report import present
    from .report.output import width

    if found.records is None or found.output is None or command.stopped is None:
        return None
    if not isinstance(found.text, str):
        return None
    return present(command.name, found.records, "table", None if wide else width(None))
