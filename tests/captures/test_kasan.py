# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A kernel with generic KASAN, stopped under load: the capture, and KASAN's own reports.

The kernel was stopped, dumped, and made to report objects of the dump; see
``scripts/vmlab reports``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List

import numpy as np
import pytest
from drgn import Program
from drgn.helpers.linux.slab import for_each_slab_cache
from lab.kasanreports import FILE, compare

from drgn_slabtype import caches, objects, slab_object, stacks
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Outcome
from drgn_slabtype.machine import machine
from drgn_slabtype.machine.shadow import Shadow, shadow

from ..recipes.overlay import Write, overlay

HERE = Path(__file__).parent / "kasan" / "slub-6.12-kasan"
REPORTS: List[Dict[str, Any]] = json.loads((HERE / FILE).read_text())


@pytest.fixture(scope="module")
def prog() -> Program:
    return open_capture(str(HERE / "capture.xz"))


def the_shadow(prog: Program) -> Shadow:
    found = machine(prog).settled(shadow)
    assert found is not None
    return found


def waiting(prog: Program) -> int:
    """An object in quarantine."""
    found = [one for one in objects(prog, "names_cache") if one.place == "quarantine"]
    return found[0].address


def test_check_finds_nothing(prog: Program) -> None:
    report = check(prog)
    assert report.outcome is Outcome.CONSISTENT
    assert report.totals.zero_filled_pages == 0
    assert report.findings == []
    assert sum(result.judged.get("KASAN's shadow", 0) for result in report.caches) > 15000


def test_objects_are_those_that_kasan_reports(prog: Program) -> None:
    answer = compare(prog, REPORTS)
    assert answer["differ"] == []
    assert answer["objects"] == len(REPORTS) == 36
    assert answer["events"] > 40


def test_what_is_in_quarantine_waits(prog: Program) -> None:
    totals = caches(prog)
    assert sum(one.waiting for one in totals) > 2000
    for one in totals:
        assert one.in_use + sum(one.free.values()) + one.waiting == one.objects


def test_freed_objects_tell_who_freed_them(prog: Program) -> None:
    info = slab_object(prog, waiting(prog))
    assert info.state == "waiting"
    assert [track.event for track in info.tracks] == ["allocated", "freed"]
    freed = info.tracks[1]
    assert freed.age is not None
    assert freed.age < 30
    assert not any("qlist_free_all" in frame for frame in freed.stack)
    assert info.shadow is not None
    assert info.shadow.startswith("may not be touched: freed")


def test_stacks_are_those_of_all_objects_in_use(prog: Program) -> None:
    answer = stacks(prog)
    in_use = sum(one.in_use for one in caches(prog))
    assert (answer.objects, answer.caches) == (in_use, len(caches(prog)))
    assert answer.untracked < 10
    assert sum(stack.count for stack in answer) == answer.objects - answer.untracked
    freed = stacks(prog, "filp", freed=True)
    assert freed.objects > 0
    assert {stack.cache for stack in freed} == {"filp"}


def test_address_in_the_shadow_is_called_that(prog: Program) -> None:
    object = waiting(prog)
    at = int(the_shadow(prog).of(np.array([object], np.uint64))[0])
    assert slab_object(prog, at).meaning.startswith(f"KASAN's shadow of 0x{object:x}: object ")


def test_shadow_of_the_shadow_comes_to_an_end(prog: Program) -> None:
    found = the_shadow(prog)
    at = np.array([waiting(prog)], np.uint64)
    nested = int(found.of(found.of(at))[0])
    assert slab_object(prog, nested).meaning.endswith(": the shadow itself")


def test_a_damaged_shadow_of_a_cache_hides_nothing(prog: Program) -> None:
    own = next(iter(for_each_slab_cache(prog))).value_()
    object = waiting(prog)
    wrong, freed = the_shadow(prog).of(np.array([own, object], np.uint64)).tolist()
    damaged = open_capture(str(HERE / "capture.xz"))
    overlay(damaged, [Write(wrong, b"\xfe"), Write(freed, bytes(8))])
    assert [one.object for one in check(damaged).findings] == [object]


def test_shadow_against_the_allocator_is_one_finding(prog: Program) -> None:
    object = waiting(prog)
    at = int(the_shadow(prog).of(np.array([object], np.uint64))[0])
    damaged = open_capture(str(HERE / "capture.xz"))
    overlay(damaged, [Write(at, bytes(8))])
    (finding,) = check(damaged).findings
    assert (finding.code, finding.object, finding.cache) == ("shadow", object, "names_cache")
    assert (finding.address, finding.state, finding.places) == (
        at,
        "waiting",
        slab_object(prog, object).places,
    )
