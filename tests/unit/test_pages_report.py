# SPDX-License-Identifier: LGPL-2.1-or-later
"""How pages are presented: the census, runs, flags, the map, and one page."""

from __future__ import annotations

import argparse
import json
from typing import Any, List

import numpy as np
import pytest

from drgn_slabtype.answers.page import PageInfo, SlabOfPage
from drgn_slabtype.pagecommands import pfn_range
from drgn_slabtype.pages.census import Census, CensusRow, Conflict, FlagRow, Place, Run
from drgn_slabtype.pages.flagnames import BITS, FLAGS, flag_letters, flag_names
from drgn_slabtype.pages.kinds import TAIL
from drgn_slabtype.pages.map import Cell, PageMap, draw
from drgn_slabtype.pages.survey import Piece
from drgn_slabtype.report import present

_ROWS = [
    CensusRow("buddy", 70, 2, 68, 70 * 4096, "free"),
    CensusRow("slab", 30, 20, 10, 30 * 4096, "objects"),
]


def _lines(census: Census) -> List[str]:
    return "".join(present("pages", census, "table")).splitlines()


def test_census() -> None:
    zones = [Place(0, "DMA", 10, {"buddy": 10}), Place(1, "DMA32", 90, {"buddy": 60, "slab": 30})]
    census = Census(_ROWS, 100, 3, zones)
    assert _lines(census) == [
        "TYPE      PAGES       SIZE    HEADS    TAILS  WHAT",
        "buddy        70  280.0 KiB        2       68  free",
        "slab         30  120.0 KiB       20       10  objects",
        "",
        "NODE/ZONE      0/DMA    1/DMA32",
        "all               10         90",
        "buddy             10         60",
        "slab               0         30",
        "",
        "100 pages, 400.0 KiB; 3 pages unreadable",
    ]
    document = json.loads("".join(present("pages", census, "json")))
    assert document["types"][1] == {
        "type": "slab",
        "pages": 30,
        "heads": 20,
        "tails": 10,
        "size_bytes": 122880,
        "meaning": "objects",
        "kfence_pages": 0,
    }
    assert (document["pages"], document["unreadable_pages"]) == (100, 3)
    assert document["zones"][1]["types"] == {"buddy": 60, "slab": 30}


def test_census_with_everything() -> None:
    flags = 1 << BITS["slab"] | 1 << BITS["compound_head"]
    census = Census(
        _ROWS,
        100,
        0,
        conflicts=[Conflict(5, 0xFFFFEA0000000140, 0xFFEEFFFF, "slab and buddy")],
        flags=[FlagRow(flags, 300), FlagRow(0, 1)],
        runs=[Run(0x1000, 8, "slab", 0, "Normal", flags), Run(0x2000, 1, "other", 0, "Normal")],
        map=PageMap(4, [Cell(0, 4, [("slab", 3)])]),
    )
    text = "\n".join(_lines(census))
    assert "0x0000000000008080      300      1  _______S_______H" in text
    assert "slab,compound_head" in text
    assert "      0x1000           8  slab            0/Normal   slab,compound_head" in text
    assert "      0x2000           1  other           0/Normal\n" in text
    assert "0x5  0xffffea0000000140  0xffeeffff  slab and buddy" in text
    document = json.loads("".join(present("pages", census, "json")))
    assert document["flags"][0]["names"] == ["slab", "compound_head"]
    assert document["runs"][1]["flags"] is None
    assert document["conflicts"][0]["word"] == "0xffeeffff"
    assert document["map"]["cells"] == [{"pfn": 0, "pages": 4, "types": {"slab": 3}}]


def test_names_and_letters_of_flags() -> None:
    assert len(BITS) == len(FLAGS)
    assert [flag.bit for flag in FLAGS] == sorted(BITS.values())
    assert flag_names(1 << 10 | 1 << 32) == ("buddy", "reserved")
    letters = flag_letters(1 << 10)
    assert (len(letters), letters.strip("_"), letters.index("B")) == (len(FLAGS), "B", 10)


def _piece(pfn: int, kinds: List[int], zone: int = 0) -> Any:
    return Piece(pfn, 0, zone, np.array(kinds, np.uint8)), None


