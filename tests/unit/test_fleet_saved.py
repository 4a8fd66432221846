# SPDX-License-Identifier: LGPL-2.1-or-later
"""Saved reports stand for dumps that are not at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from drgn_slabtype import cli
from drgn_slabtype.errors import TargetError
from drgn_slabtype.fleet.find import find_dumps
from drgn_slabtype.fleet.saved import KIND, read_report
from drgn_slabtype.fleet.summary import summarise
from drgn_slabtype.fleet.work import Job, judge

BROKEN = Path(__file__).parents[1] / "captures" / "broken" / "slub-6.1-plain-P-overflow-word.xz"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """The report of a damaged capture."""
    path = tmp_path_factory.mktemp("saved") / "report"
    assert cli.main(["check", "-c", str(BROKEN), "--format", "json", "-o", str(path)]) == 1
    found: Dict[str, Any] = json.loads(path.read_text())
    return found


def _write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1))
    return path


def test_report_says_what_its_dump_does(saved: Dict[str, Any], tmp_path: Path) -> None:
    report = judge(Job(1, str(_write(tmp_path / "report", saved))))
    dump = judge(Job(1, str(BROKEN), captures=str(tmp_path)))
    assert (report.kind, report.capture) == (KIND, None)
    assert report.signatures == dump.signatures
    for name in ("outcome", "release", "architecture", "allocator", "layout", "findings"):
        assert getattr(report, name) == getattr(dump, name)
    assert [one["signature"] for one in report.roots] == [one["signature"] for one in dump.roots]


def test_report_is_found_unless_its_dump_is(saved: Dict[str, Any], tmp_path: Path) -> None:
    away = {**saved, "target": {**saved["target"], "path": "/elsewhere/vmcore"}}
    alone = _write(tmp_path / "alone" / "one.json", away)
    assert [one.path for one in find_dumps([str(tmp_path)]).dumps] == [str(alone)]
    beside = _write(tmp_path / "beside" / "two.json", away)
    (beside.parent / "vmcore").write_bytes(b"KDUMP   " + bytes(64))
    _write(tmp_path / "beside" / "other.json", {"command": "check"})
    _write(tmp_path / "here.json", saved)
    found = {one.path for one in find_dumps([str(tmp_path), str(BROKEN)]).dumps}
    assert found == {str(alone), str(beside.parent / "vmcore"), str(BROKEN)}


def test_what_is_no_whole_report_is_told(saved: Dict[str, Any], tmp_path: Path) -> None:
    whole = json.dumps(saved, indent=1)
    for text in (whole[: len(whole) // 2], whole.replace('"because": null', '"because": []')[:-9]):
        (tmp_path / "cut").write_text(text)
        with pytest.raises(TargetError, match="no whole report of check"):
            read_report(str(tmp_path / "cut"))
        verdict = judge(Job(1, str(tmp_path / "cut")))
        assert verdict.outcome is None
        assert (verdict.why or "").startswith("no whole report")
    for name in saved:
        told = {key: value for key, value in saved.items() if key != name}
        for wrong in (told, {**saved, name: 5}):
            _write(tmp_path / "wrong", wrong)
            judge(Job(1, str(tmp_path / "wrong")))
    signature = {**saved["findings"][0]["signature"], "written": ["<b>"], "allocated": [5]}
    finding = {**saved["findings"][0], "signature": signature}
    _write(tmp_path / "odd", {**saved, "findings": [finding]})
    (known,) = judge(Job(1, str(tmp_path / "odd"))).signatures
    assert (known["written"], known["allocated"]) == ("['<b>']", ["5"])


def test_why_a_report_is_partial_is_known(saved: Dict[str, Any], tmp_path: Path) -> None:
    partial = {**saved, "interrupted": True, "stopped": "time"}
    assert read_report(str(_write(tmp_path / "one", partial)))["why"] == "stopped by time"
    clean = {**partial, "findings": [], "outcome": "incomplete", "stopped": "SIGTERM"}
    path = _write(
        tmp_path / "reports" / "two", {**clean, "target": {**saved["target"], "path": None}}
    )
    out = str(tmp_path / "out")
    assert cli.main(["fleet", str(path.parent), "-o", out, "-j", "1"]) == 3
    (told,) = summarise(out).unjudged
    assert (told.judged, told.why) == ("in part", "interrupted by SIGTERM")


def test_run_over_reports(
    saved: Dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted = {**saved, "findings": [], "accepted": saved["findings"], "outcome": "accepted"}
    for name, document in (("a", saved), ("b", saved), ("c", accepted)):
        document = {**document, "target": {**saved["target"], "path": None}}
        _write(tmp_path / "reports" / name, document)
    out = str(tmp_path / "out")
    assert cli.main(["fleet", str(tmp_path / "reports"), "-o", out, "-j", "1"]) == 1
    assert "3 dumps; 2 damaged, in 1 group; 1 sound" in capsys.readouterr().out
    (group,) = summarise(out).groups
    assert (group.dumps, group.command) == (2, f"less {tmp_path}/reports/a")
