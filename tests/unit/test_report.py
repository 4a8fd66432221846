# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same report as text, JSON and JUnit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Dict, List
from xml.etree import ElementTree

import pytest

from drgn_slabtype.answers.decode import decode
from drgn_slabtype.errors import ArgumentError
from drgn_slabtype.findings import Finding, KernelState, Report
from drgn_slabtype.report import present as pieces

from ..synthetic.reports import OBJECT, SLAB, damaged, healthy, incomplete


def present(command: str, records: Any, format: str) -> str:
    """Return what is presented, whether it comes in one piece or in many."""
    return "".join(pieces(command, records, format))


def as_json(report: Report) -> Dict[str, Any]:
    document: Dict[str, Any] = json.loads(present("check", report, "json"))
    return document


def test_healthy_is_one_line() -> None:
    assert present("check", healthy(), "table") == (
        "consistent: Linux 6.1.0-test x86_64, SLAB, rfc-v3: 2 of 2 caches judged; "
        "3 slabs in 3 pages; 149 objects: 110 in use, 38 free, 1 waiting; "
        "all 1000 pages read, 4 of slabs\n"
    )


@pytest.mark.parametrize(
    ("kind", "state", "told"),
    [
        ("core", KernelState(("O: a module", "E: unsigned")), ["tainted O: a module, E: unsigned"]),
        ("core", KernelState(()), []),
        (
            "core",
            KernelState(log=False),
            ["taint flags could not be read", "log could not be read"],
        ),
        ("capture", KernelState(log=False), []),
        ("capture", KernelState(("O: a module",), log=False), ["tainted O: a module"]),
    ],
)
def test_what_a_kernel_says_of_itself_has_a_line(
    kind: str, state: KernelState, told: List[str]
) -> None:
    report = healthy()
    report.target.kind, report.kernel = kind, state
    *lines, verdict = present("check", report, "table").splitlines()
    assert lines == [f"kernel: {one}" for one in told]
    assert verdict.startswith("consistent: ")
    flags = None if state.tainted is None else list(state.tainted)
    assert as_json(report)["kernel"]["tainted"] == flags


def test_consequences_stand_under_their_root() -> None:
    lines = present("check", damaged(), "table").splitlines()
    assert lines[0].split() == (
        "CACHE OBJSIZE SLABS OBJECTS COUNTED IN USE FREE WAITING UNKNOWN OUTCOME".split()
    )
    assert lines[1].split() == "kmalloc-64 64 2 128 100 90 38 0 0 inconsistent".split()
    assert not any(line.startswith("dentry") for line in lines)
    assert lines[3].startswith(f"1. kmalloc-64 slab 0x{SLAB:x}: counts 12 of 64")
    assert lines[3].endswith("[count-mismatch]: expected 11, found 12")
    assert lines[4] == (
        "   follows: 3. kmalloc-64 node 0: free_objects is 27 [node-free-objects]: "
        "expected 28, found 27"
    )
    assert lines[5] == "      follows: 4. kmalloc-64: on the wrong list [list-wrong]"
    assert lines[6] == (
        "2. kmalloc-64: a pointer leads nowhere [freelist-pointer]: "
        "found 0xdead000000000100, read 5 times"
    )
    assert lines[-1].startswith("inconsistent (2 findings, 2 consequences): Linux 6.1.0-test")


def test_what_stands_above_of_an_object_is_not_said_again() -> None:
    of_it, own = ("the object before is in use", "allocated by f"), "3 bytes of 0x01"
    root = Finding("redzone", "red zone", id=1, object=0x1000, details=of_it)
    details = (own, *of_it)
    follower = Finding("poison", "poison", id=2, because=1, object=0x1000, details=details)
    beside = Finding("poison", "poison", id=4, because=1, object=0x1100, details=of_it[:1])
    other = Finding("padding", "padding", id=3, details=of_it)
    report = healthy()
    report.findings = [root, follower, other, beside]
    lines = present("check", report, "table").splitlines()
    assert lines[:9] == [
        "1. red zone [redzone]",
        *(f"   {line}" for line in of_it),
        "   follows: 2. poison [poison]",
        f"               {own}",
        "   follows: 4. poison [poison]",
        f"               {of_it[0]}",
        "3. padding [padding]",
        f"   {of_it[0]}",
    ]
    assert as_json(report)["findings"][1]["details"] == [*details]


def test_text_says_what_is_missing() -> None:
    lines = present("check", incomplete(), "table").splitlines()
    assert "unavailable: /cores/vmcore: truncated [unreadable]" in lines
    assert "1 of 2 caches judged" in lines[-1]
    assert "of 1000 pages 4 of slabs, 7 unreadable, 3 zero-filled" in lines[-1]
    assert lines[-1].startswith("incomplete: ")


def test_interrupted_report_says_so() -> None:
    report = healthy()
    report.interrupted = True
    assert present("check", report, "table").endswith("; interrupted\n")
    assert ": 2 caches judged; " in present("check", report, "table")
    assert as_json(report)["interrupted"] is True
    assert report.exit_status == 3


def test_crowds_of_notes_are_cut_short_in_text_only() -> None:
    report = healthy()
    report.notes = [Finding("slab-detached", f"slab {n} waits") for n in range(300)]
    lines = present("check", report, "table").splitlines()
    assert lines[10] == "note: 290 more [slab-detached], all in --format json"
    assert len(lines) == 12
    assert len(as_json(report)["notes"]) == 300


