# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is in use, free, waiting and unknown adds up; and no number below zero is a huge one."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import List, Tuple

import pytest
from drgn import Program
from drgn.helpers.linux.slab import find_slab_cache

from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.objects import STATES, objects
from drgn_slabtype.answers.owners import owners
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.report import json as as_json
from drgn_slabtype.report import text as as_text

from ..recipes.overlay import Write, overlay
from ..recipes.sums import answers_unequal, unequal

HERE = Path(__file__).parent
CAPTURES: List[Path] = sorted(HERE.glob("*/capture.xz"))


@pytest.mark.parametrize("path", CAPTURES, ids=lambda path: path.parent.name)
def test_everything_adds_up(path: Path) -> None:
    prog = open_capture(str(path))
    report = check(prog)
    assert [*unequal(report), *answers_unequal(prog, report)] == []
    document = json.loads(as_json.check(report))
    for sums in (document["totals"], *document["caches"]):
        free = sums["free"] if isinstance(sums["free"], int) else sum(sums["free"].values())
        assert sums["in_use"] + free + sums["waiting"] + sums["unknown"] == sums["objects"]
    for cache in caches(prog, per_node=True).caches:
        for node in cache.nodes:
            told = node.in_use + sum(node.free.values()) + node.waiting + node.unknown
            assert told == node.objects
        for name in ("in_use", "waiting", "unknown", "objects", "counted", "slabs"):
            assert sum(getattr(node, name) for node in cache.nodes) == getattr(cache, name)
    # Objects in KFENCE's pool are told beside those of the slabs.
    for cache in caches(prog).caches:
        if cache.guarded:
            by_state = {state: len(objects(prog, cache.address, state)) for state in STATES}
            assert sum(by_state.values()) == cache.objects + cache.guarded
            assert owners(prog, cache.address).guarded == cache.guarded
            every = objects(prog, cache.address)
            assert (every.found, every.guarded_found) == (len(every), cache.guarded)
            head = next(iter(as_text.objects(every)))
            assert f": {cache.objects} object" in head
            assert f" bytes, {cache.guarded} more in KFENCE's pool" in head
            assert json.loads("".join(as_json.objects(every)))["guarded"] == cache.guarded
            assert objects(prog, cache.address, most=1).guarded_found == cache.guarded
    guarded = {result.address: result.guarded for result in report.caches}
    assert guarded == {cache.address: cache.guarded for cache in caches(prog).caches}
    assert document["totals"]["guarded"] == sum(guarded.values())


def test_table_of_a_check_shows_what_adds_up() -> None:
    prog = open_capture(str(HERE / "debian-7-debug" / "capture.xz"))
    free = next(iter(objects(prog, "kmalloc-64", "free")))
    overlay(prog, [Write(free.address - 100, b"\x41" * 700)])
    head, row = as_text.check(check(prog)).splitlines()[:2]
    cells = dict(zip(head.replace("IN USE", "IN-USE").split(), row.split()))
    parts = [int(cells[name]) for name in ("IN-USE", "FREE", "WAITING", "UNKNOWN")]
    assert sum(parts) == int(cells["OBJECTS"])
    assert int(cells["UNKNOWN"]) > 0


def _node(prog: Program) -> object:
    cache = find_slab_cache(prog, "kmalloc-64")
    assert cache is not None
    return cache.node[0]


@pytest.mark.parametrize(
    ("kernel", "members"),
    [
        ("debian-6.1-plain", ("nr_partial", "nr_slabs.counter", "total_objects.counter")),
        ("slab-6.1-plain", ("free_objects", "total_slabs", "free_slabs")),
    ],
)
def test_numbers_below_zero_are_told_so(kernel: str, members: Tuple[str, ...]) -> None:
    prog = open_capture(str(HERE / kernel / "capture.xz"))
    for member in members:
        field = _node(prog)
        for name in member.split("."):
            field = getattr(field, name)
        overlay(prog, [Write(field.address_, struct.pack("<q", -5))])  # type: ignore[attr-defined]
    told = {finding.place: finding for finding in check(prog).findings}
    for member in members:
        finding = told[member.partition(".")[0]]
        assert finding.found == -5
        assert f"{finding.place} is -5, " in finding.message


def test_address_in_a_counter_is_told_as_one() -> None:
    prog = open_capture(str(HERE / "debian-6.1-plain" / "capture.xz"))
    address = _node(prog).nr_partial.address_  # type: ignore[attr-defined]
    overlay(prog, [Write(address, struct.pack("<Q", 0xFFFF888003A1C480))])
    (finding,) = check(prog).findings
    assert "nr_partial is 0xffff888003a1c480, " in finding.message
