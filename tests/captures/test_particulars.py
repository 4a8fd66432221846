# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings as data: no script has to read a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import pytest
from drgn import Object

from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.content import longest_text
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.census import census
from drgn_slabtype.pages.freememory import free_memory
from drgn_slabtype.report import json as presented
from drgn_slabtype.report import junit
from drgn_slabtype.report.html.page import check as page

from ..recipes.overlay import Write, overlay
from ..recipes.suites import suite_of

HERE = Path(__file__).parent

# Poison overwritten in three places, one of them with a pointer.
POISON = (
    "debian-7-debug",
    [
        (0xFFFF88A1C60D8A04, "08"),
        (0xFFFF88A1C60D8A28, "00e05d81ffffffff"),
        (0xFFFF88A1C60D8A80, "deadbeef"),
    ],
)
# A free pointer that is hardened otherwise than the others, and so leads astray.
POINTER = ("debian-6.1-plain", [(0xFFFF8E8745F98CF0, "4141414142424242")])
# An object on its slab's freelist twice.
TWICE = ("debian-6.1-plain", [(0xFFFF8E8745F98CF0, "f0886d0372ad4be2")])


def _damaged(case: Tuple[str, Sequence[Tuple[int, str]]]) -> Any:
    name, patches = case
    prog = open_capture(str(HERE / name / "capture.xz"))
    overlay(prog, [Write(at, bytes.fromhex(data)) for at, data in patches])
    return prog


def _found(case: Tuple[str, Sequence[Tuple[int, str]]]) -> List[Dict[str, Any]]:
    found: List[Dict[str, Any]] = json.loads(presented.check(check(_damaged(case))))["findings"]
    return found


def _clues(finding: Dict[str, Any], kind: str) -> Iterator[Dict[str, Any]]:
    return (clue for clue in finding["clues"] if clue["kind"] == kind)


def test_overwritten_poison_is_told_in_fields() -> None:
    (finding,) = _found(POISON)
    assert finding["code"] == "poison"
    assert finding["word"] == finding["ranges"][0]["address"] == "0xffff88a1c60d8a04"
    assert finding["value_kind"] == "bytes"
    assert finding["state"] == "free"
    assert finding["places"]
    events = [track["event"] for track in finding["tracks"]]
    assert events == ["allocated", "freed"]
    assert all(track["caller"] and track["pid"] is not None for track in finding["tracks"])
    for neighbour in ("previous", "next"):
        assert finding[neighbour]["state"] in ("in use", "free")
        assert finding[neighbour]["slab"] == finding["slab"]
    assert finding["previous"]["index"] + 1 == finding["index"] == finding["next"]["index"] - 1
    (lead,) = _clues(finding, "leads")
    assert lead["value"] == "0xffffffff815de000"
    assert lead["leads"]["kind"] == "other"


def test_every_line_of_the_details_is_in_fields_too() -> None:
    for case in (POISON, POINTER, TWICE):
        for finding in _found(case):
            rest = finding["details"]
            for clue in finding["clues"]:
                assert rest.pop(0) == clue["text"]
            around = [one for one in ("previous", "next") if finding[one]]
            for name in around:
                line = rest.pop(0)
                assert finding[name]["address"] in line
                assert finding[name]["state"] in line
            for track in finding["tracks"]:
                assert rest.pop(0).startswith(track["event"])
            # What is left is how far the damage reaches.
            assert not rest or finding["stretches"]


def test_a_free_pointer_that_leads_astray_is_told_in_fields() -> None:
    finding = next(one for one in _found(POINTER) if one["because"] is None)
    assert finding["code"] == "freelist-pointer"
    assert finding["word"] == "0xffff8e8745f98cf0"
    assert finding["value_kind"] == "address"
    (stored,) = _clues(finding, "stored")
    assert stored["address"] == finding["word"]
    assert stored["value"] == "0x4242424241414141"
    # Half of the slab's slots are behind it.
    assert int(finding["object"], 16) <= int(finding["word"], 16)


