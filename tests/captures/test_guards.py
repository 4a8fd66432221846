# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this program did not expect costs the cache or the question it comes from, and is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drgn_slabtype import reading, strays
from drgn_slabtype.allocators.slub.allocator import SlubAllocator
from drgn_slabtype.answers import diagnose
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