def test_no_control_character_reaches_the_terminal() -> None:
    report = healthy()
    report.target.path = "/cores/\x1b[31mred"
    report.notes = [Finding("slab-detached", "a\x1b[2Jb\rc\nd")]
    text = present("check", report, "table")
    assert text.splitlines()[0] == "note: a\\x1b[2Jb\\x0dc\\x0ad [slab-detached]"
    assert "\x1b" not in text
    assert "\x1b" not in present("check", report, "json")
    ElementTree.fromstring(present("check", report, "junit"))


def test_json_has_the_keys_of_schema_1() -> None:
    document = as_json(damaged())
    assert document["schema"] == 1
    assert document["tool"]["name"] == "drgn-slabtype"
    assert set(document["tool"]) == {"name", "version"}
    assert document["target"] == {
        "kind": "core",
        "path": "/cores/vmcore",
        "release": "6.1.0-test",
        "architecture": "x86_64",
    }
    assert document["layout"] == {
        "page_type": "rfc-v3",
        "allocator": "SLAB",
        "evidence": ["struct slab has page_type and no active"],
    }
    assert set(document["totals"]) >= set(
        "pages slab_pages slabs objects counted in_use free waiting caches findings notes "
        "changing unavailable unreadable_pages zero_filled_pages unknown".split()
    )
    assert set(document["caches"][0]) >= set(
        "name address object_size objects_per_slab slabs objects counted in_use free "
        "waiting unknown outcome".split()
    )
    assert set(document["findings"][0]) >= set(
        "id code rule because cache node cpu slab page object index place expected found "
        "message attempts".split()
    )
    assert (document["outcome"], document["exit_status"]) == ("inconsistent", 1)
    assert document["totals"]["findings"] == 4


def test_json_addresses_are_strings_and_unknown_is_null() -> None:
    root, pointer, *_ = as_json(damaged())["findings"]
    assert root["slab"] == f"0x{SLAB:x}"
    assert (root["expected"], root["found"]) == (11, 12)
    assert root["object"] is None
    assert root["because"] is None
    assert root["rule"] == "count"
    assert pointer["object"] == f"0x{OBJECT:x}"
    assert pointer["found"] == "0xdead000000000100"
    assert as_json(damaged())["caches"][0]["address"] == "0xffff888000041000"
    assert as_json(damaged())["caches"][0]["free"] == {"freelist": 28, "cpu array": 10}


def test_findings_win_over_incompleteness() -> None:
    report = damaged()
    report.unavailable = incomplete().unavailable
    assert (report.outcome.value, report.exit_status) == ("inconsistent", 1)
    assert incomplete().exit_status == 3
    assert healthy().exit_status == 0


def test_junit_has_a_case_for_each_cache_and_the_machine() -> None:
    report = damaged()
    report.totals.seconds, report.caches[0].seconds = 3.25, 1.5
    root = ElementTree.fromstring(present("check", report, "junit"))
    suite = root[0]
    assert suite.attrib == {
        "name": "drgn-slabtype",
        "tests": "3",
        "failures": "1",
        "skipped": "0",
        "errors": "0",
        "time": "3.250",
    }
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == ["machine", "kmalloc-64", "dentry"]
    assert [case.get("time") for case in cases.values()] == ["1.750", "1.500", "0.000"]
    failure = cases["kmalloc-64"][0]
    assert failure.get("type") == "count-mismatch"
    assert (failure.get("message") or "").startswith("4 findings: kmalloc-64 slab 0x")
    assert len((failure.text or "").splitlines()) == 4
    assert not len(cases["dentry"])


def test_junit_skips_what_was_not_judged() -> None:
    suite = ElementTree.fromstring(present("check", incomplete(), "junit"))[0]
    skipped = [
        case.get("name") for case in suite.iter("testcase") if case.find("skipped") is not None
    ]
    assert skipped == ["machine", "dentry"]
    assert suite.get("skipped") == "2"
    message = suite.findall(".//skipped")[0].get("message")
    assert message == "1 part not judged: /cores/vmcore: truncated [unreadable]"


def test_decode_reads_a_word_by_every_layout() -> None:
    words = {word.layout: word for word in decode(-1048582)}
    rfc = words["rfc-v3"]
    assert (rfc.word, rfc.types, rfc.active, rfc.conflict) == (0xFFEFFFFA, ("slab",), 5, False)
    assert words["inverted-6.10"].types == ()
    assert words["inverted-6.10"].active is None
    text = present("decode", list(words.values()), "table")
    assert text.startswith("0xffeffffa\nLAYOUT ")
    document = json.loads(present("decode", [rfc], "json"))
    assert document["word"] == "0xffeffffa"
    assert document["readings"][0]["active"] == 5


@pytest.mark.parametrize("word", [1 << 32, -(1 << 31) - 1])
def test_decode_refuses_more_than_32_bits(word: int) -> None:
    with pytest.raises(ArgumentError, match="32-bit"):
        decode(word)


def test_decode_names_the_layouts_it_knows() -> None:
    with pytest.raises(ArgumentError, match=r"rfc-v9 is no layout: these are .*rfc-v3"):
        decode(0, "rfc-v9")


def test_what_the_message_says_is_not_said_again() -> None:
    report = damaged()
    first, second, *_ = report.findings
    said = "kmalloc-64 slab 0xffffea0000012340: counts 12 of 64 in use, 11 are"
    report.findings[0] = dataclasses.replace(first, message=said)
    report.findings[1] = dataclasses.replace(
        second,
        code="count-mismatch",
        message="dentry slab 0xffffea0000012340: on node 28",
        expected=28,
        found="none",
    )
    lines = present("check", report, "table").splitlines()
    assert lines[3] == f"1. {said} [count-mismatch]"
    # The number of a node is not the value.
    assert "expected 28, found none" in "\n".join(lines)
    found = as_json(report)["findings"][0]
    assert (found["expected"], found["found"]) == (11, 12)
