# SPDX-License-Identifier: LGPL-2.1-or-later
"""The HTML page: what is in it, and what a browser makes of it."""

from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import List, Optional, Tuple

import pytest

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check as check_kernel
from drgn_slabtype.codes import CATALOGUE
from drgn_slabtype.demo import raise_count
from drgn_slabtype.findings import (
    CacheResult,
    Finding,
    LayoutSummary,
    Report,
    Target,
    Totals,
)
from drgn_slabtype.pages.census import Census, CensusRow, Conflict, Place, census
from drgn_slabtype.pages.map import Cell, PageMap
from drgn_slabtype.report.html import check
from drgn_slabtype.report.html.style import COLOURS
from drgn_slabtype.target import describe

from ..browser import assert_legible, probe

_EVIL = '<script>alert("a")</script>&\x1b[31m'
_CAPTURE = Path(__file__).parents[1] / "captures" / "slab-6.1-rfc3-numa" / "capture.xz"


def _report() -> Report:
    report = Report(
        Target("core", "/tmp/core", "6.1.0", "X86_64"), LayoutSummary("rfc-v3", "SLAB", ())
    )
    report.totals = Totals(pages=4096, slab_pages=24, slabs=20, objects=500, in_use=400, caches=41)
    names = [_EVIL, *(f"a_cache_with_a_rather_long_name_{n}" for n in range(40))]
    for number, name in enumerate(names, 1):
        report.caches.append(
            CacheResult(
                name,
                0xFFFF888000000000 + number,
                192,
                200,
                20,
                slabs=20 + number,
                pages=24 + number,
                objects=500,
                counted=450,
                in_use=400,
                fill=[0, 1, 2, 3, 4, 5, 0, 1, 0, 2, number],
            )
        )
    report.findings = [
        Finding("count-mismatch", f"{_EVIL} slab 0xffffea0000000000: 1 too many", id=1, expected=7),
        Finding("node-free-objects", "node 0: 5 free objects", id=2, because=1, found=5),
    ]
    report.notes = [Finding("dump-tools-misread", "a note")]
    return report


def _census() -> Census:
    rows = [CensusRow(kind, 100, 90, 10, 409600, f"pages of {kind}") for kind in COLOURS]
    cells = [Cell(pfn, 4, [("slab", 3), ("buddy", 1)]) for pfn in range(0, 2048, 4)]
    cells += [Cell(pfn, 4, [("buddy", 4)]) for pfn in range(1 << 20, (1 << 20) + 2048, 4)]
    places = [Place(node, "Normal", 50, {"slab": 50}) for node in range(2)]
    conflict = Conflict(5, 0xFFFFEA0000000140, 0xFFEEFFFF, "slab and buddy; more than one type")
    return Census(rows, 4096, 0, places, [conflict], map=PageMap(4, cells))


def _page() -> str:
    return "".join(check(_report(), _census()))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: List[str] = []
        self.ids: List[str] = []
        self.links: List[str] = []
        self.tags: List[str] = []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        told = dict(attrs)
        if told.get("id"):
            self.ids.append(told["id"] or "")
        if tag == "a":
            self.links.append(told["href"] or "")

    def handle_startendtag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def _read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_page_is_well_formed_and_needs_nothing_else() -> None:
    page = _page()
    reader = _read(page)
    assert not {"script", "link", "img", "iframe", "object"} & set(reader.tags)
    assert not re.search(r"https?:|url\(|@import|javascript:", page)


def test_names_from_the_target_are_text() -> None:
    page = _page()
    assert "<script>" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;" in page


def test_each_finding_leads_to_what_it_means() -> None:
    reader = _read(_page())
    assert len(set(reader.ids)) == len(reader.ids)
    assert {f"#code-{finding.code}" for finding in _report().findings} <= set(reader.links)
    assert {link.lstrip("#") for link in reader.links} <= set(reader.ids)
    assert CATALOGUE["count-mismatch"].meaning in unescape(_page())


def test_consequences_stand_under_their_root() -> None:
    page = _page()
    root, follower = page.index("1 too many"), page.index("node 0: 5 free objects")
    assert page.index('<ol aria-label="follows from it">') in range(root, follower)


def test_cells_of_the_map_say_what_they_are() -> None:
    page = _page()
    assert "0x0 to 0x3fff: slab 75%, buddy 25%" in page
    # The second range is one run of equal cells a row.
    assert page.count("buddy 100%") == 4


def test_healthy_kernel_has_no_catalogue() -> None:
    report = Report(Target("core", None, "6.1.0", None), LayoutSummary("rfc-v3", "SLAB"))
    page = "".join(check(report, Census([], 0, 0)))
    _read(page)
    assert "consistent" in page
    assert 'id="codes"' not in page


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_overlaps_is_cut_or_faint_in_a_browser(
    tmp_path: Path, width: int, dark: bool
) -> None:
    assert_legible(probe(tmp_path, _page(), width, dark), width, dark)


@pytest.fixture(scope="module")
def damaged_page() -> str:
    """Return the page of a real kernel on two nodes, with a count off by one."""
    prog = open_capture(str(_CAPTURE))
    raise_count(prog, "dentry")
    report = check_kernel(prog)
    report.target = describe(prog)
    assert report.findings
    return "".join(check(report, census(prog, cells=4096)))


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (400, False)], ids=["wide", "narrow"])
def test_page_of_a_damaged_kernel_is_legible_in_a_browser(
    tmp_path: Path, damaged_page: str, width: int, dark: bool
) -> None:
    assert_legible(probe(tmp_path, damaged_page, width, dark), width, dark)


def test_page_of_a_damaged_kernel_tells_of_nodes_and_damage(damaged_page: str) -> None:
    reader = _read(damaged_page)
    assert "code-count-mismatch" in reader.ids
    assert "0/DMA32" in damaged_page
    assert "1/DMA32" in damaged_page
