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
from typing import TYPE_CHECKING, List, Tuple, Union

from .command import Answer, AnyAddress, Command, Named, Option, address, answer, option, span

if TYPE_CHECKING:
    from drgn import Program

    from .answers.address import AddressInfo
    from .answers.caches import CachesAnswer
    from .answers.decode import Decoded
    from .answers.likeness import KindsAnswer
    from .answers.owners import OwnersAnswer
    from .answers.page import PageInfo
    from .answers.refs import References
    from .answers.sites import Site
    from .answers.slabs import SlabsAnswer
    from .answers.stacks import StacksAnswer
    from .answers.states import Objects
    from .answers.what import Word
    from .capture import CaptureSummary
    from .demo import Act
    from .diff import Difference
    from .findings import Report
    from .pages.census import Census
    from .pagetype.detect import PageTypeLayout

__all__ = ("COMMANDS", "Answer", "Command", "Option", "answer", "option", "pfn_range")

_MAP_CELLS = 1024  # in a terminal
_PICTURE_CELLS = 4096


def _resolved(prog: Program, given: AnyAddress) -> int:
    from .machine import machine
    from .machine.symbols import symbol_address

    return symbol_address(machine(prog), *given) if isinstance(given, Named) else given


def _spelled(given: AnyAddress) -> str:
    # In Python.
    if isinstance(given, Named):
        offset = f" + {given.offset:#x}" if given.offset else ""
        return f"prog.symbol({given.symbol!r}).address{offset}"
    return f"0x{given:x}"


def _check(prog: Program, args: argparse.Namespace) -> Report:
    from .check import check
    from .report.output import check_writable, progress
    from .target import describe, shortfall

    check_writable(args.html)
    with progress() as show:
        addresses = [_resolved(prog, given) for given in args.address]
        report = check(prog, caches=args.cache, addresses=addresses, progress=show)
    report.target = describe(prog)
    missing = shortfall(prog)
    if missing is not None:
        report.unavailable.insert(0, missing)
    if args.html:
        _write_html(prog, report, args.html)
    return report


def _write_html(prog: Program, report: Report, path: str) -> None:
    from .pages.census import census
    from .report import html
    from .report.output import emit, progress

    with progress() as show:
        found = census(prog, show, cells=_PICTURE_CELLS)
    emit("".join(html.check(report, found)), path)


def _check_code(args: argparse.Namespace) -> str:
    arguments = ["prog"]
    if args.cache:
        arguments.append(f"caches={args.cache!r}")
    if args.address:
        arguments.append(f"addresses=[{', '.join(map(_spelled, args.address))}]")
    return f"""\
from drgn_slabtype import check

report = check({", ".join(arguments)})
for finding in report.findings:
    print(finding.message)
"""


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
            progress=show,
        )


def _caches_code(args: argparse.Namespace) -> str:
    names = "".join(f"{name!r}, " for name in args.cache)
    return f"""\
from drgn_slabtype import caches

for cache in caches(prog, {names}sort={args.sort!r}).caches:
    print(cache.name, cache.in_use, cache.objects)
"""


def _objects(prog: Program, args: argparse.Namespace) -> Objects:
    from .answers.objects import objects

    return objects(prog, args.cache, args.state)


def _objects_code(args: argparse.Namespace) -> str:
    return f"""\
from drgn.helpers.linux.slab import find_slab_cache
from drgn_slabtype import for_each_object

cache = find_slab_cache(prog, {args.cache!r})
for pointer in for_each_object(cache, "void", {args.state or "in use"!r}):
    print(hex(pointer))
"""


def _slabs(prog: Program, args: argparse.Namespace) -> SlabsAnswer:
    from .answers.slabs import slabs

    slab = None if args.slab is None else _resolved(prog, args.slab)
    return slabs(
        prog,
        args.cache,
        partial=args.partial,
        full=args.full,
        cpu=args.cpu,
        node=args.node,
        slab=slab,
    )


def _slabs_code(args: argparse.Namespace) -> str:
    options = "".join(
        f", {name}={getattr(args, name)!r}"
        for name in ("partial", "full", "cpu", "node")
        if getattr(args, name) not in (None, False)
    )
    if args.slab is not None:
        options += f", slab={_spelled(args.slab)}"
    return f"""\
from drgn_slabtype import slabs

for slab in slabs(prog, {args.cache!r}{options}).slabs:
    print(hex(slab.slab), slab.list, slab.in_use, slab.objects)
"""


