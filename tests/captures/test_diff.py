# SPDX-License-Identifier: LGPL-2.1-or-later
"""What grew from one capture to another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from drgn import FaultError, offsetof

from drgn_slabtype import cli
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.lookup import lookup
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.slots import slot
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.demo import raise_count
from drgn_slabtype.diff import compare, diff, moment, open_moment
from drgn_slabtype.errors import TargetError
from drgn_slabtype.machine import machine
from drgn_slabtype.report import json as as_json
from drgn_slabtype.report.text import diff as as_text

from ..recipes.overlay import Write, overlay
from ..recipes.suites import suite_of

HERE = Path(__file__).parent
PLAIN = str(HERE / "debian-7-plain" / "capture.xz")
NUMA = str(HERE / "debian-7-numa" / "capture.xz")


def test_growth_is_the_difference_of_the_numbers() -> None:
    before, after = open_capture(PLAIN), open_capture(NUMA)
    found = diff(before, after)
    used = [
        {cache.name: (cache.in_use, cache.slabs, cache.size) for cache in caches(prog).caches}
        for prog in (before, after)
    ]
    for one in found.caches:
        was, now = (side[one.cache] for side in used)
        assert (one.before, one.after, one.growth) == (was[0], now[0], now[0] - was[0])
        assert one.slabs == now[1] - was[1]
        assert one.bytes == one.growth * now[2]
    told = {one.cache for one in found.caches}
    assert all(used[0][name] == used[1][name] for name in used[0] if name not in told)
    assert found.pages is not None
    assert {"slab"} <= {one.type for one in found.pages}
    assert found.exit_status == 0
    assert "task_struct" in as_text(found)


def test_objects_that_damage_hides_are_no_growth() -> None:
    name = str(HERE / "debian-6.12-plain" / "capture.xz")
    before, after, clean = (open_capture(name) for _ in range(3))
    suite = suite_of(clean)
    damage = suite.recipes["cpu-freelist-in-other-slab"](suite.open(clean))
    overlay(after, damage.writes)
    found = diff(before, after)
    (one,) = found.caches
    assert one.growth < 0 < one.unknown
    line = next(line for line in as_text(found).splitlines() if line.startswith("CACHE"))
    assert line.split() == ["CACHE", "BEFORE", "AFTER", "OBJECTS", "UNKNOWN", "BYTES", "SLABS"]
    saved = [json.loads(as_json.check(check(one))) for one in (before, after)]
    assert diff(*saved).caches == found.caches


def test_no_more_than_asked_for_is_told_and_the_rest_counted() -> None:
    before, after = moment(open_capture(PLAIN)), moment(open_capture(NUMA))
    whole, some = compare(before, after), compare(before, after, most=3)
    assert whole.pages is not None
    assert (some.caches, some.pages) == (whole.caches[:3], whole.pages[:3])
    rest = {"caches": len(whole.caches) - 3, "pages": len(whole.pages) - 3}
    assert (some.left_out, whole.left_out) == (rest, {})
    assert f"{rest['caches']} more caches\n" in as_text(some)
    assert f"{rest['pages']} more page types\n" in as_text(some)
    assert " more " not in as_text(whole)
    assert json.loads(as_json.diff(some))["left_out"] == rest


def test_caches_without_growth_are_told_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    # A kernel with slub_debug=P and one without: objects of another size.
    names = "slub-6.1-plain-P-overflow-word", "slub-6.1-plain-destroy"
    paths = [str(HERE / "broken" / f"{name}.xz") for name in names]
    found = compare(*(open_moment(path, []) for path in paths))
    alike = [one.cache for one in found.caches if one not in found.grown]
    assert "UDP" in alike
    assert not {"lab_victim", "kmalloc-64", "anon_vma"} & {*alike}
    assert cli.main(["diff", *paths]) == 1
    told = capsys.readouterr().out
    assert f"\n{len(alike)} caches of another size without growth; --all shows them\n" in told
    assert not {line.split()[0] for line in told.splitlines() if line} & {*alike}
    assert cli.main(["diff", *paths, "--all"]) == 1
    told = capsys.readouterr().out
    assert {line.split()[0] for line in told.splitlines() if line} > {*alike}
    assert "--all" not in told


def test_call_traces_that_are_not_told_are_counted() -> None:
    tracked = moment(open_capture(str(HERE / "debian-7-debug" / "capture.xz")))
    less = replace(tracked, stacks={})
    told = as_text(compare(less, tracked))
    assert tracked.stacks is not None
    assert f"{len(tracked.stacks) - 20} more call traces\n" in told


def test_saved_report_says_the_same_of_caches(tmp_path: Path) -> None:
    after = open_capture(NUMA)
    saved = tmp_path / "after.json"
    saved.write_text(as_json.check(check(after)))
    found = compare(open_moment(PLAIN, []), open_moment(str(saved), []))
    assert found.caches == diff(open_capture(PLAIN), after).caches
    assert found.pages is None
    assert json.loads(as_json.diff(found))["pages"] is None


def test_one_moment_has_no_difference() -> None:
    once = moment(open_capture(PLAIN))
    found = compare(once, once)
    assert (found.caches, found.findings, found.pages, found.stacks) == ([], [], [], None)
    assert as_text(found) == "nothing changed\n"


def test_findings_are_new_gone_or_still_there() -> None:
    sound, damaged = open_capture(PLAIN), open_capture(PLAIN)
    name = next(cache.name for cache in caches(sound).caches if cache.lists.get("partial"))
    raise_count(damaged, name)
    found = diff(sound, damaged)
    assert {one.change for one in found.findings} == {"new"}
    assert found.exit_status == 1
    assert {one.change for one in diff(damaged, sound).findings} == {"gone"}
    again = diff(damaged, damaged)
    assert {one.change for one in again.findings} == {"still there"}
    assert again.exit_status == 0
    # What a saved report calls the same is the same.
    saved = json.loads(as_json.check(check(damaged)))
    assert {one.change for one in diff(saved, damaged).findings} == {"still there"}


def test_overwritten_records_are_counted() -> None:
    path = str(HERE / "debian-7-debug" / "capture.xz")
    before, after = open_capture(path), open_capture(path)
    reading = lookup(machine(after))
    layout = slot(reading.machine, reading.caches, reading.number("kmalloc-256"))
    held = objects(before, "kmalloc-256", "in use")[3].address
    assert layout.tracks is not None
    at = held + layout.tracks + offsetof(after.type("struct track"), "pid")
    overlay(after, [Write(at, bytes.fromhex("ffffff7f"))])
    found = diff(before, after)
    assert (found.overwritten_before, found.overwritten_after) == (0, 1)
    assert [one.growth for one in found.stacks or []] == [-1]
    told = "in no call trace, their record overwritten: 0 objects before, 1 after\n"
    assert told in as_text(found)
    assert "in no call trace" not in as_text(diff(before, before))


def test_what_either_lacks_is_told_and_is_a_status_of_3() -> None:
    whole = json.loads(as_json.check(check(open_capture(PLAIN))))
    cut = {**whole, "interrupted": True, "stopped": "time", "caches": whole["caches"][:9]}
    found = diff(whole, cut)
    assert found.exit_status == 3
    (missing,) = found.unavailable
    assert missing == "after: all that a check would have come to: stopped by time"
    assert f"unavailable: {missing}\n" in as_text(found)
    assert diff(cut, whole).unavailable == [missing.replace("after", "before")]
    assert diff(cut, cut).unavailable == [missing.replace("after", "both")]
    assert diff(whole, whole).exit_status == 0


def test_call_traces_grow() -> None:
    tracked = moment(open_capture(str(HERE / "debian-7-debug" / "capture.xz")))
    assert tracked.stacks is not None
    less = moment(open_capture(str(HERE / "debian-7-debug" / "capture.xz")))
    assert less.stacks is not None
    key = max(less.stacks, key=lambda key: less.stacks[key] if less.stacks else 0)
    less.stacks[key] -= 5
    (grown,) = compare(less, tracked).stacks or []
    assert (grown.cache, grown.caller, grown.stack, grown.growth) == (*key, 5)


def test_two_kernels_and_other_files_are_refused(tmp_path: Path) -> None:
    other = str(HERE / "debian-6.1-plain" / "capture.xz")
    with pytest.raises(TargetError, match=r"two kernels: 7\..* and 6\.1"):
        diff(open_capture(PLAIN), open_capture(other))
    saved = tmp_path / "other.json"
    for text, said in (("{}", "no report of check"), ("{", "other.json: ")):
        saved.write_text(text)
        with pytest.raises(TargetError, match=said):
            open_moment(str(saved), [])


def test_file_of_which_nothing_can_be_judged_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*given: object) -> None:
        raise FaultError("short read from memory file", 0xFF72000)

    monkeypatch.setitem(open_moment.__globals__, "moment", fault)
    with pytest.raises(TargetError) as raised:
        open_moment(PLAIN, [])
    assert str(raised.value) == (
        f"{PLAIN}: nothing could be judged: short read from memory file: 0xff72000"
    )


@pytest.mark.parametrize("saved", [False, True])
def test_caches_that_a_report_is_not_about_are_neither_new_nor_gone(saved: bool) -> None:
    prog = open_capture(str(HERE / "slab-6.1-plain" / "capture.xz"))
    whole, part = check(prog), check(prog, caches=["dentry"])
    first, second = (json.loads(as_json.check(one)) if saved else one for one in (whole, part))
    for before, after, when in ((first, second, "after"), (second, first, "before")):
        found = diff(before, after)
        assert list(found) == []
        assert found.unavailable == [f"{when}: caches that the report is not about"]
        assert found.exit_status == 3
    assert diff(second, second).unavailable == []
