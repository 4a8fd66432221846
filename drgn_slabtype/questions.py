# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The commands about objects and addresses
----------------------------------------

Part of the table of :mod:`drgn_slabtype.commands`; imported into every drgn
program of its users.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, List, TypeVar, Union

from .command import Command, code_of, incomplete, jobs_code, jobs_option, option
from .typed import NUMBERS, address, count, integer, resolved, span, spelled, word

if TYPE_CHECKING:
    from drgn import Program

    from .answers.address import AddressInfo
    from .answers.likeness import KindsAnswer
    from .answers.owners import OwnersAnswer
    from .answers.refs import References
    from .answers.sites import Site
    from .answers.slabs import SlabsAnswer
    from .answers.stacks import StacksAnswer
    from .answers.states import Objects
    from .answers.what import Word


_Found = TypeVar("_Found")


def _objects(prog: Program, args: argparse.Namespace) -> Objects:
    from .answers.objects import objects

    return objects(prog, args.cache, args.states, most=args.most)


def _most_code(args: argparse.Namespace) -> str:
    return "" if args.most is None else f", most={args.most}"


def _objects_code(args: argparse.Namespace) -> str:
    states = f", {args.states!r}" if args.states else ""
    states += _most_code(args)
    asked = f"from drgn_slabtype import objects\n\nfound = objects(prog, {args.cache!r}{states})\n"
    shown = """\
for one in found:
    print(hex(one.address), one.state, one.place)
for told in found.unavailable:
    print(told)
if found.damaged:
    print("something is wrong with it: see check")
"""
    return code_of(args, asked, "found", shown)


def _slabs(prog: Program, args: argparse.Namespace) -> SlabsAnswer:
    from .answers.slabs import slabs

    slab = None if args.slab is None else resolved(prog, args.slab)
    return slabs(
        prog,
        args.cache,
        partial=args.partial,
        full=args.full,
        cpu=args.cpu,
        node=args.node,
        slab=slab,
        most=args.most,
    )


def _slabs_code(args: argparse.Namespace) -> str:
    options = "".join(
        f", {name}={given!r}"
        for name in ("partial", "full", "cpu", "node")
        if (given := getattr(args, name)) is not None and given is not False
    )
    if args.slab is not None:
        options += f", slab={spelled(args.slab)}"
    options += _most_code(args)
    asked = f"from drgn_slabtype import slabs\n\nanswer = slabs(prog, {args.cache!r}{options})\n"
    shown = """\
for slab in answer.slabs:
    print(hex(slab.slab), slab.list, slab.in_use, slab.objects, slab.free, slab.finding or "")
for one in answer.objects:
    print(hex(one.address), one.state, one.place)
for told in (*answer.unavailable, answer.why_none):
    if told:
        print(told)
"""
    return code_of(args, asked, "answer", shown)


def _object(prog: Program, args: argparse.Namespace) -> AddressInfo:
    from .answers.object import slab_object

    return slab_object(
        prog,
        resolved(prog, args.address),
        contents=args.bytes,
        neighbours=args.neighbours,
        everywhere=args.everywhere or None,
    )


def _object_code(args: argparse.Namespace) -> str:
    options = f"contents={args.bytes}, neighbours={args.neighbours}"
    options += f", everywhere={args.everywhere or None}"
    asked = f"""\
from drgn_slabtype import slab_object

info = slab_object(prog, {spelled(args.address)}, {options})
"""
    shown = """\
print(info)
more = info.neighbours, info.tracks, info.lines, info.words, info.stretches, info.meanings
for some in (info.places, info.contradictions, *more, info.unavailable):
    for one in some:
        print(one)
"""
    return code_of(args, asked, "info", shown)


def _what(prog: Program, args: argparse.Namespace) -> Word:
    from .answers.what import what

    at = None if args.at is None else resolved(prog, args.at)
    return what(prog, resolved(prog, args.word), at)


def _what_code(args: argparse.Namespace) -> str:
    at = "" if args.at is None else f", {spelled(args.at)}"
    where = "" if args.at is None else "print(word.where)\n"
    asked = f"from drgn_slabtype import what\n\nword = what(prog, {spelled(args.word)}{at})\n"
    shown = f"""\
{where}for one in word.meanings:
    print(one.kind, one.meaning)
"""
    return code_of(args, asked, "word", shown)


