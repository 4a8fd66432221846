# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands about pages
------------------------

Part of the table of :mod:`drgn_slabtype.commands`; imported into every drgn
program of its users.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Tuple

from .command import Command, code_of, option
from .typed import NUMBERS, count, integer, numeral, page, resolved, spelled

if TYPE_CHECKING:
    from drgn import Program

    from .answers.page import PageInfo
    from .pages.census import Census

_MAP_CELLS = 1024  # in a terminal


def _pages(prog: Program, args: argparse.Namespace) -> Census:
    from .errors import TargetError
    from .pages.census import Selection, census
    from .pages.kpageflags import write_kernel_files
    from .report.output import check_writable, colours, progress

    for path in (args.kpageflags, args.kpagecount):
        check_writable(path)
    select = Selection(args.type, args.flag, args.node, args.pfn)
    with progress() as show:
        found = census(
            prog,
            show,
            select=select,
            flags=args.flags,
            runs=args.list,
            most=args.most,
            cells=_MAP_CELLS if args.map else 0,
            colour=colours(args.output),
        )
        # What was counted is told, whatever becomes of a file.
        for flags, counts in ((args.kpageflags, None), (None, args.kpagecount)):
            try:
                write_kernel_files(prog, flags, counts, show)
            except TargetError as error:
                found.unsaved.append(str(error))
    return found


def _pages_refuse(args: argparse.Namespace) -> None:
    from .errors import TargetError

    if args.most is not None and not args.list:
        raise TargetError("-n N says how much of --list is told: there is no --list")


def pfn_range(text: str) -> Tuple[int, int]:
    """
    Return the range [start, end) of page frame numbers that a text means.

    :param text: ``FIRST-LAST``, ``FIRST+COUNT`` or a single number, read as all numbers are.
    :raises argparse.ArgumentTypeError: if it is none of these.
    """
    first, dash, last = text.partition("-")
    start, plus, size = text.partition("+")
    try:
        if dash:
            bounds = numeral(first), numeral(last) + 1
        else:
            bounds = numeral(start), numeral(start) + (numeral(size) if plus else 1)
    except ValueError:
        bounds = 0, 0
    if not 0 <= bounds[0] < bounds[1]:
        raise argparse.ArgumentTypeError(
            f"{text or repr(text)} is no range of page frames: FIRST-LAST, FIRST+COUNT or a "
            "single number is"
        )
    return bounds


def _pages_code(args: argparse.Namespace) -> str:
    selected = ("types", args.type), ("flags", args.flag), ("node", args.node), ("pfns", args.pfn)
    select = ", ".join(
        f"{name}={given!r}" for name, given in selected if given is not None and given != []
    )
    wanted = [f"select=Selection({select})"] if select else []
    wanted += ["flags=True"] if args.flags else []
    wanted += ["runs=True"] if args.list else []
    wanted += [] if args.most is None else [f"most={args.most}"]
    wanted += [f"cells={_MAP_CELLS}"] if args.map else []
    files = args.kpageflags, args.kpagecount
    names = ["Selection"] if select else []
    names += ["census"] + (["write_kernel_files"] if any(files) else [])
    asked = f"""\
from drgn_slabtype import {", ".join(names)}

found = census({", ".join(["prog", *wanted])})
"""
    shown = """\
for row in found.rows:
    print(row.type, row.pages)
for place in found.places:
    print(place.node, place.zone, place.types)
"""
    shown += (
        """\
for row in found.flags:
    print(hex(row.flags), row.pages)
"""
        * args.flags
    )
    shown += (
        """\
for run in found.runs:
    print(hex(run.pfn), run.pages, run.type)
"""
        * args.list
    )
    shown += (
        """\
for cell in found.map.cells:
    print(hex(cell.pfn), cell.types)
"""
        * args.map
    )
    shown += """\
for one in found.conflicts:
    print(hex(one.pfn), one.meaning)
print(found.pages, "pages,", found.unreadable_pages, "unreadable")
"""
    end = f"write_kernel_files(prog, {files[0]!r}, {files[1]!r})\n" if any(files) else ""
    return code_of(args, asked, "found", shown, end)


def _page(prog: Program, args: argparse.Namespace) -> PageInfo:
    from .answers.page import page_info

    return page_info(prog, resolved(prog, args.page))


def _page_code(args: argparse.Namespace) -> str:
    asked = f"""\
from drgn_slabtype import page_info

info = page_info(prog, {spelled(args.page)})
"""
    shown = """\
print("\\n".join(info.dump))
print(info)
"""
    return code_of(args, asked, "info", shown)


PAGE_COMMANDS = (
    Command(
        "pages",
        "count all pages by what they are used for",
        _pages,
        prompt="pagetypes",
        options=(
            option(
                "-t",
                "--type",
                action="append",
                default=[],
                metavar="TYPE",
                help="only pages of this type; may be given more than once",
            ),
            option(
                "-b",
                "--flag",
                action="append",
                default=[],
                metavar="FLAG",
                help="only pages with this flag, named as by page-types; more than once: with all",
            ),
            option("--node", type=integer, metavar="NODE", help="only pages of this NUMA node"),
            option(
                "--pfn",
                type=pfn_range,
                metavar="FIRST-LAST",
                help="only these page frames; FIRST+COUNT and a single number will do too; "
                + NUMBERS,
            ),
            option("-l", "--list", action="store_true", help="list neighbouring pages of a kind"),
            option(
                "-n", dest="most", type=count, metavar="N", help="list no more than N such ranges"
            ),
            option(
                "--flags", action="store_true", help="count by flags too, in rows as of page-types"
            ),
            option("--map", action="store_true", help="draw a map of memory"),
            option(
                "--kpageflags",
                metavar="FILE",
                help="write what /proc/kpageflags has, for the kernel's page-types tool",
            ),
            option("--kpagecount", metavar="FILE", help="write what /proc/kpagecount has"),
        ),
        refuse=_pages_refuse,
        drgn=_pages_code,
        status=lambda census: 3 if census.unreadable_pages else 0,
        failures=lambda census: census.unsaved,
    ),
    Command(
        "page",
        "tell everything about one page, beginning with what dump_page() prints",
        _page,
        prompt="dumppage",
        options=(
            option(
                "page",
                type=page,
                metavar="ADDRESS|PFN",
                help="a page frame number, any address in the page, its struct page, or a symbol; "
                + NUMBERS,
            ),
        ),
        drgn=_page_code,
        status=lambda info: 1 if info.findings or (info.slab and info.slab.findings) else 0,
    ),
)
"""Rows of the table of commands."""
