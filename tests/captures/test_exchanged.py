# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pointers of two caches that were exchanged: two words, and nothing else is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import pytest

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check

from ..recipes.overlay import Write, overlay
from ..recipes.runner import run
from ..recipes.scopes import differences
from ..recipes.suites import suite_of
from . import two_caches

_HERE = Path(__file__).parent

Where = Callable[[Any], int]
"""Where a cache has the pointer."""


def _node(cache: Any) -> int:
    return int(cache.node_pointer().address)


def _barn(cache: Any) -> int:
    return int(cache.node_pointer("barn").address)


def _member(name: str) -> Where:
    return lambda cache: int(cache.spot(name).address)


_CASES = [
    ("debian-7-plain", _node),
    ("debian-7-plain", _barn),
    ("debian-7-plain", _member("cpu_sheaves")),
    ("debian-5.10-plain", _node),
    ("debian-5.10-plain", _member("cpu_slab")),
    ("slab-6.1-rfc3-plain", _node),
    ("slab-6.1-rfc3-plain", _member("cpu_cache")),
]


@pytest.mark.parametrize(("name", "where"), _CASES)
def test_exchanged_pointers_are_two_words(name: str, where: Where) -> None:
    path = str(_HERE / name / "capture.xz")
    before = open_capture(path)
    places = [where(cache) for cache in two_caches(suite_of(before).open(before))]
    prog = open_capture(path)
    words = [prog.read(place, 8) for place in places]
    overlay(prog, [Write(places[0], words[1]), Write(places[1], words[0])])
    report = check(prog)
    assert {(one.code, one.word, one.because) for one in report.findings} == {
        ("cache-wrong", place, None) for place in places
    }
    # Each says where it should lead.
    assert {one.expected for one in report.findings} == {one.found for one in report.findings}
    assert report.changing == report.unavailable == []


@pytest.mark.parametrize(("name", "where"), _CASES)
def test_one_slab_answers_as_the_whole_machine(name: str, where: Where) -> None:
    path = str(_HERE / name / "capture.xz")
    before = open_capture(path)
    machine = suite_of(before).open(before)
    two = two_caches(machine)
    prog = open_capture(path)
    words = [prog.read(where(cache), 8) for cache in two]
    overlay(prog, [Write(where(two[0]), words[1]), Write(where(two[1]), words[0])])
    for cache in two:
        slabs = [slab.page for slab in machine.slabs_of(cache)]
        for page in slabs[:: max(len(slabs) // 6, 1)]:
            assert differences(prog, [page]) == []


@pytest.mark.parametrize(("name", "where"), [_CASES[0], _CASES[4], _CASES[6]])
def test_a_pointer_that_is_a_copy_is_the_one_that_is_named(name: str, where: Where) -> None:
    path = str(_HERE / name / "capture.xz")
    before = open_capture(path)
    # Either of them, however the list of caches has them.
    place, other = (where(cache) for cache in two_caches(suite_of(before).open(before)))
    for to, data in ((place, other), (other, place)):
        prog = open_capture(path)
        overlay(prog, [Write(to, prog.read(data, 8))])
        roots = [one for one in check(prog).findings if one.because is None]
        assert [(one.code, one.word) for one in roots] == [("cache-wrong", to)]


def test_one_slab_that_names_another_cache_is_one_witness() -> None:
    # Each CPU has an object of it, and the other cache's arrays are empty.
    prog = open_capture(str(_HERE / "slab-6.1-debug-plain" / "capture.xz"))
    (result,) = run(prog, suite_of(prog), ["cache-pointer-of-another-cache"])
    assert result.outcome == "found", result.reasons
    assert not result.strays
