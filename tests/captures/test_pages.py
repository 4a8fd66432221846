# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of real kernels: the census, single pages, free memory and damage to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
import pytest
from drgn import Program
from drgn.helpers.linux.mm import pfn_to_page
from lab import pagewords

from drgn_slabtype.answers.page import page_info
from drgn_slabtype.capture import is_capture, open_capture
from drgn_slabtype.check import check
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.demo import captures
from drgn_slabtype.errors import TargetError
from drgn_slabtype.findings import Report
from drgn_slabtype.machine import machine as machine_of
from drgn_slabtype.machine import page_type_layout
from drgn_slabtype.pages.census import Selection, census
from drgn_slabtype.pages.dump import dump_page
from drgn_slabtype.pages.exported import missed_by_equality
from drgn_slabtype.pages.flagnames import BITS
from drgn_slabtype.pages.freememory import free_memory
from drgn_slabtype.pages.kinds import TAIL
from drgn_slabtype.pages.kpageflags import kpageflags, stable_page_flags
from drgn_slabtype.pages.scan import page_ranges, scan
from drgn_slabtype.pages.survey import Survey, survey
from drgn_slabtype.report import present
from drgn_slabtype.report import text as as_text

from ..recipes.overlay import Write, overlay
from . import ONE_OF_EACH_SHAPE

HERE = Path(__file__).parent
CAPTURES: List[Path] = [
    *captures(),
    *(path for path in sorted(HERE.glob("*/capture.xz")) if is_capture(str(path))),
]

pytestmark = pytest.mark.skipif(not CAPTURES, reason="there are no captures to ask")


