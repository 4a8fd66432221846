# SPDX-License-Identifier: LGPL-2.1-or-later
"""Caches are taken in every form; what cannot be meant is a ValueError that says what can."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from drgn import Object, Program, set_default_prog

import drgn_slabtype as lib
from drgn_slabtype import ArgumentError, Selection, TargetError
from drgn_slabtype.capture import open_capture

HERE = Path(__file__).parent
PACKAGE = Path(lib.__file__).parent
NAME = "kmalloc-64"


@pytest.fixture(scope="module")
def prog() -> Program:
    """The kernel that ships with the package."""
    (path,) = (PACKAGE / "captures").glob("*rfc*")
    return open_capture(str(path))


def address_of(prog: Program) -> int:
    """Return the ``struct kmem_cache *`` of the cache that is asked for."""
    (found,) = lib.caches(prog, NAME)
    return int(found.address)


# Every public function that takes a cache; each returns something that a cache of
# another name would not give.
TAKERS: Dict[str, Callable[[Program, Any], Any]] = {
    "caches": lambda prog, cache: lib.caches(prog, cache)[0].name,
    "check": lambda prog, cache: lib.check(prog, caches=[cache]).caches[0].name,
    "check of one": lambda prog, cache: lib.check(prog, caches=cache).caches[0].name,
    "kinds": lambda prog, cache: lib.kinds(prog, cache).cache,
    "objects": lambda prog, cache: lib.objects(prog, cache).ledger.facts.name,
    "owners": lambda prog, cache: lib.owners(prog, cache).cache,
    "slabs": lambda prog, cache: lib.slabs(prog, cache).cache,
    "stacks": lambda prog, cache: str(no_records(prog, cache)).partition(":")[0],
    "watch": lambda prog, cache: (
        next(lib.watch(prog, caches=cache, rounds=1)).report.caches[0].name
    ),
    "for_each_slab": lambda prog, cache: of_slab(
        prog, next(lib.for_each_slab(cache, prog=prog)).value_()
    ),
    "for_each_object": lambda prog, cache: (
        lib.slab_object(prog, next(lib.for_each_object(cache, prog=prog))).cache
    ),
    "validate_slab_cache": lambda prog, cache: lib.validate_slab_cache(cache, prog=prog) or NAME,
}


def no_records(prog: Program, cache: Any) -> TargetError:
    """Return what is said of a cache that keeps no call traces."""
    with pytest.raises(TargetError) as caught:
        lib.stacks(prog, cache)
    if isinstance(caught.value, ArgumentError):
        raise caught.value
    return caught.value


def of_slab(prog: Program, page: int) -> str:
    """Return the name of the cache of a slab."""
    slab = lib.page_info(prog, page).slab
    assert slab is not None
    return slab.cache


@pytest.mark.parametrize("taker", TAKERS)
def test_caches_are_taken_in_every_form(taker: str, prog: Program) -> None:
    address = address_of(prog)
    pointer = Object(prog, "struct kmem_cache *", address)
    given = (NAME, address, pointer, pointer[0], Object(prog, "unsigned long", address))
    assert [TAKERS[taker](prog, cache) for cache in given] == [NAME] * len(given)


@pytest.mark.parametrize("taker", TAKERS)
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("kmalloc-46", r"no slab cache named kmalloc-46; did you mean .*kmalloc-64"),
        (0xFFFF888000000000, "no slab cache at 0xffff888000000000"),
        (1 << 64, "0x10000000000000000 has more than 64 bits"),
        (-1, r"-1 is no address: it is negative; what\(prog, -1\) tells"),
        (None, r"None is no slab cache: a name is, struct kmem_cache \*, or its address"),
        (1.5, r"1.5 is no slab cache"),
        ("page", r"struct page \* is no slab cache"),
    ],
    ids=str,
)
def test_what_is_no_cache(taker: str, wrong: Any, told: str, prog: Program) -> None:
    cache = Object(prog, "struct page *", 0xFFFFEA0000000000) if wrong == "page" else wrong
    with pytest.raises(ValueError, match=told) as caught:
        TAKERS[taker](prog, cache)
    assert isinstance(caught.value, TargetError)


def test_a_pattern_means_several_caches() -> None:
    other = open_capture(str(HERE / "debian-7-plain" / "capture.xz"))
    names = {cache.name for cache in lib.caches(other, "kmalloc-*2*")}
    assert len(names) > 1
    assert {cache.name for cache in lib.check(other, caches="kmalloc-*2*").caches} == names


def test_a_name_needs_a_program(prog: Program) -> None:
    with pytest.raises(ArgumentError, match=r"'kmalloc-64' is of no program: prog=\.\.\."):
        list(lib.for_each_slab(NAME))
    set_default_prog(prog)
    try:
        assert len(list(lib.for_each_slab(NAME))) == len(lib.slabs(prog, NAME))
    finally:
        set_default_prog(None)


PAGE = "struct page \\* or struct folio \\* or struct slab \\*"

WRONG: Dict[str, Callable[[Program], Any]] = {
    "siz is no number to sort by: these are name, memory,": lambda p: lib.caches(p, sort="siz"),
    "most is -1: it is a number from 0 on": lambda p: lib.caches(p, most=-1),
    "fre is no state: these are in use, free, waiting, unknown": lambda p: lib.objects(
        p, NAME, "fre"
    ),
    "5 is no state": lambda p: lib.objects(p, NAME, 5),
    "kmalloc-\\* means .* slab caches: ": lambda p: lib.objects(p, "kmalloc-*"),
    "there is no CPU 99: there are 0 to 3": lambda p: lib.slabs(p, NAME, cpu=99),
    "there is no node -1: there is 0": lambda p: lib.slabs(p, NAME, node=-1),
    "0x5 is no slab of kmalloc-64": lambda p: lib.slabs(p, NAME, slab=5),
    "words is 0: it is a number from 1 on": lambda p: lib.kinds(p, NAME, 0),
    "most is '3': it is a number from 0 on": lambda p: lib.kinds(p, NAME, most="3"),
    "most is -2": lambda p: lib.stacks(p, most=-2),
    "size is 0: it is a number from 1 on": lambda p: lib.refs(p, 0, 0),
    "x is no kind of reference: these are slabs, stacks,": lambda p: lib.refs(p, 0, kinds="x"),
    "'struct nope' is no type of this kernel": lambda p: lib.refs(p, 0, type="struct nope"),
    "'struct' is no type of this kernel": lambda p: list(
        lib.for_each_object(NAME, "struct", prog=p)
    ),
    "contents is -1": lambda p: lib.slab_object(p, 0, contents=-1),
    "neighbours is -1": lambda p: lib.slab_object(p, 0, neighbours=-1),
    "'init_task' is no address: a number is, or an object of drgn": lambda p: lib.slab_object(
        p, "init_task"
    ),
    "0x10000000000000000 has more than 64 bits": lambda p: lib.what(p, 1 << 64),
    "-1 is no address: it is negative; what": lambda p: lib.slab_object(p, -1),
    "-2 is no address: it is negative": lambda p: lib.page_info(p, -2),
    "-3 is no address: it is negative": lambda p: lib.check(p, addresses=[-3]),
    "-4 is no address: it is negative": lambda p: lib.refs(p, -4),
    "-5 is no address: it is negative": lambda p: lib.what(p, 5, -5),
    "-6 is no address: it is negative": lambda p: lib.slabs(p, NAME, slab=-6),
    "-7 is no address: it is negative": lambda p: next(lib.watch(p, addresses=-7, rounds=1)),
    "foo is no layout: these are page-flag-4.18,": lambda p: lib.ENCODINGS["foo"],
    "PFN 0x10000000000 is a hole: there are pages 0x0 to": lambda p: lib.page_info(p, 1 << 40),
    "PFN 0x10000000000 to 0x10000000001 is a hole: there are pages 0x0 to": lambda p: lib.census(
        p, select=lib.Selection(pfns=(1 << 40, (1 << 40) + 2))
    ),
    "nope is no page type: these are buddy, ": lambda p: lib.census(
        p, select=Selection(types="nope")
    ),
    "nope is no page flag: these are locked, ": lambda p: lib.census(
        p, select=Selection(flags=["nope"])
    ),
    "\\(5, 3\\) is no range of page frames": lambda p: lib.census(p, select=Selection(pfns=(5, 3))),
    "select is 'slab': it is a Selection": lambda p: lib.census(p, select="slab"),
    "cells is -1": lambda p: lib.census(p, cells=-1),
    "jso is no format: these are json, junit, html, text": lambda p: lib.write_report(
        p, lib.check(p, caches=NAME), "jso", "report"
    ),
    "report is None: it is a Report": lambda p: lib.write_html(p, None, "page"),
    "5 is no drgn.Program, no report": lambda p: lib.diff(5, p),
    "before is 1: it is a Moment": lambda p: lib.compare(1, 2),
    "there is no code freelist-cycel; did you mean freelist-cycle": lambda p: lib.explain(
        "freelist-cycel"
    ),
    "pause is -1: it is a number of seconds": lambda p: lib.watch(p, pause=-1),
    "rounds is 0: it is a number from 1 on": lambda p: lib.watch(p, rounds=0),
    "max_time is nan": lambda p: lib.watch(p, max_time=float("nan")),
    "kernel, core and qemu are three targets": lambda p: lib.open_target(
        lib.TargetOptions(kernel=True, core="vmcore")
    ),
    "unknown architecture z80; there are .*s390x": lambda p: lib.open_target(
        lib.TargetOptions(core="/dev/null", architecture="z80")
    ),
    "options is 'vmcore': it is a TargetOptions": lambda p: lib.open_target("vmcore"),
    "core is 5: it is the path of a file": lambda p: lib.open_target(lib.TargetOptions(core=5)),
    "path is None: it is the path of a file": lambda p: lib.open_moment(None, []),
    "path is \\['a'\\]: it is the path of a file": lambda p: lib.read_causes(["a"]),
    "'abc' is no 32-bit word": lambda p: lib.decode("abc"),
    "0x100000000 is not a 32-bit word": lambda p: lib.decode(1 << 32),
    "rfc-v9 is no layout: these are page-flag-4.18,": lambda p: lib.decode(0, "rfc-v9"),
    "0x5 is neither a slab nor an address inside one": lambda p: lib.check(p, addresses=5),
    f"5 is no {PAGE}": lambda p: lib.PageSlab(5),
    f"struct kmem_cache \\* is no {PAGE}": lambda p: lib.slab_get_active(
        Object(p, "struct kmem_cache *", 5)
    ),
    f"NULL is no {PAGE}": lambda p: lib.PageSlab(Object(p, "struct page *", 0)),
    "NULL is no page": lambda p: lib.page_info(p, Object(p, "struct page *", 0)),
    "NULL is no address of memory": lambda p: lib.refs(p, 0),
    "NULL is no address of a word": lambda p: lib.what(p, 5, 0),
    "NULL is no slab of kmalloc-64": lambda p: lib.slabs(p, NAME, slab=0),
    "there is no slab cache at NULL": lambda p: lib.caches(p, 0),
    f"int is no {PAGE}": lambda p: lib.dump_page(Object(p, "int", 5)),
    f"None is no {PAGE}": lambda p: lib.page_has_type(None),
    "most is .*: it is a number from 0 on": lambda p: lib.objects(
        p, NAME, most=Object(p, "void *", 5)
    ),
    "CPU is .*: it is a number from 0 on": lambda p: lib.slabs(p, NAME, cpu=p["kmem_cache"]),
    "report is 5: it is a Report": lambda p: lib.accept(5, []),
    "report is 'json': it is a Report": lambda p: lib.as_baseline("json"),
    "one of causes is 'x': it is a Cause": lambda p: lib.likenesses(["x"], []),
    "one of findings is None: it is a Finding": lambda p: lib.likenesses([], None),
    "prog is None: it is a Program": lambda p: lib.caches(None),
    "prog is 5: it is a Program": lambda p: lib.watch(5),
    "prog is a drgn.Program that has opened nothing yet": lambda p: lib.check(Program()),
    "nothing yet": lambda p: lib.caches(Program()),
    "prog is 'vmcore': it is a Program": lambda p: lib.ensure_types("vmcore"),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_cannot_be_meant(told: str, prog: Program) -> None:
    with pytest.raises(ArgumentError, match=told):
        WRONG[told](prog)


def test_objects_of_drgn_are_addresses(prog: Program) -> None:
    (slab, *_) = lib.for_each_slab(NAME, prog=prog)
    page = Object(prog, "struct page *", slab.value_())
    told = [lib.page_info(prog, one).pfn for one in (page.value_(), page, page[0], slab, slab[0])]
    assert len(set(told)) == 1
    assert lib.PageSlab(page[0])
    assert lib.slab_get_active(page[0]) == lib.slab_get_active(slab)
