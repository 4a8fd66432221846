# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's trials: their journals, and what they make of what is in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
from lab import crashes, injuries, soak, stops
from lab.calls import Checked, record_of
from lab.injuries import KINDS
from lab.journal import Journal
from lab.kernels import KERNELS
from lab.matrix import Matrix
from lab.report import table
from lab.trials import TRIALS, Outcome, outcomes

from tests.recipes.suites import SLAB, SLUB


def test_journal_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "journal"
    Journal(path).add({"kernel": "one", "status": 0})
    with path.open("a") as stream:
        stream.write('{"kernel": "one", "sta')  # ended in the middle of a line
    again = Journal(path)
    assert again.records == [{"kernel": "one", "status": 0}]
    assert (again.count(kernel="one"), again.count(kernel="one", status=1)) == (1, 0)
    again.clear()
    assert Journal(path).records == []


def test_line_after_half_a_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_text('{"a": 1}\n{"a": ')
    Journal(path).add({"a": 2})
    assert Journal(path).records == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize("trial", TRIALS.values(), ids=lambda trial: str(trial.name))
def test_kernels_of_a_trial_are_there(trial: Any) -> None:
    assert [name for name in trial.kernels if name not in KERNELS] == []


@pytest.mark.parametrize(("allocator", "suite"), [("SLAB", SLAB), ("SLUB", SLUB)])
def test_kinds_of_damage_are_recipes(allocator: str, suite: Any) -> None:
    kinds = KINDS[allocator]
    assert [name for name in kinds if name not in suite.recipes] == []
    assert len(set(kinds)) == len(kinds) >= 20


def _check(**differs: Any) -> Dict[str, Any]:
    record = record_of(Checked(0, {"decided": {"caches": {"share": 1.0}}}, "", 2.0, 1.0, 1 << 20))
    return {"kernel": "one", **record, **differs}


def test_report_is_written_down_in_short() -> None:
    report = {
        "findings": [{"code": "list-missing", "message": "a slab"}],
        "changing": [{}, {}],
        "decided": {"caches": {"share": 0.5}},
    }
    record = record_of(Checked(1, report, "", 2.0, 1.0, 1 << 20))
    assert record["findings"] == ["list-missing: a slab"]
    assert (record["changing"], record["shares"], record["error"]) == (2, {"caches": 0.5}, "")
    assert record_of(Checked(2, {}, "it hangs", 2.0, 1.0, 0))["error"] == "it hangs"
    assert record_of(Checked(-1, {}, "", 2.0, 1.0, 0))["error"] == "no answer"


def test_soak_is_in_trouble_for_findings_errors_and_what_is_not_decided() -> None:
    assert soak.trouble([_check()] * 3) == []
    assert soak.trouble([_check(findings=["list-missing: a slab"])]) == ["list-missing: a slab"]
    assert soak.trouble([_check(error="it hangs")]) == ["it hangs"]
    undecided = _check(shares={"caches": 0.98})
    assert soak.trouble([*[_check()] * 99, undecided]) == []
    assert len(soak.trouble([*[_check()] * 98, undecided, undecided])) == 1


def _try(name: str, *outcomes: str) -> List[Dict[str, Any]]:
    return [{"name": name, "outcome": outcome, "rounds": 1} for outcome in outcomes]


def test_damage_must_be_found_in_nineteen_of_twenty_tries() -> None:
    enough = _try("lock", *["found"] * 19, "missed")
    assert injuries.trouble(enough) == []
    assert injuries.trouble([*enough, *_try("lock", "missed")]) == ["lock: missed in 2 of 21 tries"]
    # What the guest has undone or did not live with was not missed.
    assert injuries.trouble(_try("lock", "undone", "died", "found")) == []
    assert injuries.numbers(_try("lock", "undone", "no victim", "found"))["tries"] == 2


def _stop(**differs: Any) -> Dict[str, Any]:
    return {
        "kernel": "one",
        "function": None,
        "reached": True,
        "steps": 0,
        "error": "",
        "findings": [],
        "unwitnessed": [],
        **differs,
    }