class Machine:
    """A capture, and what its pages are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.prog = open_capture(str(path))
        self.survey: Survey = survey(machine_of(self.prog))

    def pages(self, kind: str, tails: bool = False) -> List[int]:
        """Return the page frames of one kind, heads or tails."""
        number = self.survey.names.index(kind) | (int(TAIL) if tails else 0)
        return [
            piece.pfn + row
            for piece in self.survey.pieces
            for row in np.flatnonzero(piece.kinds == number).tolist()
        ]

    def damaged(self, pfn: int, member: str, data: bytes) -> Report:
        """Return what a check says with a member of one struct page overwritten."""
        prog = open_capture(str(self.path))
        offset = getattr(machine_of(prog).page, member, None)
        if offset is None:
            offset = prog.type("struct page").member(member).offset
        page = prog["vmemmap"].value_() + pfn * machine_of(prog).page.size
        overlay(prog, [Write(page + offset, data)])
        return check(prog)


@pytest.fixture(scope="module", params=CAPTURES, ids=lambda path: path.parent.name)
def machine(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


@pytest.fixture(
    scope="module",
    params=[path for path in CAPTURES if path.parent.name in ONE_OF_EACH_SHAPE],
    ids=lambda path: path.parent.name,
)
def shape(request: pytest.FixtureRequest) -> Machine:
    return Machine(request.param)


def test_census_counts_each_page_once(machine: Machine) -> None:
    found = census(machine.prog, flags=True, runs=True, cells=100)
    pages = sum(end - start for start, end in page_ranges(machine_of(machine.prog)))
    assert found.pages == sum(row.pages for row in found.rows) == pages
    assert sum(place.pages for place in found.places) == pages
    assert sum(sum(place.types.values()) for place in found.places) == pages
    assert sum(row.pages for row in found.flags or ()) == pages
    assert sum(run.pages for run in found.runs or ()) == pages
    assert found.map is not None
    assert sum(pages for cell in found.map.cells for _, pages in cell.types) == pages
    assert found.conflicts == []
    assert all(row.heads + row.tails == row.pages for row in found.rows)


@pytest.mark.parametrize("pages", [512, 2048])
def test_survey_does_not_depend_on_where_blocks_end(
    machine: Machine, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drgn_slabtype.pages.scan.BLOCK_PAGES", pages)
    found = survey(machine_of(machine.prog))
    assert found.unreadable == machine.survey.unreadable
    assert found.conflicts == machine.survey.conflicts
    for piece, expected in zip(found.pieces, machine.survey.pieces):
        assert piece[:3] == expected[:3]
        assert np.array_equal(piece.kinds, expected.kinds)


def test_census_agrees_with_the_scan_of_slabs(machine: Machine) -> None:
    heads = scan(machine_of(machine.prog)).heads
    row = next(row for row in census(machine.prog).rows if row.type == "slab")
    assert row.heads == len(heads.pfns)
    assert row.pages == int((1 << heads.orders.astype(np.int64)).sum())


def test_census_agrees_with_kpageflags(machine: Machine) -> None:
    rows = {row.type: row.pages for row in census(machine.prog).rows}
    flags = kpageflags(machine.prog)

    def count(name: str) -> int:
        return int((flags >> np.uint64(BITS[name]) & np.uint64(1)).sum())

    names = {"slab": "slab", "buddy": "buddy", "hugetlb": "huge"}
    for kind, flag in names.items():
        assert rows.get(kind, 0) == count(flag), kind


def test_selection_is_what_was_selected(machine: Machine) -> None:
    one = census(machine.prog, select=Selection(types=["slab"], flags=["slab", "compound_head"]))
    assert [row.type for row in one.rows] == ["slab"]
    assert one.rows[0].tails == 0
    first = page_ranges(machine_of(machine.prog))[0][0] + 0x100
    part = census(machine.prog, select=Selection(pfns=(first, first + 0x100)), runs=True)
    assert part.pages == 0x100
    assert part.runs is not None
    assert part.runs[0].pfn == first
    with pytest.raises(TargetError, match="there is no node 99"):
        census(machine.prog, select=Selection(node=99))


def test_no_more_ranges_are_listed_than_were_asked_for(machine: Machine) -> None:
    every = census(machine.prog, runs=True)
    some = census(machine.prog, runs=True, most=3)
    assert every.runs is not None
    assert some.runs == every.runs[:3]
    assert some.runs_found == every.runs_found == len(every.runs)
    assert f"{some.runs_found} ranges, 3 shown\n" in "".join(as_text.pages(some))
    assert "shown" not in "".join(as_text.pages(every))


def test_selection_of_what_does_not_exist(machine: Machine) -> None:
    with pytest.raises(TargetError, match="slub is no page type: these are buddy"):
        census(machine.prog, select=Selection(types=["slub"]))
    with pytest.raises(TargetError, match="slub is no page flag: these are locked"):
        census(machine.prog, select=Selection(flags=["slub"]))


def _some(machine: Machine) -> Iterator[Tuple[str, int]]:
    for kind in machine.survey.names:
        for tails in (False, True):
            found = machine.pages(kind, tails)
            yield from ((kind, pfn) for pfn in found[:2] + found[-1:])


def test_single_pages_are_what_the_pass_over_all_says(machine: Machine) -> None:
    flags = kpageflags(machine.prog)
    for kind, pfn in _some(machine):
        page = pfn_to_page(machine.prog, pfn)
        assert stable_page_flags(page) == flags[pfn]
        info = page_info(machine.prog, pfn)
        assert (info.kind, info.pfn, info.page) == (kind, pfn, page.value_())
        assert info.kpageflags == flags[pfn]
        assert info.dump == dump_page(page)
        assert (info.slab is not None) == (kind == "slab")


def test_single_pages_are_as_the_kernel_printed_them(machine: Machine) -> None:
    words = pagewords.load(machine.path.parent)
    if not words:
        pytest.skip("the kernel of this capture was not asked")
    assert len(words) > 40
    compared, differ = pagewords.compare(machine.prog, words, partial=True)
    assert differ == []
    assert compared > 0.8 * len(words)


def test_page_is_found_by_number_address_and_struct_page(machine: Machine) -> None:
    pfn = machine.pages("slab")[0]
    info = page_info(machine.prog, pfn)
    linear = machine.prog["slab_caches"].next.value_() & ~0xFFF
    assert page_info(machine.prog, info.page).pfn == pfn
    assert page_info(machine.prog, pfn_to_page(machine.prog, pfn)).pfn == pfn
    assert page_info(machine.prog, linear).physical & 0xFFF == 0


def test_slab_of_a_page_tells_each_object(machine: Machine) -> None:
    told = [page_info(machine.prog, pfn).slab for pfn in machine.pages("slab")[::200]]
    for slab in told:
        assert slab is not None
        if slab.guarded is not None:
            assert "KFENCE's pool" in slab.guarded
            continue
        assert slab.cache
        assert len(slab.map) == slab.objects > 0
        assert sum(slab.free.values()) == slab.map.count(".") + slab.map.count("w")
        assert slab.findings == ()


def test_pages_that_moved_are_counted_and_lines_that_are_wrong_told() -> None:
    folder = HERE / "slub-6.12-tiny-plain"
    prog = open_capture(str(folder / "capture.xz"))
    words = [page for page in pagewords.load(folder) if "mmap" not in page.what]
    whole = pagewords.compare(prog, words, partial=True)
    assert (whole.compared, whole.differ) == (len(words), [])

    def changed(start: str, pages: int) -> List[pagewords.Words]:
        bad = [
            page._replace(
                lines=[f"{line}!" if line.startswith(start) else line for line in page.lines]
            )
            for page in words[:pages]
        ]
        return [*bad, *words[pages:]]

    wrong = pagewords.compare(prog, changed("page", 1), partial=True)
    assert (wrong.compared, len(wrong.differ)) == (len(words), 1)
    few, many = (pagewords.compare(prog, changed("raw:", n), partial=True) for n in (2, 3))
    assert (few.compared, few.differ) == (len(words) - 2, [])
    assert (many.compared, len(many.differ)) == (len(words) - 3, 3)


@pytest.mark.parametrize("value", [1 << 40, -1])
def test_what_is_no_page_is_said_in_one_line(machine: Machine, value: int) -> None:
    with pytest.raises(TargetError) as caught:
        page_info(machine.prog, value)
    assert "\n" not in str(caught.value)


def test_address_beside_a_struct_page_names_the_one_it_is_in(machine: Machine) -> None:
    pfn = page_ranges(machine_of(machine.prog))[0][0] + 0x100
    page = page_info(machine.prog, pfn).page
    with pytest.raises(TargetError, match=f"that of PFN {pfn:#x} is 0x{page:x}"):
        page_info(machine.prog, page + 3)


def test_tools_that_compare_words_miss_slabs_of_rfc_v3_only(machine: Machine) -> None:
    missed = missed_by_equality(machine_of(machine.prog))
    assert (missed is not None) == (page_type_layout(machine.prog).encoding.name == "rfc-v3")
    notes = [note.message for note in check(machine.prog).notes]
    # Of one thing there is one note, with the numbers of this kernel where there are any.
    about = [note for note in notes if "the whole word" in note]
    assert len(about) == (missed is not None)
    assert all(str(missed) in note for note in about)


def test_pages_of_slabs_and_of_kfence_are_told_apart(machine: Machine) -> None:
    report = check(machine.prog)
    of_slabs = sum(cache.pages for cache in report.caches)
    (row,) = (row for row in census(machine.prog).rows if row.type == "slab")
    assert row.pages == report.totals.slab_pages == of_slabs + report.totals.kfence_pages
    assert row.kfence_pages == report.totals.kfence_pages
    text = present("check", report, "table")
    assert isinstance(text, str)
    assert ("KFENCE" in text) == (report.totals.kfence_pages > 0)


def _roots(report: Report) -> List[Tuple[str, int]]:
    return [
        (finding.code, finding.page or finding.slab or 0)
        for finding in report.findings
        if finding.because is None
    ]


_DAMAGE: Dict[str, Any] = {
    # (member, value) of the page after the first page of a free block
    "type": ("word", None, "page-free-type"),
    "references": ("refcount", (5).to_bytes(4, "little"), "page-free-flags"),
    "flags": ("flags", (1 << 0).to_bytes(1, "little"), "page-free-flags"),
}


@pytest.mark.parametrize("name", _DAMAGE)
def test_damage_inside_a_free_block_has_one_root(shape: Machine, name: str) -> None:
    member, data, code = _DAMAGE[name]
    pfn = shape.pages("buddy", tails=True)[100]
    encoding = page_type_layout(shape.prog).encoding
    if data is None:
        data = encoding.set(encoding.idle, "table").to_bytes(4, "little")
    report = shape.damaged(pfn, member, data)
    page = pfn_to_page(shape.prog, pfn).value_()
    assert _roots(report) == [(code, page)]


def test_free_page_that_lost_its_type_is_the_root(shape: Machine) -> None:
    free = free_memory(machine_of(shape.prog))
    pfn = int(free.pfn[len(free.pfn) // 2])
    report = shape.damaged(pfn, "word", b"\xff\xff\xff\xff")
    page = pfn_to_page(shape.prog, pfn).value_()
    assert _roots(report) == [("page-free-type", page)]
    assert len(report.findings) > 1


def test_free_page_with_another_order_is_the_root(shape: Machine) -> None:
    free = free_memory(machine_of(shape.prog))
    row = int(np.flatnonzero(free.order > 2)[0])
    pfn = int(free.pfn[row])
    report = shape.damaged(pfn, "private", bytes([int(free.order[row]) - 1, 0, 0, 0]))
    page = pfn_to_page(shape.prog, pfn).value_()
    assert [root for root in _roots(report) if root[1] == page]
    assert len(_roots(report)) == 1


def test_typed_tail_is_the_root(shape: Machine) -> None:
    tails = shape.pages("hugetlb", tails=True)
    if not len(tails):
        pytest.skip("this kernel has no huge pages")
    pfn = tails[-1]
    encoding = page_type_layout(shape.prog).encoding
    data = encoding.set(encoding.idle, "table").to_bytes(4, "little")
    report = shape.damaged(pfn, "word", data)
    page = pfn_to_page(shape.prog, pfn).value_()
    assert _roots(report) == [("page-tail-type", page)]


def test_healthy_memory_has_no_finding(machine: Machine) -> None:
    report = check(machine.prog)
    assert report.findings == []
    assert [one.message for one in report.unavailable if "free memory" in one.message] == []


def test_program_is_not_changed_by_asking(machine: Machine) -> None:
    before: Program = open_capture(str(machine.path))
    assert census(before).rows == census(machine.prog).rows


@pytest.mark.parametrize("tail", [0, 1])
@pytest.mark.parametrize(
    ("member", "data"),
    [("mapping", "0010"), ("_refcount", "0300"), ("_mapcount", "1200"), ("memcg_data", "0800")],
)
def test_what_is_wrong_with_a_free_page_is_told_of_the_page(
    member: str, data: str, tail: int
) -> None:
    path = HERE / "debian-6.12-plain" / "capture.xz"
    of = machine_of(open_capture(str(path)))
    free = free_memory(of)
    pfn = int(free.pfn[free.order > 0][0]) + tail
    assert page_info(of.prog, pfn).findings == ()
    prog = open_capture(str(path))
    at = of.page.vmemmap + pfn * of.page.size + of.structure("struct page").offset(member)
    overlay(prog, [Write(at, bytes.fromhex(data))])
    said = [one.message for one in check(prog).findings if one.page == at & ~63]
    assert said
    info = page_info(prog, pfn)
    assert list(info.findings) == said
    command = next(one for one in COMMANDS if one.name == "page")
    assert command.status(info) == 1
    assert said[0][:40] in as_text.page(info)
