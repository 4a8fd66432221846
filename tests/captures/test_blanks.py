# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages of zeroes where no structure is all zeroes are missing; one word of zeroes is damage."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Callable

import pytest
from drgn import Program

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine

from ..recipes.overlay import Write, overlay

_HERE = Path(__file__).parent
_PAGE = 4096


def _node(prog: Program) -> int:
    cache = prog["kmem_cache"]
    return int(cache.node[0] if hasattr(cache, "node") else cache.per_node[0].node)


def _cache(prog: Program) -> int:
    return int(prog["slab_caches"].next.value_())


def _struct_page(prog: Program) -> int:
    of = machine(prog)
    pfn = (_cache(prog) - of.memory.linear_base) >> of.memory.page_shift
    return int(of.page.vmemmap) + pfn * of.page.size


@pytest.fixture(autouse=True)
def as_a_dump(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures leave out nothing of what they have; dumps may."""
    monkeypatch.setattr(sys.modules[check.__module__], "is_dump", lambda kernel: True)


@pytest.mark.parametrize("name", ["slab-6.1-plain", "debian-7-plain"])
@pytest.mark.parametrize("place", [_node, _cache, _struct_page])
def test_page_of_zeroes_is_missing(name: str, place: Callable[[Program], int]) -> None:
    path = str(_HERE / name / "capture.xz")
    address = place(open_capture(path)) // _PAGE * _PAGE
    prog = open_capture(path)
    overlay(prog, [Write(address, bytes(_PAGE))])
    report = check(prog)
    assert report.findings == []
    assert report.unavailable
    assert report.exit_status == 3
    assert report.totals.zero_filled_pages >= 1


def test_damage_in_another_place_stays() -> None:
    path = str(_HERE / "debian-7-plain" / "capture.xz")
    address = _node(open_capture(path)) // _PAGE * _PAGE
    prog = open_capture(path)
    mark = Write(0xFFFFF473C01B7430, bytes.fromhex("0000ffff"))
    overlay(prog, [Write(address, bytes(_PAGE)), mark])
    report = check(prog)
    assert report.unavailable
    assert {finding.code for finding in report.findings} == {"type-conflict"}


def test_sound_memory_is_not_searched_for_zeroes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["drgn_slabtype.check"], "hide_blanks", None)
    report = check(open_capture(str(_HERE / "debian-7-plain" / "capture.xz")))
    assert report.exit_status == 0
