# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this program did not expect costs the cache or the question it comes from, and is named."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Set

import pytest

from drgn_slabtype import reading, strays
from drgn_slabtype.allocators.slab import allocator as slab
from drgn_slabtype.allocators.slub import allocator as slub
from drgn_slabtype.allocators.slub.allocator import SlubAllocator
from drgn_slabtype.answers import diagnose
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Outcome

from ..recipes.overlay import Write, overlay

_CAPTURE = str(Path(__file__).parent / "debian-7-plain" / "capture.xz")


def _broken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    collect = SlubAllocator.collect

    def worse(self: SlubAllocator, number: int, index: Any) -> Any:
        if self.caches.names[number] == name:
            return [][number]
        return collect(self, number, index)

    monkeypatch.setattr(SlubAllocator, "collect", worse)


def test_a_cache_is_lost_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = check(open_capture(_CAPTURE))
    _broken(monkeypatch, "dentry")
    monkeypatch.setattr(reading, "CAUGHT", (Exception,))
    report = check(open_capture(_CAPTURE))
    (lost,) = report.unavailable
    assert (lost.code, lost.cache) == ("not-read", "dentry")
    assert "dentry: could not be read: IndexError: list index out of range (test_guards" in (
        lost.message
    )
    assert report.exit_status == 3
    assert not report.findings
    assert len(report.caches) == len(whole.caches)
    for before, after in zip(whole.caches, report.caches):
        assert before == after or (after.name, after.outcome) == ("dentry", Outcome.UNAVAILABLE)


def test_a_machine_is_lost_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SlubAllocator, index: Any) -> None:
        raise ZeroDivisionError("nothing")

    monkeypatch.setattr(SlubAllocator, "discover", broken)
    with pytest.raises(ZeroDivisionError):
        check(open_capture(_CAPTURE))
    monkeypatch.setattr(reading, "CAUGHT", (Exception,))
    report = check(open_capture(_CAPTURE))
    (lost,) = report.unavailable
    assert lost.code == "not-read"
    assert lost.message.startswith("the machine: could not be read: ZeroDivisionError: nothing")
    assert (report.exit_status, report.findings) == (3, [])


@pytest.mark.parametrize("capture", ["debian-7-plain", "debian-6.1-plain", "slab-6.1-rfc3-plain"])
def test_a_cache_that_spoils_what_is_read_of_all(
    monkeypatch: pytest.MonkeyPatch, capture: str
) -> None:
    path = str(Path(_CAPTURE).parents[1] / capture / "capture.xz")
    whole = check(open_capture(path))
    for of in (slab, slub):
        monkeypatch.setattr(of, "read_nodes", _spoiling(of, {"dentry", "filp"}))
    with pytest.raises(IndexError):
        check(open_capture(path))
    monkeypatch.setattr(reading, "CAUGHT", (Exception,))
    report = check(open_capture(path))
    assert [(one.code, one.cache) for one in report.unavailable] == [
        ("not-read", one.name) for one in whole.caches if one.name in ("dentry", "filp")
    ]
    assert (report.exit_status, report.findings) == (3, [])
    for before, after in zip(whole.caches, report.caches):
        if after.outcome is not Outcome.UNAVAILABLE:
            assert before == after
    assert sum(one.outcome is Outcome.UNAVAILABLE for one in report.caches) == 2
    told = caches(open_capture(path), "kmalloc-64", "dentry")
    assert "dentry: could not be read: IndexError" in "".join(told.unavailable)


def _spoiling(of: ModuleType, names: Set[str]) -> Callable[..., Any]:
    read = vars(of)["read_nodes"]

    def spoiled(machine: Any, caches: Any, *others: Any) -> Any:
        for number in caches.chosen.nonzero()[0].tolist():
            if caches.names[number] in names:
                raise IndexError("nothing")
        return read(machine, caches, *others)

    return spoiled


def test_too_many_caches_that_spoil_it(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {one.name for one in check(open_capture(_CAPTURE)).caches[:20]}
    monkeypatch.setattr(slub, "read_nodes", _spoiling(slub, names))
    monkeypatch.setattr(reading, "CAUGHT", (Exception,))
    report = check(open_capture(_CAPTURE))
    (lost,) = report.unavailable
    assert lost.message.startswith("the machine: could not be read: IndexError: nothing")
    assert (report.exit_status, report.findings) == (3, [])


def test_not_every_page_of_a_region_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    prog = open_capture(_CAPTURE)
    monkeypatch.setattr(strays, "_MOST_PAGES", 3)
    first = int(prog["vmemmap"]) + 64 * 0x4000
    overlay(prog, [Write(first + 64 * at + 48, b"\xff\x0f\x00\xc0") for at in range(5)])
    found = [one for one in check(prog).findings if one.code == "type-conflict"]
    assert [one.page for one in found[:3]] == [first, first + 64, first + 128]
    assert len(found) == 4
    assert "2 more pages" in found[3].message
    assert (found[3].found, found[3].because) == (2, found[0].id)


def test_nothing_is_hidden_from_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    _broken(monkeypatch, "dentry")
    with pytest.raises(IndexError):
        check(open_capture(_CAPTURE))


def test_a_question_is_lost_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("nothing")

    monkeypatch.setattr(strays, "judge_memory", broken)
    monkeypatch.setattr(diagnose, "_clues", broken)
    monkeypatch.setattr(reading, "CAUGHT", (Exception,))
    prog = open_capture(_CAPTURE)
    overlay(prog, [Write(0xFFFFF473C01B7430, bytes.fromhex("0000ffff"))])
    report = check(prog)
    assert report.findings
    assert {text for one in report.findings for text in one.details} == {
        f"what is there: could not be read: ZeroDivisionError: nothing "
        f"(test_guards.py:{broken.__code__.co_firstlineno + 1})"
    }
    assert "free memory: could not be read" in report.unavailable[0].message