def _object(prog: Program, args: argparse.Namespace) -> AddressInfo:
    from .answers.object import slab_object

    return slab_object(prog, _resolved(prog, args.address))


def _object_code(args: argparse.Namespace) -> str:
    return f"""\
from drgn_slabtype import slab_object

info = slab_object(prog, {_spelled(args.address)})
print(info.meaning, info.state, info.places)
"""


def _what(prog: Program, args: argparse.Namespace) -> Word:
    from .answers.what import what

    at = None if args.at is None else _resolved(prog, args.at)
    return what(prog, _resolved(prog, args.word), at)


def _what_code(args: argparse.Namespace) -> str:
    at = "" if args.at is None else f", {_spelled(args.at)}"
    return f"""\
from drgn_slabtype import what

for one in what(prog, {_spelled(args.word)}{at}).meanings:
    print(one.kind, one.meaning)
"""


def _refs(prog: Program, args: argparse.Namespace) -> References:
    from .answers.refs import KINDS, refs
    from .report.output import progress

    with progress() as show:
        return refs(
            prog,
            _resolved(prog, args.memory.start),
            args.memory.size,
            kinds=args.kinds or KINDS,
            type=args.type,
            most=args.most,
            progress=show,
        )


def _refs_code(args: argparse.Namespace) -> str:
    size = "" if args.memory.size is None else f", {args.memory.size:#x}"
    kinds = f", kinds={args.kinds!r}" if args.kinds else ""
    type = f", type={args.type!r}" if args.type else ""
    arguments = f"{_spelled(args.memory.start)}{size}{kinds}{type}, most={args.most}"
    return f"""\
from drgn_slabtype import refs

for ref in refs(prog, {arguments}).references:
    print(hex(ref.address), ref.meaning)
"""


def _stacks(
    prog: Program, args: argparse.Namespace
) -> Union[StacksAnswer, KindsAnswer, List[Site]]:
    from .answers.likeness import kinds
    from .answers.sites import allocation_sites
    from .answers.stacks import stacks
    from .errors import TargetError
    from .report.output import progress

    if args.by == "sites":
        return allocation_sites(prog)[: args.most]
    if args.by == "words":
        if len(args.cache) != 1 or args.freed:
            raise TargetError("--by words: name one cache, and its objects in use are told")
        return kinds(prog, args.cache[0], most=args.most)
    with progress() as show:
        return stacks(prog, *args.cache, freed=args.freed, most=args.most, progress=show)


def _stacks_code(args: argparse.Namespace) -> str:
    if args.by == "sites":
        return """\
from drgn_slabtype import allocation_sites

for site in allocation_sites(prog):
    print(site.bytes, site.file, site.line)
"""
    if args.by == "words":
        return f"""\
from drgn_slabtype import kinds

for kind in kinds(prog, {args.cache[0] if args.cache else ""!r}).kinds:
    print(kind.count, [word.symbol for word in kind.words])
"""
    names = "".join(f", {name!r}" for name in args.cache)
    freed = ", freed=True" if args.freed else ""
    return f"""\
from drgn_slabtype import stacks

for stack in stacks(prog{names}{freed}).stacks:
    print(stack.count, stack.cache, stack.caller)
"""


def _owners(prog: Program, args: argparse.Namespace) -> OwnersAnswer:
    from .answers.owners import owners

    return owners(prog, args.cache)


def _owners_code(args: argparse.Namespace) -> str:
    return f"""\
from drgn_slabtype import owners

for owner in owners(prog, {args.cache!r}).owners:
    print(owner.objects, owner.path)
"""


def _pages(prog: Program, args: argparse.Namespace) -> Census:
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
            cells=_MAP_CELLS if args.map else 0,
            colour=colours(args.output),
        )
        write_kernel_files(prog, args.kpageflags, args.kpagecount, show)
    return found


def pfn_range(text: str) -> Tuple[int, int]:
    """
    Return the range [start, end) of page frame numbers that a text means.

    :param text: ``FIRST-LAST``, ``FIRST+COUNT`` or a single number, decimal or ``0x…``.
    :raises ValueError: if it is none of these.
    """
    first, dash, last = text.partition("-")
    start, plus, count = text.partition("+")
    if dash:
        bounds = int(first, 0), int(last, 0) + 1
    else:
        bounds = int(start, 0), int(start, 0) + (int(count, 0) if plus else 1)
    if not 0 <= bounds[0] < bounds[1]:
        raise ValueError(f"{text} is no range of page frames")
    return bounds