def test_a_hardened_pointer_with_a_wrong_bit_is_told_as_that() -> None:
    # The bytes that it is stored as are text by chance.
    prog = open_capture(str(HERE / "debian-6.1-plain" / "capture.xz"))
    (cache,) = caches(prog, "kmalloc-64")
    offset = int(Object(prog, "struct kmem_cache", address=cache.address).offset)
    at, stored, bit = next(
        (at, stored, bit)
        for one in objects(prog, cache.name, "free")
        if (one.place or "").startswith("freelist")
        for at in (one.address + offset,)
        for bit in range(64)
        for stored in ((prog.read_word(at) ^ 1 << bit).to_bytes(8, "little"),)
        if len(longest_text(stored)) >= 4
    )
    overlay(prog, [Write(at, stored)])
    finding = next(one for one in check(prog).findings if one.because is None)
    (clue,) = [one for one in finding.clues if one.kind == "stored"]
    assert f"a free pointer, bit {bit} wrong: with it right, " in clue.text
    assert finding.signature is not None
    assert finding.signature.written == "one bit wrong"


def test_an_object_that_is_free_twice_is_told_in_fields() -> None:
    finding = next(one for one in _found(TWICE) if one["because"] is None)
    assert finding["code"] == "freelist-cycle"
    assert finding["word"] == "0xffff8e8745f98cf0"
    assert finding["state"] is not None
    assert finding["previous"] or finding["next"]


@pytest.mark.parametrize("case", [POISON, TWICE], ids=["poison", "twice"])
def test_html_and_junit_tell_the_same_details(case: Tuple[str, Sequence[Tuple[int, str]]]) -> None:
    prog = _damaged(case)
    report = check(prog)
    html = "".join(page(report, census(prog)))
    xml = junit.check(report)
    assert report.findings
    for finding in report.findings:
        assert finding.details
        for detail in finding.details:
            plain = detail.replace("'", "&#x27;").replace('"', "&quot;").replace("<", "&lt;")
            assert plain in html or detail in html
            assert detail.replace("<", "&lt;").replace(">", "&gt;") in xml
    damaged = {finding.cache for finding in report.findings}
    for name in damaged:
        assert f'{name} <a href="#findings" class="bad">damaged</a>' in html
    assert '<tr class="damaged">' in html


def test_object_that_a_freelist_leads_back_to_is_told_by_who_freed_it() -> None:
    path = str(HERE / "debian-7-debug" / "capture.xz")
    clean, prog = open_capture(path), open_capture(path)
    suite = suite_of(clean)
    overlay(prog, suite.recipes["freed-twice"](suite.open(clean)).writes)
    (finding,) = check(prog).findings
    (clue,) = [one for one in finding.clues if one.kind == "leads"]
    assert (finding.code, clue.value) == ("freelist-cycle", finding.found)
    assert [track.event for track in clue.tracks] == ["allocated", "freed"]
    assert "; freed by finish_task_switch" in clue.text
    # What the finding says of the object that leads there is told, too.
    assert finding.tracks[1].stack != clue.tracks[1].stack


@pytest.mark.parametrize("tail", [0, 1])
@pytest.mark.parametrize("member", ["mapping", "memcg_data"])
def test_word_of_a_free_page_is_that_which_is_wrong(member: str, tail: int) -> None:
    prog = open_capture(str(HERE / "debian-6.12-plain" / "capture.xz"))
    of = machine(prog)
    free = free_memory(of)
    pfn = int(free.pfn[free.order > 0][0]) + tail
    address = of.page.vmemmap + pfn * of.page.size
    word = address + of.structure("struct page").offset(member)
    overlay(prog, [Write(word, (0x1000).to_bytes(8, "little"))])
    (finding,) = check(prog).findings
    assert (finding.code, finding.page) == ("page-free-type", address)
    assert (finding.word, finding.member, finding.found) == (word, member, "0x1000")