def test_map_counts_tails_with_their_heads() -> None:
    map = draw(["buddy", "slab"], [_piece(0, [0, 0, 1, 1 | int(TAIL)] * 4)], 4)
    assert map.pages_per_cell == 4
    assert [cell.pfn for cell in map.cells] == [0, 4, 8, 12]
    assert map.cells[0].types == [("buddy", 2), ("slab", 2)]


def test_map_joins_zones_within_a_cell_and_leaves_holes_out() -> None:
    pieces = [_piece(0, [0, 0]), _piece(2, [1, 1, 1, 1, 1, 1], 1), _piece(64, [1, 1, 1, 1])]
    map = draw(["buddy", "slab"], pieces, 3)
    assert [(cell.pfn, cell.pages) for cell in map.cells] == [(0, 4), (4, 4), (64, 4)]
    assert map.cells[0].types == [("buddy", 2), ("slab", 2)]


def test_map_in_letters_has_no_colours_unless_asked() -> None:
    cells = [Cell(0, 4, [("slab", 4)]), Cell(4, 4, [("buddy", 4)]), Cell(8, 4, [])]
    text = "\n".join(_lines(Census(_ROWS, 100, 0, map=PageMap(4, cells))))
    assert "           0x0 S. \n" in text
    assert "\x1b" not in text
    assert "S slab" in text
    text = "\n".join(_lines(Census(_ROWS, 100, 0, map=PageMap(4, cells, colour=True))))
    assert "\x1b[48;5;33;38;5;231mS\x1b[0m" in text


def test_map_of_one_kind_is_in_shades() -> None:
    cells = [Cell(4 * n, 4, [("slab", n)] if n else []) for n in range(5)]
    text = "\n".join(_lines(Census(_ROWS, 100, 0, map=PageMap(4, cells))))
    assert "0x0  ░▒▓█\n" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", (7, 8)),
        ("0x10-0x1f", (16, 32)),
        ("16+4", (16, 20)),
        ("5-5", (5, 6)),
        ("1f0-1f1", (0x1F0, 0x1F2)),
    ],
)
def test_ranges_of_page_frames(text: str, expected: object) -> None:
    assert pfn_range(text) == expected


@pytest.mark.parametrize("text", ["", "x", "5-", "-5", "9-3"])
def test_what_is_no_range_of_page_frames(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is no range of page frames: FIRST-LAST"):
        pfn_range(text)


def _page(slab: SlabOfPage) -> PageInfo:
    return PageInfo(
        pfn=0x1001,
        page=0xFFFFEA0000040040,
        physical=0x1001000,
        dump=["page: refcount:1", "raw: 0"],
        kind="slab",
        meaning="objects",
        word=0xFFFFFFFF,
        word_meaning="no type, idle",
        types=(),
        head=0x1000,
        order=1,
        flags=0,
        flag_names=(),
        kpageflags=0x10080,
        kpageflags_names=("slab", "compound_tail"),
        refcount=1,
        mapcount=0,
        node=0,
        zone="Normal",
        section=0,
        online=True,
        slab=slab,
    )


def test_page_of_a_slab() -> None:
    slab = SlabOfPage(0xFFFFEA0000040000, "dentry", 0xFFFF888000000000, 70, 60, "#" * 65 + ".w?..")
    lines = "".join(present("page", _page(slab), "table")).splitlines()
    assert lines[:3] == ["page: refcount:1", "raw: 0", ""]
    told = dict(line.split(None, 1) for line in lines[4:] if len(line.split(None, 1)) == 2)
    assert told["folio"] == "order 1, head PFN 0x1000; this is its page 1"
    assert told["kpageflags"] == "0x10080: slab compound_tail"
    assert told["objects"] == "70, 60 in use by the slab's own count"
    assert sum("#" * 64 in line for line in lines) == 1
    assert any(line.endswith(" #.w?..") for line in lines)
    document = json.loads("".join(present("page", _page(slab), "json")))["page"]
    assert document["slab"]["slab"] == "0xffffea0000040000"
    assert (document["pfn"], document["word"]) == (0x1001, "0xffffffff")


def test_page_of_a_slab_of_no_cache() -> None:
    text = "".join(present("page", _page(SlabOfPage(0xFFFFEA0000040000, None, None)), "table"))
    assert "0xffffea0000040000, of no slab cache" in text