def test_stops_count_where_they_were_and_what_they_showed() -> None:
    records = [
        _stop(),
        _stop(function="free_block", steps=7, changing=2),
        _stop(function="free_block", steps=5),
        _stop(function="drain_array", reached=False),
    ]
    numbers = stops.numbers(records)
    assert (numbers["pauses"], numbers["functions"], numbers["stops in them"]) == (1, 1, 2)
    assert (numbers["instructions"], numbers["changing"]) == (12, 2)
    assert stops.trouble(records) == []
    bad = _stop(function="free_block", findings=["a", "b"], unwitnessed=["c"])
    assert stops.trouble([bad]) == ["free_block: a", "free_block: no witness: c"]


def test_excuse_needs_somebody_at_work() -> None:
    line = "at work: CPU 0, pid 1 (init): __slab_free+0x1b3"
    excuse = {"code": "list-missing", "message": "a slab", "because": None, "details": [line]}
    assert list(stops.unwitnessed([excuse, {**excuse, "because": 1, "details": []}])) == []
    alone = {**excuse, "details": ["whether somebody is at work cannot be told: no stacks"]}
    assert len(list(stops.unwitnessed([alone]))) == 1


def _dumped(**differs: Any) -> Dict[str, Any]:
    lists = ("findings", "found", "missed", "left_out", "unwitnessed")
    none: Dict[str, Any] = {name: [] for name in lists}
    return {**none, "error": "", "changing": 0, **differs}


def _crash(function: Optional[str], hurt: int, *dumps: Dict[str, Any]) -> Dict[str, Any]:
    formats = dict(zip(("elf", "crash-l-31"), dumps))
    return {"function": function, "steps": 5, "injuries": [{}] * hurt, "formats": formats}


def test_crashes_count_what_is_found_in_each_format() -> None:
    within = _crash("__slab_free", 0, _dumped(changing=1), _dumped())
    hurt = _crash(None, 3, _dumped(found=["a", "b", "c"]), _dumped(found=["a", "b", "c"]))
    numbers = crashes.numbers([within, hurt])
    assert (numbers["within the allocator"], numbers["after damage"]) == (1, 1)
    assert (numbers["dumps"], numbers["found"], numbers["missed"]) == (4, 6, 0)
    assert (numbers["changing"], numbers["without witness"]) == (1, 0)
    assert crashes.trouble([within, hurt]) == []
    whole, some = _dumped(found=["a", "b", "c"]), _dumped(found=["a", "b"], left_out=["c"])
    partly = _crash(None, 3, whole, some)
    numbers = crashes.numbers([partly])
    assert (numbers["found"], numbers["left out by makedumpfile"], numbers["missed"]) == (5, 1, 0)


def test_crashes_are_in_trouble_for_what_one_format_shows() -> None:
    accused = _crash("__slab_free", 0, _dumped(), _dumped(findings=["a", "b"]))
    excused = _crash("__slab_free", 0, _dumped(unwitnessed=["c"]))
    missed = _crash(None, 1, _dumped(missed=["index-twice in foo"]))
    unread = _crash(None, 1, _dumped(error="no report"))
    assert crashes.numbers([missed, unread])["found"] == 0
    assert crashes.trouble([accused, excused, missed, unread]) == [
        "__slab_free: crash-l-31: a",
        "__slab_free: elf: no witness: c",
        "after damage: elf: missed: index-twice in foo",
        "after damage: elf: no report",
    ]


def test_trials_are_part_of_the_matrix(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    journal.add(_check())
    journal.add(_check(kernel="other", error="it hangs"))
    found = outcomes(TRIALS["soak"], journal)
    assert [(one.kernel, one.good) for one in found] == [("one", True), ("other", False)]
    run = Matrix(trials=found)
    assert not run.good
    assert "other: it hangs" in table(run)
    better = Matrix(trials=[Outcome("soak", "other", found[1].numbers, [])])
    whole = Matrix.of_records([json.loads(json.dumps(one.record())) for one in (run, better)])
    assert whole.good
    assert len(whole.trials) == 2
