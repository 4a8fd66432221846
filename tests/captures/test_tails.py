# SPDX-License-Identifier: LGPL-2.1-or-later
"""What tails of compound pages hold, of damaged captures."""

from __future__ import annotations

from pathlib import Path
from typing import Iterator, List, Literal, Tuple

import numpy as np
import pytest
from drgn import Program

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.folios import Folios
from drgn_slabtype.pages.scan import page_blocks

from ..recipes.changes import Spot
from ..recipes.overlay import Write, overlay
from .test_compound import CAPTURES, ERAS

SOME = [path for path in CAPTURES if path.parent.name in ERAS] or CAPTURES[:1]
LAST = 5
"""A tail that no folio keeps anything in."""
TEXT = b"eth0: li"
eras = pytest.mark.parametrize("path", SOME, ids=lambda path: path.parent.name)


def _tails(prog: Program) -> Iterator[Tuple[int, int, bool]]:
    # struct page * of each tail, which one it is, and whether of a slab.
    for block in page_blocks(machine(prog)):
        folios = Folios(machine(prog), block)
        rows = folios.tails.nonzero()[0]
        heads = folios.head[rows]
        pages = np.uint64(block.address) + rows.astype(np.uint64) * np.uint64(folios.where.size)
        numbers = folios.pfns[rows] - folios.pfns[heads]
        yield from zip(pages.tolist(), numbers.tolist(), folios.slab()[heads].tolist())


def _one(path: Path, of_slab: bool) -> int:
    for page, number, slab in _tails(open_capture(str(path))):
        if number == LAST and slab is of_slab:
            return page
    pytest.skip("it has no such compound page of more than four pages")


def _charged(prog: Program) -> str:
    has = machine(prog).structure("struct page").has
    return next(name for name in ("memcg_data", "mem_cgroup") if has(name))


def _with(path: Path, page: int, member: str, word: bytes) -> Report:
    prog = open_capture(str(path))
    offset = machine(prog).structure("struct page").offset(member)
    overlay(prog, [Write(page + offset, word)])
    return check(prog)


@eras
@pytest.mark.parametrize("of_slab", [True, False], ids=["slab", "other"])
def test_text_in_a_tail(path: Path, of_slab: bool) -> None:
    page, prog = _one(path, of_slab), open_capture(str(path))
    for member in ("mapping", _charged(prog)):
        found = [one for one in _with(path, page, member, TEXT).findings if one.because is None]
        assert [(one.code, one.member, one.page) for one in found] == [
            ("page-tail-word", member, page)
        ]
        assert (found[0].cache is not None) is of_slab
        assert int(str(found[0].found), 16) == int.from_bytes(TEXT, _order(prog))


@eras
def test_count_of_pages(path: Path) -> None:
    prog = open_capture(str(path))
    page = next(page for page, number, slab in _tails(prog) if number == 1 and slab)
    layout = machine(prog).structure
    names = ("_nr_pages", "_folio_nr_pages")
    if layout("struct page").has("compound_nr"):
        member, at = "compound_nr", layout("struct page").offset("compound_nr")
    else:
        folio = layout("struct folio")
        member = next(name for name in names if folio.has(name))
        at = folio.offset(member) - layout("struct page").size
    overlay(prog, [Write(page + at, bytes(4))])
    found = [one for one in check(prog).findings if one.because is None]
    assert [(one.code, one.member, one.word, one.found) for one in found] == [
        ("page-tail-word", member, page + at, "0x0")
    ]
    assert int(str(found[0].expected), 16) in (2, 4, 8)


@eras
def test_others_have_pointers_of_their_own(path: Path) -> None:
    """A page is split tail by tail, and a driver may give its pages a mapping."""
    page, prog = _one(path, False), open_capture(str(path))
    pointer = page.to_bytes(8, _order(prog))
    for word in (bytes(8), pointer):
        assert not _with(path, page, "mapping", word).findings


@eras
def test_where_many_tails_differ_nobody_is_accused(path: Path) -> None:
    prog = open_capture(str(path))
    offset = machine(prog).structure("struct page").offset("mapping")
    pages = [page for page, number, _ in _tails(prog) if number > 2]
    overlay(prog, [Spot(prog, page + offset).write(7) for page in pages])
    assert not [one for one in check(prog).findings if one.code == "page-tail-word"]


@eras
def test_single_page_that_a_stray_tail_leads_to(path: Path) -> None:
    """What is in the page behind that is no count of mappings of its own."""
    prog = open_capture(str(path))
    at = machine(prog).page.compound
    for page in _pairs(prog)[:8]:
        prog = open_capture(str(path))
        overlay(prog, [Spot(prog, page + 64 + at).write(page | 1)])
        assert "page-type-mapped" not in {one.code for one in check(prog).findings}


def _pairs(prog: Program) -> List[int]:
    # The first of two slabs of one page each that follow one another.
    found: List[int] = []
    for block in page_blocks(machine(prog)):
        folios = Folios(machine(prog), block)
        single = folios.slab() & (folios.flags >> np.uint64(folios.layout.head_flag) & 1 == 0)
        rows = np.flatnonzero(single[:-1] & single[1:])
        found += (np.uint64(block.address) + rows.astype(np.uint64) * np.uint64(64)).tolist()
    return found


def _order(prog: Program) -> Literal["little", "big"]:
    return "little" if machine(prog).memory.byteorder == "<" else "big"
