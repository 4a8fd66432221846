# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever stops a check, and whenever: one whole report, and the exit status that it tells."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
from drgn import Program

from drgn_slabtype import cli
from drgn_slabtype.capture import open_capture, write_capture
from drgn_slabtype.check import check
from drgn_slabtype.confirm import Evidence
from drgn_slabtype.demo import raise_count
from drgn_slabtype.findings import Outcome, Report
from drgn_slabtype.machine import machine
from drgn_slabtype.machine.reads import Reads
from drgn_slabtype.target import TargetOptions, open_target
from drgn_slabtype.watch import watch

from ..stopping import Runs

CAPTURE = Path(__file__).parents[2] / "drgn_slabtype/captures/slab-6.1-rfc3-plain.xz"
SLUB = Path(__file__).parent / "debian-6.1-plain/capture.xz"

# From when on the report is being written, in calls before the end: what comes
# then comes too late, and must not spoil it.
LAST_CALLS = 100


@pytest.fixture
def damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command line open programs with one count that is one too high."""
    target = import_module("drgn_slabtype.target")

    def opened(options: TargetOptions) -> Program:
        prog = open_target(options)
        raise_count(prog, "kmalloc-64")
        return prog

    monkeypatch.setattr(target, "open_target", opened)


def moments(calls: int, seed: int) -> List[int]:
    """Return some moments of a run, more of them towards its end, where it is not reading."""
    source = random.Random(seed)
    late = max(calls // 100, LAST_CALLS + 2)
    return [
        *(source.randrange(1, calls) for _ in range(10)),
        *(calls - source.randrange(LAST_CALLS, late) for _ in range(5)),
        calls - source.randrange(1, LAST_CALLS),
    ]


def judge(out: str, status: int, is_late: bool) -> Dict[str, Any]:
    """Return a report after comparing it with how the run ended."""
    report: Dict[str, Any] = json.loads(out)
    assert report["exit_status"] == status
    if not (is_late and not report["interrupted"]):
        assert (report["interrupted"], report["stopped"]) == (True, "SIGTERM")
        assert status in (1, 3)
    assert (status == 1) == bool(report["findings"])
    decided = report["decided"]
    judged = len(report["caches"])
    if None in (decided["slabs"]["of"], decided["places"]["of"]):
        assert not decided["enough"]
        assert decided["caches"]["of"] is None or decided["caches"]["of"] >= judged
    else:
        assert decided["caches"]["of"] == judged > 0
    return report


def test_stopped_at_any_moment(capsys: pytest.CaptureFixture[str]) -> None:
    runs = Runs(capsys, "check", "-c", str(CAPTURE), "--format", "json")
    calls = runs.calls()
    for moment in moments(calls, 1):
        ran = runs.stopped_at(moment)
        report = judge(ran.out, ran.status, moment > calls - LAST_CALLS)
        assert not report["findings"]
        assert ran.err == ""


def test_stopped_at_any_moment_with_a_finding(
    capsys: pytest.CaptureFixture[str], damaged: None
) -> None:
    runs = Runs(capsys, "check", "-c", str(CAPTURE), "--format", "json")
    calls = runs.calls()
    statuses = set()
    for moment in moments(calls, 2):
        ran = runs.stopped_at(moment)
        judge(ran.out, ran.status, moment > calls - LAST_CALLS)
        statuses.add(ran.status)
    assert statuses == {1, 3}


def test_watch_stopped_at_any_moment(capsys: pytest.CaptureFixture[str], damaged: None) -> None:
    arguments = ["--rounds", "2", "--watch", "0", "--format", "json"]
    runs = Runs(capsys, "check", "-c", str(CAPTURE), "--cache", "kmalloc-64", *arguments)
    calls = runs.calls()
    for moment in moments(calls, 3):
        ran = runs.stopped_at(moment)
        rounds = [json.loads(line) for line in ran.out.splitlines()]
        assert ran.status == (1 if any(one["findings"] for one in rounds) else 3)
        assert [one["interrupted"] for one in rounds[:-1]] == [False] * (len(rounds) - 1)
        if moment <= calls - LAST_CALLS:
            assert rounds[-1]["stopped"] == "SIGTERM"


def stop(*arguments: object) -> None:
    """Do what Ctrl-C does."""
    raise KeyboardInterrupt


def test_a_moving_target_has_no_finding_that_was_not_confirmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prog, evidence = open_capture(str(CAPTURE)), Evidence(pause=lambda seconds: None)
    raise_count(prog, "kmalloc-64")
    machine(prog).memory.is_live = True
    with monkeypatch.context() as patched:
        patched.setattr(Evidence, "settle", stop)
        report = check(prog, evidence=evidence)
    assert (report.findings, report.unavailable) == ([], [])
    assert [finding.cache for finding in report.changing] == ["kmalloc-64"]
    assert (report.outcome, report.stopped) == (Outcome.INCOMPLETE, "SIGINT")
    # What another check has proven still counts.
    assert [finding.cache for finding in check(prog, evidence=evidence).findings] == ["kmalloc-64"]
    with monkeypatch.context() as patched:
        patched.setattr(Evidence, "settle", stop)
        report = check(prog, evidence=evidence)
    assert [finding.cache for finding in report.findings] == ["kmalloc-64"]
    assert (report.outcome, report.exit_status) == (Outcome.INCONSISTENT, 1)


# Time.


def test_time_is_up_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "-c", str(CAPTURE), "--max-time", "0"]) == 3
    assert capsys.readouterr().out.endswith("stopped by time before anything was judged\n")
    assert cli.main(["check", "-c", str(CAPTURE), "--max-time", "0", "--format", "json"]) == 3
    decided = json.loads(capsys.readouterr().out)["decided"]
    unknown = {"decided": 0, "of": None, "share": None}
    assert decided == {"caches": unknown, "slabs": unknown, "places": unknown, "enough": False}


def test_what_a_stopped_check_has_not_judged_is_not_decided(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prog = open_capture(str(CAPTURE))
    judge_one = import_module("drgn_slabtype.course")._judge_cache
    judged: List[int] = []

    def some(reading: object, number: int) -> object:
        if len(judged) == 3:
            stop()
        judged.append(number)
        return judge_one(reading, number)

    whole = check(prog).decided
    assert whole.enough
    monkeypatch.setattr(import_module("drgn_slabtype.course"), "_judge_cache", some)
    decided = check(prog).decided
    assert (decided.caches.decided, decided.caches.of) == (3, whole.caches.of)
    assert (decided.slabs.of, decided.places.of, decided.enough) == (None, None, False)
    assert decided.slabs.share is None


def test_time_of_other_commands_is_not_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert cli.main(["layout", "-c", str(CAPTURE)]) == 0


def test_time_is_up_in_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    prog, reads = open_capture(str(CAPTURE)), 0
    clock = import_module("drgn_slabtype.machine.reads").time

    def monotonic() -> float:
        # A second for each read of memory.
        nonlocal reads
        reads += 1
        return float(reads)

    monkeypatch.setattr(clock, "monotonic", monotonic)
    rounds = list(watch(prog, max_time=300, pause=0))
    assert len(rounds) == 1
    assert (rounds[0].report.interrupted, rounds[0].report.stopped) == (True, "time")
    assert rounds[0].report.outcome is Outcome.INCOMPLETE
    assert 250 < rounds[0].report.totals.reads <= 300


# A target that goes away.


class Failing:
    """A capture of which nothing can be read any more after some reads."""

    def __init__(self, reads: int) -> None:
        self.left = reads
        self.prog = open_capture(str(CAPTURE))
        source = open_capture(str(CAPTURE))

        def read(address: int, size: int, offset: int, physical: bool) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise OSError(5, "Input/output error")
            data: bytes = source.read(address, size, physical)
            return data

        for is_physical in (False, True):
            self.prog.add_memory_segment(0, (1 << 64) - 1, read, is_physical)


def one_line_on_what_went_away(report: Report) -> None:
    """Check what a report says of a target that is not there any more."""
    assert (report.interrupted, report.stopped) == (True, "target")
    assert report.outcome is Outcome.INCOMPLETE
    assert [finding.code for finding in report.unavailable].count("target-gone") == 1
    assert report.unavailable[0].code == "target-gone"
    assert "\n" not in report.unavailable[0].message


@pytest.mark.parametrize("reads", [40, 400, 1000, 2000, 2600])
def test_a_disk_that_fails(reads: int) -> None:
    failing = Failing(reads)
    report = check(failing.prog)
    assert failing.left < 0
    one_line_on_what_went_away(report)
    assert report.unavailable[0].message.endswith("can no longer be read: input/output error")
    assert report.findings == []


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Path]:
    """An uncompressed capture, which drgn reads where it lies."""
    path = tmp_path / "plain"
    write_capture(open_capture(str(SLUB)), str(path), compressed=False)
    yield path
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("reads", [20, 300, 900, 1400])
def test_a_file_that_is_cut_while_it_is_read(
    reads: int, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prog, left = open_target(TargetOptions(core=str(plain))), reads
    real = Reads.read_once

    def read(memory: Reads, address: int, size: int, physical: bool = False) -> bytes:
        nonlocal left
        left -= 1
        if left == 0:
            os.truncate(plain, 4096)
        return real(memory, address, size, physical)

    monkeypatch.setattr(Reads, "read_once", read)
    report = check(prog)
    one_line_on_what_went_away(report)
    assert report.unavailable[0].message == (
        f"{plain} can no longer be read: what was there before is missing now"
    )
    assert len(report.unavailable) == 1
    assert report.findings == []


class Reboot:
    """Another kernel in the place of the one that a program reads, once it is called."""

    def __init__(self, prog: Program) -> None:
        address = prog["kmem_cache"].address_
        assert address is not None
        self._data = prog.read(address, 8)
        prog.add_memory_segment(address, 8, self._read, False)

    def __call__(self) -> None:
        """Start it."""
        self._data = bytes(8)

    def _read(self, address: int, size: int, offset: int, physical: bool) -> bytes:
        return self._data[offset : offset + size]


def test_another_kernel_in_the_same_place() -> None:
    prog = open_capture(str(CAPTURE))
    reboot = Reboot(prog)
    raise_count(prog, "kmalloc-64")
    assert check(prog).outcome is Outcome.INCONSISTENT
    reboot()
    report = check(prog)
    one_line_on_what_went_away(report)
    assert report.findings == []


def test_what_was_confirmed_in_another_kernel_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prog, real = open_capture(str(CAPTURE)), Evidence.settle
    reboot = Reboot(prog)
    raise_count(prog, "kmalloc-64")
    machine(prog).memory.is_live = True

    def settle(*arguments: Any) -> None:
        real(*arguments)
        reboot()

    monkeypatch.setattr(Evidence, "settle", settle)
    report = check(prog, evidence=Evidence(pause=lambda seconds: None))
    one_line_on_what_went_away(report)
    assert report.findings == []
    assert [finding.cache for finding in report.changing] == ["kmalloc-64"]


# Signals of the system, to a process.

# A shell lets jobs in the background ignore SIGINT, and the tests may be one.
START = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
"""