def _refs(prog: Program, args: argparse.Namespace) -> References:
    from .answers.refs import KINDS, refs
    from .errors import TargetError
    from .report.output import progress

    try:
        prog.type(args.type or "void")
    except (LookupError, SyntaxError) as e:
        raise TargetError(f"--type: {e}") from None
    with progress() as show:
        return refs(
            prog,
            resolved(prog, args.memory.start),
            args.memory.size,
            kinds=args.kinds or KINDS,
            type=args.type,
            most=args.most,
            progress=show,
            jobs=args.jobs,
        )


def _refs_code(args: argparse.Namespace) -> str:
    size = "" if args.memory.size is None else f", {args.memory.size:#x}"
    kinds = f", kinds={args.kinds!r}" if args.kinds else ""
    type = f", type={args.type!r}" if args.type else ""
    options = f"{size}{kinds}{type}, most={args.most}{jobs_code(args)}"
    arguments = f"{spelled(args.memory.start)}{options}"
    asked = f"from drgn_slabtype import refs\n\nanswer = refs(prog, {arguments})\n"
    shown = """\
for ref in answer.references:
    print(hex(ref.address), ref.meaning, ref.state, ref.member)
print(answer.found, "words,", answer.unreadable_pages, "pages not in the target")
"""
    return code_of(args, asked, "answer", shown)


def _stacks(
    prog: Program, args: argparse.Namespace
) -> Union[StacksAnswer, KindsAnswer, List[Site]]:
    from .answers.likeness import kinds
    from .answers.sites import allocation_sites
    from .answers.stacks import stacks
    from .report.output import progress

    if args.by == "sites":
        return _recorded(allocation_sites(prog), _OFF)[: args.most]
    if args.by == "words":
        return kinds(prog, args.cache[0], most=args.most)
    with progress() as show:
        found = stacks(
            prog, *args.cache, freed=args.freed, most=args.most, progress=show, jobs=args.jobs
        )
    _recorded(found.caches, _no_records(args))
    return found


_OFF = "memory allocation profiling has counted nothing: it is off"


def _no_records(args: argparse.Namespace) -> str:
    who = "freed" if args.freed else "allocated"
    return (
        f"no cache keeps who {who} its objects (SLUB's do with slub_debug=U); "
        "stacks CACHE --by words tells what they hold"
    )


def _recorded(found: _Found, why: str) -> _Found:
    # What a kernel keeps no record of is no answer, whatever was asked for.
    from .errors import TargetError

    if not found:
        raise TargetError(why)
    return found


def _status(answer: Any) -> int:
    # Of call sites, all or none are there, and nothing is judged.
    left = 3 * any(getattr(answer, name, None) for name in ("unavailable", "unreadable", "unknown"))
    return 1 if getattr(answer, "damaged", None) else left


def _stacks_refuse(args: argparse.Namespace) -> None:
    from .errors import TargetError

    if args.by == "words" and (len(args.cache) != 1 or args.freed):
        raise TargetError("--by words: name one cache, and its objects in use are told")


def _stacks_code(args: argparse.Namespace) -> str:
    failed = "except TargetError as error:\n    print(error)\n"
    if args.by == "sites":
        asked = f"""\
from drgn_slabtype import TargetError, allocation_sites

try:
    sites = allocation_sites(prog)[:{args.most}]
    if not sites:
        raise TargetError({_OFF!r})
"""
        shown = """\
    for site in sites:
        print(site.bytes, site.calls, site.file, site.line)
"""
        return code_of(args, asked, "sites", shown, failed)
    if args.by == "words":
        asked = f"""\
from drgn_slabtype import kinds

answer = kinds(prog, {args.cache[0]!r}, most={args.most})
"""
        shown = """\
for kind in answer.kinds:
    print(kind.count, [word.symbol for word in kind.words])
print(answer.objects, "objects,", answer.unreadable, "not in the target")
print(answer.contradicted, "unknown; something is wrong with it:", answer.damaged)
for told in answer.unavailable:
    print(told)
"""
        return code_of(args, asked, "answer", shown)
    names = "".join(f", {name!r}" for name in args.cache)
    freed = ", freed=True" if args.freed else ""
    asked = f"""\
from drgn_slabtype import TargetError, stacks

try:
    answer = stacks(prog{names}{freed}, most={args.most}{jobs_code(args)})
    if not answer.caches:
        raise TargetError({_no_records(args)!r})
"""
    shown = """\
    for stack in answer.stacks:
        print(stack.count, stack.cache, stack.caller, stack.stack)
    print(answer.tracked, "objects with a record, in", answer.caches, "caches;", end=" ")
    print(answer.untracked, "without one,", answer.overwritten, "with one that is overwritten")
    print(answer.contradicted, "unknown; damaged caches:", len(answer.damaged), *answer.damaged)
    for told in answer.unavailable:
        print(told)
"""
    return code_of(args, asked, "answer", shown, failed)