def _pages_code(args: argparse.Namespace) -> str:
    return """\
from drgn_slabtype import census

for row in census(prog).rows:
    print(row.type, row.pages)
"""


def _page(prog: Program, args: argparse.Namespace) -> PageInfo:
    from .answers.page import page_info

    return page_info(prog, args.page)


def _page_code(args: argparse.Namespace) -> str:
    return f"""\
from drgn_slabtype import page_info

print("\\n".join(page_info(prog, {args.page:#x}).dump))
"""


def _layout(prog: Program, args: argparse.Namespace) -> PageTypeLayout:
    from dataclasses import replace

    from .machine import machine
    from .pages.exported import missed_by_equality

    layout = machine(prog).layout
    missed = missed_by_equality(machine(prog))
    return replace(layout, notes=(*layout.notes, str(missed))) if missed else layout


def _layout_code(args: argparse.Namespace) -> str:
    return """\
from drgn_slabtype import page_type_layout

layout = page_type_layout(prog)
print(layout.encoding.name, layout.allocator)
"""


def _decode(prog: None, args: argparse.Namespace) -> List[Decoded]:
    from .answers.decode import decode

    return decode(args.value, args.layout)


def _capture(prog: Program, args: argparse.Namespace) -> CaptureSummary:
    from .capture import write_capture
    from .report.output import progress

    with progress() as show:
        return write_capture(
            prog, args.file, contents=args.contents, compressed=args.compressed, progress=show
        )


def _diff(prog: None, args: argparse.Namespace) -> Difference:
    from .diff import compare, open_moment

    before, after = (open_moment(path, args.symbols) for path in (args.before, args.after))
    return compare(before, after)


def _diff_code(args: argparse.Namespace) -> str:
    return f"""\
from drgn_slabtype import compare, open_moment

before, after = (open_moment(path, {args.symbols!r}) for path in ({args.before!r}, {args.after!r}))
for cache in compare(before, after).caches:
    print(cache.cache, cache.growth)
"""