DRIVER = """
import os, sys, time
from drgn_slabtype import cli
from drgn_slabtype.machine.reads import Reads
real, left = Reads.read_once, 500
def read(memory, *arguments):
    global left
    left -= 1
    if left == 0:
        {act}
    return real(memory, *arguments)
Reads.read_once = read
sys.exit(cli.main(["check", "-c", sys.argv[1], "--format", "json"]))
"""


def drive(act: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run a check in a process that does something in the middle of it."""
    return subprocess.run(
        [sys.executable, "-c", f"{START}\n{before}\n{DRIVER.format(act=act)}", str(CAPTURE)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal(name: str) -> None:
    done = drive(f"os.kill(os.getpid(), signal.{name})")
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert (done.returncode, report["exit_status"]) == (3, 3)
    assert (report["interrupted"], report["stopped"]) == (True, name)


def test_signal_that_comes_twice_at_once_is_one() -> None:
    # As from the timeout program: to the process, and to its group.
    done = drive("[os.kill(os.getpid(), signal.SIGTERM) for _ in range(2)]")
    assert json.loads(done.stdout)["stopped"] == "SIGTERM"
    assert done.returncode == 3


def test_second_signal_ends_it_at_once() -> None:
    present = """
import time, os, signal
import drgn_slabtype.report as report
real_present = report.present
def present(*arguments):
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)
    return real_present(*arguments)