def _owners(prog: Program, args: argparse.Namespace) -> OwnersAnswer:
    from .answers.owners import owners

    return owners(prog, args.cache, most=args.most)


def _owners_code(args: argparse.Namespace) -> str:
    asked = f"""\
from drgn_slabtype import owners

answer = owners(prog, {args.cache!r}{_most_code(args)})
"""
    shown = """\
for owner in answer.owners:
    print(owner.objects, owner.bytes, owner.path)
for node, count in answer.nodes.items():
    print("node", node, count, answer.node_bytes[node])
for cpu in answer.per_cpu:
    print("CPU", cpu.cpu, cpu.free, cpu.waiting, cpu.lists, cpu.in_use)
print(answer.objects, answer.uncharged, answer.unknown, answer.guarded, answer.contradicted)
for told in answer.unavailable:
    print(told)
if answer.damaged:
    print("something is wrong with it: see check")
"""
    return code_of(args, asked, "answer", shown)


MOST = option("-n", dest="most", type=count, metavar="N", help="show no more than N")
"""How much of a list is told."""

QUESTIONS = (
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
                    dest="states",
                    action="append_const",
                    const=state,
                    help=help,
                )
                for state, help in (
                    ("free", "only those that can be handed out"),
                    ("in use", "only those that users hold"),
                    ("waiting", "only those freed whose grace period has not passed"),
                    (
                        "unknown",
                        "only those about which structures contradict each other; several "
                        "of these options: those in any of the states",
                    ),
                )
            ),
            MOST,
        ),
        drgn=_objects_code,
        status=lambda found: 1 if found.damaged else incomplete(found),
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
            option("--cpu", type=integer, metavar="CPU", help="only those that this CPU has"),
            option("--node", type=integer, metavar="NODE", help="only those of this NUMA node"),
            option(
                "--slab",
                type=address,
                metavar="ADDRESS",
                help="only this one, or the one with this address in it, with all of its objects; "
                + NUMBERS,
            ),
            MOST,
        ),
        drgn=_slabs_code,
        status=lambda answer: 1 if answer.damaged else incomplete(answer),
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
                help="any address, also inside an object or of a page; or a symbol; " + NUMBERS,
            ),
            option(
                "--bytes",
                type=count,
                default=64,
                metavar="N",
                help="show so many bytes of the object, and those beside it (default: 64); a "
                "capture has those of objects with --contents alone",
            ),
            option(
                "--neighbours",
                type=count,
                default=1,
                metavar="N",
                help="show so many objects before and after it (default: 1)",
            ),
            option(
                "--everywhere",
                action="store_true",
                help="ask all caches whether they record the object, also where that takes time: "
                "in more than 1 GiB of memory, or a running kernel",
            ),
        ),
        drgn=_object_code,
        status=lambda info: 1 if info.contradictions else 3 if info.incomplete else 0,
    ),
    Command(
        "what",
        "tell what a word can be: poison, text, time, error, address, free pointer, a wrong bit",
        _what,
        prompt="slabwhat",
        options=(
            option(
                "word",
                type=word,
                metavar="WORD",
                help="64 bits, also as a negative number; or a symbol; " + NUMBERS,
            ),
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
                "-n", dest="most", type=count, default=20, metavar="N", help="show no more than N"
            ),
            jobs_option("read records of call traces", "objects"),
        ),
        refuse=_stacks_refuse,
        drgn=_stacks_code,
        status=_status,
    ),
    Command(
        "owners",
        "count the objects of a cache by memory cgroup, node and CPU",
        _owners,
        prompt="slabowners",
        options=(option("cache", metavar="CACHE", help="name of the slab cache"), MOST),
        drgn=_owners_code,
        status=_status,
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
                help="an object, whole; with a size, so many bytes from the address on; behind a "
                "symbol, +N is an offset, and :N a size (init_task+0x10:8); " + NUMBERS,
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
                "-n", dest="most", type=count, default=1000, metavar="N", help="show no more than N"
            ),
            jobs_option("search", "pages"),
        ),
        drgn=_refs_code,
        status=lambda answer: 3 if answer.unreadable_pages else 0,
    ),
)
"""Rows of the table of commands."""
