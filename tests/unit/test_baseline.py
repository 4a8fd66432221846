# SPDX-License-Identifier: LGPL-2.1-or-later
"""Findings that a baseline accepts: told, and no failure; what is new, and what is gone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import List, Sequence
from xml.etree import ElementTree

import pytest

from drgn_slabtype import cli
from drgn_slabtype.findings import Finding, KernelReport, KernelState, Outcome, Report
from drgn_slabtype.fleet.baseline import accept, as_baseline
from drgn_slabtype.fleet.known import Cause, likenesses, read_causes
from drgn_slabtype.pages.census import Census
from drgn_slabtype.report import html, present
from drgn_slabtype.signature import Signature

from ..synthetic.reports import damaged

BROKEN = Path(__file__).parents[1] / "captures" / "broken" / "slub-6.1-plain-P-overflow-word.xz"


def _report(addresses: int = 0) -> Report:
    # Two roots; the first has consequences. As of another dump: other addresses.
    report = damaged()
    for at, difference in ((0, "+1"), (1, None)):
        finding = report.findings[at]
        signature = Signature(finding.code, finding.cache, difference=difference)
        report.findings[at] = replace(finding, signature=signature)
    report.findings = [
        replace(one, slab=None if one.slab is None else one.slab + addresses)
        for one in report.findings
    ]
    return report


def _written(folder: Path, report: Report, baseline: Sequence[Cause] = ()) -> List[Cause]:
    path = folder / "baseline.toml"
    path.write_text(as_baseline(report, baseline))
    return read_causes(str(path))


def _ids(findings: Sequence[Finding]) -> List[int]:
    return [finding.id for finding in findings]


def test_what_was_accepted_is_accepted_in_another_dump(tmp_path: Path) -> None:
    baseline = _written(tmp_path, _report())
    report = _report(addresses=1 << 20)
    accept(report, baseline)
    assert (report.findings, _ids(report.accepted)) == ([], [1, 2, 3, 4])
    assert (report.outcome, report.exit_status) == (Outcome.ACCEPTED, 0)
    assert [note.code for note in report.notes] == []


def test_what_is_new_fails_and_keeps_what_follows_from_it(tmp_path: Path) -> None:
    known = _report()
    known.findings = known.findings[1:2]
    report = _report()
    accept(report, _written(tmp_path, known))
    assert (_ids(report.findings), _ids(report.accepted)) == ([1, 3, 4], [2])
    assert (report.outcome, report.exit_status) == (Outcome.INCONSISTENT, 1)
    assert [one.accepted for one in report.accepted] == ["freelist-pointer in kmalloc-64"]


def test_same_code_with_another_signature_is_new(tmp_path: Path) -> None:
    baseline = _written(tmp_path, _report())
    report = _report()
    worse = Signature("count-mismatch", "kmalloc-64", difference="more")
    report.findings[0] = replace(report.findings[0], signature=worse)
    accept(report, baseline)
    assert _ids(report.findings) == [1, 3, 4]
    (gone,) = report.notes
    assert (gone.code, gone.message) == (
        "baseline-gone",
        "accepted by the baseline, and not there any more: count-mismatch in kmalloc-64",
    )


@pytest.mark.parametrize("why", ["interrupted", "unavailable", "a part only"])
def test_what_may_be_elsewhere_is_not_called_gone(why: str, tmp_path: Path) -> None:
    baseline = _written(tmp_path, _report())
    report = _report()
    report.findings = []
    if why == "interrupted":
        report.stop("SIGINT")
    elif why == "unavailable":
        report.unavailable = [Finding("unreadable", "truncated")]
    accept(report, baseline, whole=why != "a part only")
    assert report.notes == []


def test_a_finding_without_a_signature_is_accepted_by_nothing(tmp_path: Path) -> None:
    report = damaged()
    accept(report, _written(tmp_path, _report()))
    assert (_ids(report.findings), report.accepted) == ([1, 2, 3, 4], [])


def test_what_the_kernel_reported_stays_tied(tmp_path: Path) -> None:
    known = _report()
    known.findings = known.findings[:1]
    report = _report()
    said = [KernelReport(None, "slub", "BUG", finding=at) for at in (0, 1, None)]
    report.kernel = KernelState(reports=tuple(said))
    accept(report, _written(tmp_path, known))
    assert _ids(report.findings) == [2]
    assert [one.finding for one in report.kernel.reports] == [None, 0, None]


def test_entries_are_kept_as_people_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[[cause]]\nname = "ours"\ntext = "since \\"6.1\\""\ncode = "count-*"\n'
        'cache = "kmalloc-64"\n[[cause]]\nname = "old"\ncode = "redzone"\n'
    )
    own = read_causes(str(path))
    again = _written(tmp_path, _report(), own)
    assert again[0] == own[0]
    assert [one.name for one in again] == ["ours", "freelist-pointer in kmalloc-64"]


def test_every_format_tells_what_is_accepted_as_accepted(tmp_path: Path) -> None:
    report = _report()
    accept(report, _written(tmp_path, report))
    text = "".join(present("check", report, "table"))
    assert sum(line.startswith("accepted: ") for line in text.splitlines()) == 4
    assert "accepted as count-mismatch in kmalloc-64" in text
    assert text.splitlines()[-1].startswith("accepted (2 findings): ")
    document = json.loads("".join(present("check", report, "json")))
    assert (document["outcome"], document["exit_status"]) == ("accepted", 0)
    assert (document["totals"]["findings"], document["totals"]["accepted"]) == (0, 4)
    suite = ElementTree.fromstring("".join(present("check", report, "junit")))[0]
    assert suite.get("failures") == "0"
    assert "accepted: kmalloc-64 slab" in (suite.findtext("system-out") or "")
    assert "<h3>Accepted</h3>" in "".join(html.check(report, Census([], 0, 0)))
    github = "".join(present("check", report, "github"))
    assert "::error" not in github
    assert github.count("::notice title=accepted%3A ") == 2
    issues = json.loads("".join(present("check", report, "gitlab")))
    assert [issue["severity"] for issue in issues] == ["info", "info"]


def test_what_is_accepted_may_look_like_something_known(tmp_path: Path) -> None:
    report = _report()
    baseline = _written(tmp_path, report)
    report.looks_like = likenesses(baseline[:1], report.findings)
    accept(report, baseline)
    assert "looks like: finding 1: count-mismatch" in "".join(present("check", report, "table"))


def test_check_writes_a_baseline_and_accepts_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "baseline.toml")
    assert cli.main(["check", "-c", str(BROKEN), "--write-baseline", path]) == 1
    capsys.readouterr()
    assert cli.main(["check", "-c", str(BROKEN), "--baseline", path]) == 0
    assert "accepted: lab_victim object 0x" in capsys.readouterr().out


def test_a_baseline_that_cannot_be_read_or_written_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text("[[cause]]\n")
    assert cli.main(["check", "-c", str(BROKEN), "--baseline", str(bad)]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert f"{bad}: cause 1: needs a name" in err
    assert cli.main(["check", "-c", str(BROKEN), "--write-baseline", "/dev/full"]) == 1
    out, err = capsys.readouterr()
    assert "lab_victim object 0x" in out
    assert err == (
        "drgn-slabtype check: /dev/full: No space left on device: the baseline was not written\n"
    )
