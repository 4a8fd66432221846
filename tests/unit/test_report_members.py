# SPDX-License-Identifier: LGPL-2.1-or-later
"""One line in a record, and every format has it; what is there stays as it is."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple, get_type_hints
from xml.etree import ElementTree

import pytest

from drgn_slabtype.answers.address import AddressInfo
from drgn_slabtype.answers.caches import CachesAnswer, CacheUsage, CpuUsage, NodeUsage, SlabInfo
from drgn_slabtype.answers.decode import Decoded, decode
from drgn_slabtype.answers.page import PageInfo, SlabOfPage
from drgn_slabtype.answers.states import SlabObject
from drgn_slabtype.answers.tracks import Track
from drgn_slabtype.capture import CaptureSummary
from drgn_slabtype.demo import Act
from drgn_slabtype.findings import (
    CacheResult,
    Finding,
    LayoutSummary,
    Outcome,
    Report,
    Target,
    Totals,
)
from drgn_slabtype.pages.census import Census, CensusRow, Conflict, FlagRow, Place, Run
from drgn_slabtype.pages.map import Cell, PageMap
from drgn_slabtype.pages.owner import PageOwner
from drgn_slabtype.pagetype.detect import PageTypeLayout
from drgn_slabtype.report import html, present
from drgn_slabtype.report.members import document, members, plain, told
from drgn_slabtype.report.views import Column, View, caches, check, objects, pages, words
from drgn_slabtype.shapes import Address, Bytes, Flags, Hex, Kind, Pairs, Value, Word

from ..synthetic.reports import damaged
from ..validated import BEYOND


@pytest.fixture(autouse=True)
def _beyond() -> Iterator[None]:
    # Members are added here that no schema has.
    BEYOND.append("members that are added by a test")
    yield
    BEYOND.pop()


@dataclass(frozen=True)
class _Finding(Finding):
    header: Optional[Word] = None


@dataclass
class _Cache(CacheResult):
    shrunk: int = 0
    lost: Bytes = 0


@dataclass
class _Totals(Totals):
    sampled: int = 0


@dataclass
class _Target(Target):
    taken_by: Optional[str] = None


@dataclass
class _Report(Report):
    seconds: Optional[int] = None


_more: Dict[str, Any] = {"lately_added": 717}


def _in_formats(report: Report) -> Dict[str, str]:
    found = {
        format: "".join(present("check", report, format)) for format in ("table", "json", "junit")
    }
    return {**found, "html": "".join(html.check(report, Census([], 0, 0)))}


def _extended(record: Any, **more: Any) -> Any:
    """Return a record of a class that has one more member."""
    cls: Any = type(record)
    if dataclasses.is_dataclass(record):
        frozen = cls.__dataclass_params__.frozen
        added = [(name, type(here), dataclasses.field(default=here)) for name, here in more.items()]
        larger = dataclasses.make_dataclass(cls.__name__, added, bases=(cls,), frozen=frozen)
        return larger(**{f.name: getattr(record, f.name) for f in dataclasses.fields(cls)})
    hints = get_type_hints(cls, include_extras=True)
    fields = [*hints.items(), *((name, type(here)) for name, here in more.items())]
    named: Any = NamedTuple("Larger", fields)  # type: ignore[misc]
    return named(*record, *more.values())


def test_member_of_a_finding_is_in_every_format() -> None:
    report = damaged()
    first = vars(report.findings[0])
    report.findings[0] = _Finding(**first, header=0x2A)
    for format, text in _in_formats(report).items():
        assert "header" in text, format
        assert "0x0000002a" in text, format
    assert json.loads(_in_formats(report)["json"])["findings"][0]["header"] == "0x0000002a"
    assert "expected 11, found 12, header 0x0000002a" in _in_formats(report)["table"]


def test_member_of_a_cache_is_in_every_format() -> None:
    report = damaged()
    report.caches = [_Cache(**vars(cache), shrunk=717, lost=4096) for cache in report.caches]
    found = _in_formats(report)
    head, row, *_ = found["table"].splitlines()
    assert head.split()[-2:] == ["SHRUNK", "LOST"]
    assert row.split()[-3:] == ["717", "4.0", "KiB"]
    assert json.loads(found["json"])["caches"][0]["lost"] == 4096
    assert '<td class="" data-label="shrunk">717</td>' in found["html"]
    assert '<td class="" data-label="lost">4.0 KiB</td>' in found["html"]
    case = ElementTree.fromstring(found["junit"]).find(".//testcase[@name='kmalloc-64']/system-out")
    assert case is not None
    assert (case.text or "").endswith("outcome inconsistent, shrunk 717, lost 4.0 KiB")


def test_members_of_totals_target_and_report_are_in_every_format() -> None:
    report = damaged()
    report.totals = _Totals(**vars(report.totals), sampled=717)
    report.target = _Target(**vars(report.target), taken_by="makedumpfile")
    report = _Report(**vars(report), seconds=818)
    for format, text in _in_formats(report).items():
        assert all(part in text for part in ("717", "makedumpfile", "818")), format


def test_details_of_a_finding_are_in_every_format() -> None:
    report = damaged()
    first = report.findings[0]
    report.findings[0] = dataclasses.replace(first, details=("what is there: a\x1b", "1 < 2"))
    report.notes = [Finding("slab-detached", "slab waits", details=("since when",))]
    found = {format: text.replace("&lt;", "<") for format, text in _in_formats(report).items()}
    for format, text in found.items():
        assert "1 < 2" in text, format
        assert "\x1b" not in text, format
        if format != "json":
            assert "what is there: a\\x1b" in text, format
            assert "expected 11, found 12" in text, format
    for format in ("json", "junit", "html"):
        assert "since when" in found[format], format


def test_reports_of_the_demonstration_are_documents() -> None:
    acts = [_extended(Act("as it was", damaged(), True), **_more)]
    (report,) = json.loads("".join(present("demo", acts, "json")))["reports"]
    check = json.loads("".join(present("check", acts[0].report, "json")))
    assert "as it was, lately added 717 ==" in "".join(present("demo", acts, "table"))
    assert report == {"title": "as it was", "lately_added": 717, **check}


_SLAB = SlabOfPage(0xFFFFEA0000040000, "dentry", 0xFFFF888000000000, 4, 3, "#.w?")
_OWNER = PageOwner(True, 0, 0xCC0, "", "Movable", (), ())
_PAGE = PageInfo(
    pfn=0x1001,
    page=0xFFFFEA0000040040,
    physical=0x1001000,
    dump=["raw: 0"],
    kind="slab",
    meaning="objects",
    word=0xFFFFFFFF,
    word_meaning="no type, idle",
    types=(),
    head=0x1000,
    order=1,
    flags=0x200,
    flag_names=("slab",),
    kpageflags=0x10080,
    kpageflags_names=("slab", "compound_tail"),
    refcount=1,
    mapcount=0,
    node=0,
    zone="Normal",
    section=0,
    online=True,
)
_NEIGHBOUR = SlabObject(0xFFFF888003A1C580, 0xFFFFEA00000E8700, 5, "free", "freelist", 3)
_ADDRESS = AddressInfo(0xFFFF888003A1C488, "slab object", "an object")
_TRACK = Track("allocated", "d_alloc+0x1b", 1, 42, 7, ())
_USAGE = CacheUsage("dentry", 0xFFFF888003A1C480, slabs=1, memory=4096, objects=16)
_TOTAL = CacheUsage("total", 0)
_NODE, _CPU = NodeUsage(0, 1, {}, 16, 16, {}, 16, 0, 0), CpuUsage(3, {}, {})
_ROW, _FLAGS = CensusRow("slab", 1, 1, 0, 4096, "objects"), FlagRow(1 << 7, 1)
_RUN, _CONFLICT = Run(1, 2, "slab", 0, "Normal"), Conflict(5, 1 << 40, 0xFFEEFFFF, "two")


def _caches(**parts: Any) -> CachesAnswer:
    return CachesAnswer([dataclasses.replace(_USAGE, **parts)], _TOTAL, True, True)


_ANSWERS: List[Tuple[str, Any]] = [
    ("object", _extended(_ADDRESS, **_more)),
    ("object", dataclasses.replace(_ADDRESS, next=_extended(_NEIGHBOUR, **_more))),
    ("object", dataclasses.replace(_ADDRESS, tracks=(_extended(_TRACK, **_more),))),
    ("page", _extended(_PAGE, **_more)),
    ("page", dataclasses.replace(_PAGE, slab=_extended(_SLAB, **_more))),
    ("page", dataclasses.replace(_PAGE, owner=_extended(_OWNER, **_more))),
    ("caches", CachesAnswer([_extended(_USAGE, **_more)], _extended(_TOTAL, **_more))),
    ("caches", _caches(nodes=[_extended(_NODE, **_more)])),
    ("caches", _caches(cpus=[_extended(_CPU, **_more)])),
    ("pages", Census([_extended(_ROW, **_more)], 1, 0)),
    ("pages", Census([_ROW], 1, 0, flags=[_extended(_FLAGS, **_more)])),
    ("pages", Census([_ROW], 1, 0, runs=[_extended(_RUN, **_more)])),
    ("pages", Census([_ROW], 1, 0, conflicts=[_extended(_CONFLICT, **_more)])),
    ("decode", [_extended(word, **_more) for word in decode(5)]),
    ("capture", _extended(CaptureSummary("/core", 1, 2, 3, {}, 0, ()), **_more)),
]


@pytest.mark.parametrize(
    ("command", "answer"), _ANSWERS, ids=[f"{n}-{name}" for n, (name, _) in enumerate(_ANSWERS)]
)
def test_member_of_an_answer_is_in_text_and_json(command: str, answer: Any) -> None:
    text = "".join(present(command, answer, "table"))
    assert "lately added" in text.lower()
    assert "717" in text
    assert '"lately_added": 717' in "".join(present(command, answer, "json"))


_VIEWS = [
    (check.ACT, Act),
    (check.cache_view([]), CacheResult),
    (check.FINDING, Finding),
    (check.TOTALS, Totals),
    (check.TARGET, Target),
    (check.LAYOUT, LayoutSummary),
    (check.REPORT, Report),
    (caches.NODE, NodeUsage),
    (caches.CPU, CpuUsage),
    (objects.address(), AddressInfo),
    (objects.NEIGHBOUR, SlabObject),
    (objects.TRACK, Track),
    (pages.TYPE, CensusRow),
    (pages.flags(4096), FlagRow),
    (pages.RUN, Run),
    (pages.CONFLICT, Conflict),
    (pages.PAGE, PageInfo),
    (pages.OWNER, PageOwner),
    (pages.SLAB, SlabOfPage),
    (words.DECODED, Decoded),
    (words.LAYOUT, PageTypeLayout),
    (words.CAPTURE, CaptureSummary),
]


@pytest.mark.parametrize(("view", "record"), _VIEWS, ids=[cls.__name__ for _, cls in _VIEWS])
def test_views_know_every_member_and_no_other(view: View, record: type) -> None:
    assert view.mentioned == {m.name for m in members(record) if not m.key.hidden}


def test_what_adds_up_over_caches_is_known() -> None:
    assert {member.name for member in members(CacheUsage)} > CacheUsage.OF_ONE_CACHE


_KEYS = {
    Finding: "id code rule because cache node cpu slab page object index place expected found "
    "message attempts address details",
    CacheResult: "name address object_size size objects_per_slab slabs pages objects counted "
    "in_use free waiting unknown fill outcome",
    Totals: "pages slab_pages slabs objects counted in_use free waiting caches unreadable_pages "
    "zero_filled_pages unknown",
    Report: "target layout totals caches findings notes changing unavailable interrupted outcome "
    "exit_status",
    CacheUsage: "name address aliases merged object_size size objects_per_slab pages_per_slab "
    "colours slabs lists pages memory leftover padding objects counted in_use free waiting unknown "
    "guarded consistent slabinfo nodes cpus waste occupancy",
    SlabInfo: "active_objs num_objs objsize objperslab pagesperslab active_slabs num_slabs",
    SlabObject: "address slab index state place position",
    AddressInfo: "address kind meaning cache slab_cache slab object index offset part state places "
    "contradictions previous next tracks page pfn page_types",
    Track: "event caller cpu pid when stack",
    Census: "types pages page_size unreadable_pages zones conflicts flags runs map",
    FlagRow: "flags names pages",
    Run: "pfn pages type node zone flags names",
    Place: "node zone pages types",
    Conflict: "pfn page word meaning",
    PageMap: "pages_per_cell cells",
    Cell: "pfn pages types",
    Decoded: "layout types active conflict printed meaning",
    CaptureSummary: "path size memory kept regions unreadable left_out",
}


@pytest.mark.parametrize("record", list(_KEYS), ids=lambda record: record.__name__)
def test_keys_of_json_are_added_never_renamed(record: type) -> None:
    keys = [m.key.name or m.name for m in members(record) if not m.key.hidden]
    known = _KEYS[record].split()
    assert [key for key in keys if key in known] == known


class _Everything(NamedTuple):
    address: Address
    maybe: Optional[Address]
    several: Tuple[Address, ...]
    mask: Hex
    word: Word
    flags: Flags
    size: Bytes
    large: Value
    small: Value
    words: Value
    pairs: Pairs
    by_name: Dict[str, int]
    healthy: bool
    outcome: Outcome


_EVERYTHING = _Everything(
    1 << 47,
    None,
    (1, 16),
    0x80,
    0xFFFFFF,
    1,
    2048,
    0xDEAD000000000100,
    12,
    "a list",
    [("slab", 2), ("free", 1)],
    {"sheaf": 3, "barn": 0},
    True,
    Outcome.CHANGING,
)


def test_each_kind_has_one_spelling() -> None:
    assert document(_EVERYTHING) == {
        "address": "0x800000000000",
        "maybe": None,
        "several": ["0x1", "0x10"],
        "mask": "0x80",
        "word": "0x00ffffff",
        "flags": "0x0000000000000001",
        "size": 2048,
        "large": "0xdead000000000100",
        "small": 12,
        "words": "a list",
        "pairs": {"slab": 2, "free": 1},
        "by_name": {"sheaf": 3, "barn": 0},
        "healthy": True,
        "outcome": "changing",
    }
    assert told(_EVERYTHING) == (
        "address 0x800000000000, several 0x1, 0x10, mask 0x80, word 0x00ffffff, "
        "flags 0x0000000000000001, size 2.0 KiB, large 0xdead000000000100, small 12, "
        "words a list, pairs 2 slab, 1 free, by name 3 sheaf, healthy yes, outcome changing"
    )
    assert plain(7, Kind.WORD) == "0x00000007"


def test_view_tells_what_it_mentions_first_and_the_rest_after() -> None:
    view = View(Column("outcome"), Column("bits", "mask"), quiet="address several by_name")
    assert [name for name, _ in view.facts(_EVERYTHING)][:3] == ["outcome", "bits", "word"]
    grid = view.grid([_EVERYTHING])
    assert [column.heading for column in grid.columns][:3] == ["outcome", "bits", "maybe"]
    assert len(grid.rows[0]) == len(grid.columns)
