# SPDX-License-Identifier: LGPL-2.1-or-later
"""Rounds of checks: what is new, still there and gone, and how they end."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Union

import pytest
from drgn import FaultError, Program
from drgn.commands import CommandError, run_command

from drgn_slabtype import cli
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.demo import raise_count
from drgn_slabtype.findings import Outcome, Report
from drgn_slabtype.report.json import watch as as_json
from drgn_slabtype.report.text import watch as as_text
from drgn_slabtype.watch import Round, watch

from ..synthetic.reports import damaged, healthy

import drgn_slabtype.plugin  # isort: skip

(CAPTURE,) = (Path(drgn_slabtype.plugin.__file__).parent / "captures").glob("*rfc3*")
MODULE = import_module("drgn_slabtype.watch")

Result = Union[Report, BaseException]


@pytest.fixture(scope="module")
def prog() -> Program:
    """Something that a check could be of."""
    return open_capture(str(CAPTURE))


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Result]], List[float]]:
    """Return a function that says what the checks come to; returns the pauses between them."""
    pauses: List[float] = []

    def set_results(results: Sequence[Result]) -> List[float]:
        left = list(results)
        evidence: List[Any] = []

        def made_up(prog: Program, **options: Any) -> Report:
            evidence.append(options["evidence"])
            assert evidence[0] is evidence[-1], "what one round saw counts in the next"
            result = left.pop(0)
            if isinstance(result, BaseException):
                raise result
            return result

        monkeypatch.setattr(MODULE, "check", made_up)
        monkeypatch.setattr(MODULE.time, "sleep", pauses.append)
        return pauses

    return set_results


def with_findings(*ids: int) -> Report:
    """Return a report of some of the findings there are."""
    report = damaged()
    report.findings = [one for one in report.findings if one.id in ids]
    return report


def interrupted() -> Report:
    """Return a report of a check that was stopped before it found anything."""
    report = healthy()
    report.stop("SIGTERM")
    return report


def told(rounds: Sequence[Round]) -> List[List[List[int]]]:
    """Return the new, the remaining and the vanished findings of rounds."""
    return [[[f.id for f in some] for some in (r.new, r.still, r.gone)] for r in rounds]


def test_new_still_there_and_gone(
    prog: Program, script: Callable[[Sequence[Result]], List[float]]
) -> None:
    pauses = script([healthy(), with_findings(1), with_findings(1, 2), with_findings(2), healthy()])
    rounds = list(watch(prog, rounds=5, pause=7))
    assert told(rounds) == [
        [[], [], []],
        [[1], [], []],
        [[2], [1], []],
        [[], [2], [1]],
        [[], [], [2]],
    ]
    assert [one.number for one in rounds] == [1, 2, 3, 4, 5]
    assert pauses == [7, 7, 7, 7]


def test_what_comes_back_is_new(
    prog: Program, script: Callable[[Sequence[Result]], List[float]]
) -> None:
    script([with_findings(1), healthy(), with_findings(1)])
    assert [one[0] for one in told(list(watch(prog, rounds=3)))] == [[1], [], [1]]


def test_what_was_not_judged_is_not_gone(
    prog: Program, script: Callable[[Sequence[Result]], List[float]]
) -> None:
    unreadable = healthy()
    unreadable.caches[0].outcome = Outcome.UNAVAILABLE
    moving = healthy()
    moving.changing = [replace(damaged().findings[0], moving=True)]
    script([with_findings(1), unreadable, moving, with_findings(1), interrupted()])
    rounds = list(watch(prog, rounds=9))
    assert told(rounds) == [
        [[1], [], []],
        [[], [], []],
        [[], [], []],
        [[], [1], []],
        [[], [], []],
    ]


def test_ends_with_the_first_finding(
    prog: Program, script: Callable[[Sequence[Result]], List[float]]
) -> None:
    script([healthy(), with_findings(1), healthy()])
    assert [len(one.new) for one in watch(prog, until_finding=True)] == [0, 1]


def test_ends_where_it_is_interrupted(
    prog: Program, script: Callable[[Sequence[Result]], List[float]]
) -> None:
    script([healthy(), interrupted(), healthy()])
    assert [one.report.interrupted for one in watch(prog)] == [False, True]


def test_interrupted_between_two_rounds(
    prog: Program,
    script: Callable[[Sequence[Result]], List[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script([with_findings(1)])

    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MODULE.time, "sleep", sleep)
    first, last = watch(prog)
    assert (first.report.interrupted, last.report.interrupted) == (False, True)
    assert (last.number, last.report.stopped) == (1, "SIGINT")
    assert told([last]) == [[[], [1], []]]
    assert last.report.exit_status == 1


def test_time_is_up_between_two_rounds(
    prog: Program,
    script: Callable[[Sequence[Result]], List[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = script([healthy(), healthy()])
    now = [0.0]
    monkeypatch.setattr(MODULE.time, "monotonic", lambda: now[0])

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(MODULE.time, "sleep", sleep)
    rounds = list(watch(prog, pause=6, max_time=10))
    assert [one.report.stopped for one in rounds] == [None, None, "time"]
    assert pauses == [6, 4]
    assert rounds[-1].report.exit_status == 3


def test_target_that_nothing_can_be_read_of_any_more(
    prog: Program, script: Callable[[Sequence[Result]], List[float]]
) -> None:
    script([with_findings(1), FaultError("gone", 0)])
    first, last = watch(prog)
    assert (last.report.interrupted, last.report.stopped) == (True, "target")
    assert last.report.unavailable[0].code == "target-gone"
    assert first.report.unavailable == []
    script([FaultError("gone", 0)])
    with pytest.raises(FaultError):
        next(watch(prog))


def test_a_static_target_is_the_same_in_every_round(prog: Program) -> None:
    first, second = watch(prog, rounds=2, pause=0)

    def same(report: Report) -> Report:
        totals = replace(report.totals, reads=0, bytes_read=0, peak_memory=None)
        return replace(report, totals=totals)

    assert same(first.report) == same(second.report)


def test_capture_of_the_moment(tmp_path: Path) -> None:
    prog, path = open_capture(str(CAPTURE)), tmp_path / "moment.xz"
    raise_count(prog, "kmalloc-64")
    first, second = watch(prog, rounds=2, pause=0, capture=str(path), caches=["kmalloc-64"])
    assert (first.capture, second.capture) == (str(path), None)
    again = check(open_capture(str(path)))
    assert {one.key() for one in again.findings} == {one.key() for one in first.new}


def test_capture_that_cannot_be_written(tmp_path: Path) -> None:
    prog = open_capture(str(CAPTURE))
    raise_count(prog, "kmalloc-64")
    (only,) = watch(prog, rounds=1, capture=str(tmp_path / "no" / "such"), caches=["kmalloc-64"])
    assert only.new
    assert only.capture is None
    assert [note.code for note in only.report.notes][-1] == "not-saved"


# Presented.


def two_rounds() -> Iterator[Round]:
    """Yield two rounds, one with something new, one with something gone."""
    report = with_findings(1, 2)
    yield Round(1, "2024-01-31T12:00:00Z", report, report.findings, capture="moment.xz")
    gone = report.findings[0]
    report = with_findings(2)
    yield Round(2, "2024-01-31T12:00:07Z", report, [], report.findings, [gone])


def test_json_has_a_line_for_each_round() -> None:
    lines = list(as_json(two_rounds()))
    assert [line.count("\n") for line in lines] == [1, 1]
    first, second = map(json.loads, lines)
    assert (first["schema"], first["round"], first["capture"]) == (1, 1, "moment.xz")
    assert (first["new"], first["still"], first["gone"]) == ([1, 2], [], [])
    assert (second["new"], second["still"]) == ([], [2])
    assert [one["code"] for one in second["gone"]] == ["count-mismatch"]
    assert [one["id"] for one in second["findings"]] == [2]
    assert "report" not in first


def test_text_is_one_line_where_nothing_is_new() -> None:
    first, second = as_text(two_rounds())
    assert first.startswith("round 1, 2024-01-31T12:00:00Z: 2 new, 0 still there, 0 gone\n")
    assert "\ncapture: moment.xz\n" in first
    assert "\n1. kmalloc-64 slab" in first
    head, gone = second.splitlines()
    assert head.startswith("round 2, 2024-01-31T12:00:07Z: 0 new, 1 still there, 1 gone; incons")
    assert gone.startswith("gone: kmalloc-64 slab")


# As commands.


def test_rounds_at_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "-c", str(CAPTURE), "--cache", "kmalloc-64", "--watch", "0"]
    assert cli.main([*arguments, "--rounds", "2", "--format", "json"]) == 0
    rounds = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["round"] for one in rounds] == [1, 2]
    assert {one["target"]["path"] for one in rounds} == {str(CAPTURE)}


def test_rounds_into_a_file(tmp_path: Path) -> None:
    path = tmp_path / "rounds"
    arguments = ["check", "-c", str(CAPTURE), "--cache", "kmalloc-64", "--watch", "0"]
    assert cli.main([*arguments, "--rounds", "2", "-o", str(path)]) == 0
    assert path.read_text().count("round ") == 2


def test_one_check_and_a_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "moment.xz"
    arguments = ["check", "-c", str(CAPTURE), "--cache", "kmalloc-64", "--capture", str(path)]
    assert cli.main(arguments) == 0
    assert not path.exists()
    target = import_module("drgn_slabtype.target")
    real = target.open_target

    def opened(options: Any) -> Program:
        prog: Program = real(options)
        raise_count(prog, "kmalloc-64")
        return prog

    monkeypatch.setattr(target, "open_target", opened)
    assert cli.main(arguments) == 1
    assert path.exists()


@pytest.mark.parametrize(
    "more", [["--html", "page"], ["--format", "github"], ["--write-baseline", "page"]]
)
def test_what_is_for_one_check(
    more: List[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    more = [str(tmp_path / word) if word == "page" else word for word in more]
    assert cli.main(["check", "-c", str(CAPTURE), "--rounds", "2", *more]) == 2
    assert "for one check, not for rounds" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", [["--rounds", "0"], ["--watch", "-1"], ["--max-time", "nan"], ["--watch", "soon"]]
)
def test_numbers_that_make_no_sense(wrong: List[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["check", *wrong])
    assert caught.value.code == 2


def test_rounds_at_the_prompt(
    prog: Program, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    found = run_command(prog, "slabcheck --cache kmalloc-64 --rounds 2 --watch 0")
    assert capsys.readouterr().out.count("round ") == 2
    assert (found.last.number, found.exit_status) == (2, 0)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with pytest.raises(CommandError, match="no slab cache named nope"):
        run_command(prog, "slabcheck --cache nope --rounds 2")


def test_drgn_code_of_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--watch", "5", "--until-finding", "--max-time", "60", "--cache", "dentry"]
    assert cli.main(["check", "--drgn", *arguments]) == 0
    code = capsys.readouterr().out
    names: Dict[str, Any] = {"prog": None}
    compile(code, "code", "exec")
    assert "watch(prog, caches=['dentry'], pause=5.0, until_finding=True, max_time=60.0)" in code, (
        names
    )