def _demo(prog: None, args: argparse.Namespace) -> List[Act]:
    from .demo import demo

    return demo()


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
                help="check only these slabs, given by any address in them",
            ),
            option(
                "--cache",
                action="append",
                default=[],
                metavar="NAME",
                help="check only this slab cache; may be given more than once",
            ),
            option(
                "--html",
                metavar="FILE",
                help="also write a page with a map of memory and charts of the caches",
            ),
        ),
        formats=("table", "json", "junit"),
        drgn=_check_code,
        status=lambda report: report.exit_status,
    ),
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
            option("--node", type=int, metavar="NODE", help="only pages of this NUMA node"),
            option(
                "--pfn",
                type=pfn_range,
                metavar="FIRST-LAST",
                help="only these page frames; FIRST+COUNT and a single number will do too",
            ),
            option("-l", "--list", action="store_true", help="list neighbouring pages of a kind"),
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
        drgn=_pages_code,
        status=lambda census: 3 if census.unreadable_pages else 0,
    ),
    Command(
        "page",
        "tell everything about one page, beginning with what dump_page() prints",
        _page,
        prompt="dumppage",
        options=(
            option(
                "page",
                type="decimal_or_hexadecimal",
                metavar="ADDRESS|PFN",
                help="a page frame number, any address in the page, or its struct page",
            ),
        ),
        drgn=_page_code,
        status=lambda info: 1 if info.slab is not None and info.slab.findings else 0,
    ),
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
        ),
        drgn=_caches_code,
    ),
    Command(
        "objects",
        "list the objects of a slab cache, with the state of each and who says so",
        _objects,
        prompt="slabobjects",
        options=(
            option("cache", metavar="CACHE", help="name of the slab cache"),
            *(
                option(
                    f"--{state.replace(' ', '-')}",
                    dest="state",
                    action="store_const",
                    const=state,
                    help=help,
                )
                for state, help in (
                    ("free", "only those that can be handed out"),
                    ("in use", "only those that users hold"),
                    ("waiting", "only those freed whose grace period has not passed"),
                    ("unknown", "only those about which structures contradict each other"),
                )
            ),
        ),
        drgn=_objects_code,
    ),
    Command(
        "slabs",
        "list the slabs of a cache: list or CPU, objects in use, free ones and where they are",
        _slabs,
        prompt="slabs",
        options=(
            option("cache", metavar="CACHE", help="name of the slab cache"),
            option("--partial", action="store_true", help="only those on partial lists, CPUs' too"),
            option("--full", action="store_true", help="only those without a free object"),
            option("--cpu", type=int, metavar="CPU", help="only those that this CPU has"),
            option("--node", type=int, metavar="NODE", help="only those of this NUMA node"),
            option(
                "--slab",
                type=address,
                metavar="ADDRESS",
                help="only this one, or the one with this address in it, with all of its objects",
            ),
        ),
        drgn=_slabs_code,
        status=lambda answer: 1 if any(slab.finding for slab in answer.slabs) else 0,
    ),
    Command(
        "object",
        "tell what an address is: cache, slab, object, its state and its neighbours",
        _object,
        prompt="slabobject",
        options=(
            option(
                "address",
                type=address,
                metavar="ADDRESS",
                help="any address, also inside an object or of a page; or a symbol",
            ),
        ),
        drgn=_object_code,
    ),
    Command(
        "what",
        "tell what a word can be: poison, text, time, error, address, free pointer, a wrong bit",
        _what,
        prompt="slabwhat",
        options=(
            option("word", type=address, metavar="WORD", help="64 bits, hexadecimal; or a symbol"),
            option(
                "--at",
                type=address,
                metavar="ADDRESS",
                help="where it is stored, which tells hardened free pointers",
            ),
        ),
        drgn=_what_code,
    ),
    Command(
        "stacks",
        "count objects by the call trace that allocated or freed them, or by what they hold",
        _stacks,
        prompt="slabstacks",
        options=(
            option("cache", nargs="*", metavar="CACHE", help="only of these; names and patterns"),
            option("--freed", action="store_true", help="free objects, by who freed them last"),
            option(
                "--by",
                choices=("traces", "words", "sites"),
                default="traces",
                help="call traces that slub_debug keeps (default), symbols among the first words "
                "of the objects of one cache, or the counters of memory allocation profiling",
            ),
            option(
                "-n", dest="most", type=int, default=20, metavar="N", help="show no more than N"
            ),
        ),
        drgn=_stacks_code,
    ),
    Command(
        "owners",
        "count the objects of a cache by memory cgroup, node and CPU",
        _owners,
        prompt="slabowners",
        options=(option("cache", metavar="CACHE", help="name of the slab cache"),),
        drgn=_owners_code,
    ),
    Command(
        "refs",
        "search all memory for words that point into an object, a page or other memory",
        _refs,
        prompt="slabrefs",
        options=(
            option(
                "memory",
                type=span,
                metavar="ADDRESS[+SIZE]",
                help="an object, whole; with a size, so many bytes from the address on",
            ),
            option(
                "--in",
                dest="kinds",
                action="append",
                choices=("slabs", "stacks", "data", "percpu", "pages"),
                help="only those that lie in these; may be given more than once",
            ),
            option(
                "--type",
                metavar="TYPE",
                help="name the members of what points there, 'struct dentry'",
            ),
            option(
                "-n", dest="most", type=int, default=1000, metavar="N", help="show no more than N"
            ),
        ),
        drgn=_refs_code,
        status=lambda answer: 3 if answer.unreadable_pages else 0,
    ),
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
                type="decimal_or_hexadecimal",
                metavar="VALUE",
                help="the word, as a decimal or hexadecimal number",
            ),
            option("--layout", metavar="NAME", help="read it by this layout only"),
        ),
        target=False,
    ),
    Command(
        "capture",
        "write what a check reads to a small file that can be checked anywhere",
        _capture,
        options=(
            option("-o", dest="file", metavar="FILE", required=True, help="the file to write"),
            option(
                "--contents", action="store_true", help="keep what users store in their objects"
            ),
            option(
                "--uncompressed",
                dest="compressed",
                action="store_false",
                help="write a file that drgn itself can open",
            ),
        ),
        output=False,
    ),
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
        ),
        target=False,
        drgn=_diff_code,
        status=lambda difference: difference.exit_status,
    ),
    Command(
        "demo",
        "check a kernel that ships with this program, whole and then damaged",
        _demo,
        target=False,
        status=lambda acts: 0 if all(act.as_expected for act in acts) else 1,
    ),
)
"""Every command; adding a row here adds it to the shell and to the prompt."""