report.present = present
"""
    done = drive("os.kill(os.getpid(), signal.SIGINT)", present)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_second_signal_ends_what_does_not_come_back_from_c() -> None:
    block = """
import hashlib, os, threading, time
about_to_block = threading.Event()
def send():
    about_to_block.wait()
    for _ in range(2):
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
def block():
    threading.Thread(target=send, daemon=True).start()
    about_to_block.set()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
    done = drive("block()", block)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, "", "")


OPENING = """
import os, sys
import drgn_slabtype.target as target
def open_target(options):
    os.kill(os.getpid(), signal.SIGINT)
target.open_target = open_target
"""


@pytest.mark.parametrize("format", ["table", "json", "junit"])
def test_what_was_stopped_before_it_began_imports_nothing_that_judges(format: str) -> None:
    # Which takes as long as opening does.
    code = f"""{START}{OPENING}
from drgn_slabtype import cli
status = cli.main(["check", "-c", sys.argv[1], "--format", "{format}"])
judging = "checking", "check", "watch", "reading", "rules", "allocators"
print(status, *(one for one in judging if f"drgn_slabtype.{{one}}" in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(CAPTURE)], capture_output=True, text=True, check=True
    )
    *report, last = done.stdout.splitlines()
    assert (last, done.stderr) == ("3", "")
    assert "interrupted" in "".join(report)


def test_signal_that_was_ignored_stays_ignored() -> None:
    done = drive(
        "os.kill(os.getpid(), signal.SIGHUP)",
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)",
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["interrupted"] is False
