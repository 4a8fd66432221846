# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A small fleet: found, judged, put into groups, stopped, gone on with, and reported.

``python -m tests.fleet.measure`` does so with a thousand dumps.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Set, Tuple

import pytest

from drgn_slabtype import cli
from drgn_slabtype.capture import is_capture, open_capture
from drgn_slabtype.errors import TargetError
from drgn_slabtype.fleet.run import Options, Run, State
from drgn_slabtype.fleet.store import Store
from drgn_slabtype.fleet.summary import Fleet, Named, summarise
from drgn_slabtype.report import html, present

from ..browser import assert_legible, probe
from .kinds import KINDS
from .make import CAPTURES, SOUND, Made, Maker

# Both allocators, with and without debugging; each kind can be done to one of them.
_KERNELS = ("debian-6.1-plain", "debian-6.12-plain", "debian-7-debug", "slab-6.1-rfc3-plain")
_BROKEN = CAPTURES / "broken"
_TWICE = ["free-pointer-text", "one-too-many-in-use", "mark-lost", "freed-count"]


class _Judged(NamedTuple):
    dumps: Path
    folder: Path
    made: List[Made]
    states: List[State]

    @property
    def fleet(self) -> Fleet:
        return summarise(str(self.folder))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> _Judged:
    """A dump of each kind, of some two in different kernels, and sound ones."""
    folder = tmp_path_factory.getbasetemp()
    # Processes that share the tests share what the first of them makes.
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "fleet"
    folder.mkdir(exist_ok=True)
    told = folder / "made.json"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            made, states = _make(folder)
            told.write_text(json.dumps([[[str(one.path), *one[1:]] for one in made], states]))
        paths, found = json.loads(told.read_text())
    made = [Made(Path(path), kind, kernel) for path, kind, kernel in paths]
    return _Judged(folder, folder / "out", made, [State(*state) for state in found])


def _make(folder: Path) -> Tuple[List[Made], List[State]]:
    maker = Maker(_KERNELS)
    states: List[State] = []
    made = list(maker.make(folder / "dumps", [*KINDS, SOUND]))
    for name in _TWICE:
        kernel = maker.fitting(name)[-1]
        made += maker.make(folder / "more" / name, [name], seed=1, kernel=kernel)
    (folder / "more" / "vmcore.gz").write_bytes(b"\x1f\x8b" + bytes(99))
    paths = [str(folder / "dumps"), str(folder / "more")]
    Run(paths, str(folder / "out"), progress=states.append).go()
    return made, states


def test_every_damaged_dump_is_found_and_no_sound_one(judged: _Judged) -> None:
    totals = judged.fleet.totals
    assert (totals.dumps, totals.damaged, totals.sound) == (len(KINDS) + 6, len(KINDS) + 4, 1)
    assert (totals.unjudged, totals.incomplete, totals.waiting) == (1, 0, 0)
    (gz,) = judged.fleet.unjudged
    assert gz.why.endswith("compressed with gzip, and not a capture; unpack it first")
    assert judged.fleet.exit_status == 1


def test_groups_are_the_kinds(judged: _Judged) -> None:
    kinds: Dict[str, Set[str]] = {}
    for group in judged.fleet.groups:
        of = {one.kind for one in judged.made if str(one.path) in group.paths}
        kinds.setdefault(group.id, set()).update(of)
    assert sorted(kinds.values(), key=sorted) == sorted(({name} for name in KINDS), key=sorted)
    twice = {next(iter(kinds[group.id])) for group in judged.fleet.groups if group.dumps == 2}
    assert twice == set(_TWICE)


def test_groups_can_be_told_apart_by_kernel(judged: _Judged) -> None:
    fleet = summarise(str(judged.folder), by_kernel=True)
    # Only one kernel of these has debugging on.
    assert len(fleet.groups) == len(KINDS) + len(_TWICE) - 1
    assert all(len(group.kernels) == 1 for group in fleet.groups)


def test_no_signature_has_an_address(judged: _Judged) -> None:
    for group in judged.fleet.groups:
        assert not re.search(r"[0-9a-f]{9,}", group.what), group.what
        assert group.what.startswith(tuple(one.code for one in group.signatures))


def test_group_tells_who_allocated_and_who_freed(judged: _Judged) -> None:
    (group,) = [one for one in judged.fleet.groups if "a byte one less" in one.what]
    (signature,) = group.signatures
    assert (signature.code, signature.cache, signature.offset) == ("poison", "kmalloc-96", 24)
    assert signature.allocated
    assert signature.freed


def test_group_is_seen_from_its_first_dump_to_its_last(judged: _Judged) -> None:
    (group,) = [one for one in judged.fleet.groups if "slab-mark-lost" in one.what]
    times = sorted(os.stat(path).st_mtime for path in group.paths)
    for seconds, told in zip(times, (group.first, group.last)):
        assert time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) == told


def test_example_can_be_looked_at(judged: _Judged) -> None:
    group = judged.fleet.groups[0]
    assert group.capture == group.example
    assert is_capture(group.capture or "")
    assert group.command == f"drgn-slabtype check -c {group.example}"


def test_progress_goes_up_to_the_end(judged: _Judged) -> None:
    done = [state.done for state in judged.states]
    assert done == sorted(done)
    assert judged.states[-1][:4] == (len(KINDS) + 6, len(KINDS) + 6, len(KINDS) + 4, 1)
    assert tuple(judged.states[-1].left or ()) == (0.0, 0.0)
    assert judged.states[0].left is None


def test_what_is_judged_is_not_judged_again(
    judged: _Judged, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: List[Any] = []

    def locally(jobs: Any, processes: int) -> Any:
        begun.extend(jobs)
        return iter(())

    monkeypatch.setattr("drgn_slabtype.fleet.run.locally", locally)
    paths, out = [str(judged.dumps / name) for name in ("dumps", "more")], tmp_path / "out"
    shutil.copytree(judged.folder, out)
    Run(paths[:1], str(out)).go()
    assert begun == []
    # What could not be judged may be by now, and what has changed may be damaged.
    with sqlite3.connect(out / "fleet.sqlite") as base:
        base.execute("UPDATE dumps SET size = 1 WHERE path = ?", (str(judged.made[0].path),))
    base.close()
    Run(paths, str(out)).go()
    assert {os.path.basename(os.path.dirname(job.path)) for job in begun} == {"more", "0000"}
    with Store(str(out)) as store:
        assert sum(row.version is None for row in store.rows()) == 1


def test_report_is_in_every_format(judged: _Judged) -> None:
    fleet = judged.fleet
    text = "".join(present("fleet", fleet, "table"))
    document = json.loads("".join(present("fleet", fleet, "json")))
    page = "".join(html.fleet(fleet))
    assert document["schema"] == 1
    assert document["totals"]["damaged"] == len(KINDS) + 4
    assert [group["id"] for group in document["groups"]] == [group.id for group in fleet.groups]
    for group in fleet.groups:
        for format in (text, page):
            assert group.id in format
            assert group.command in format
    assert "vmcore.gz" in text
    assert "vmcore.gz" in page


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: List[str] = []
        self.open: List[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_names_from_dumps_and_paths_are_only_text(judged: _Judged) -> None:
    evil = '<script>alert("a")</script>\x1b[31m\u202e'
    fleet = judged.fleet
    group = fleet.groups[0]
    group.example = group.message = group.id = group.command = group.toml = evil
    group.details = group.paths = (evil,)
    group.causes = (Named(evil, evil),)
    group.releases = group.kernels = {evil: 1}
    fleet.releases[0].release = fleet.folder = evil
    fleet.unjudged[0].why = fleet.unjudged[0].path = evil
    fleet.unread = [evil]
    page = "".join(html.fleet(fleet))
    reader = _Page()
    reader.feed(page)
    assert reader.open == []
    assert "script" not in reader.tags
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "\x1b" not in "".join(present("fleet", fleet, "table"))
    assert not re.search(r"""(src|href)="?(?!#)""", page.replace('href="#', ""))


@pytest.mark.parametrize(("width", "dark"), [(1280, True), (400, False)], ids=["wide", "narrow"])
def test_page_is_legible_in_a_browser(
    judged: _Judged, tmp_path: Path, width: int, dark: bool
) -> None:
    page = "".join(html.fleet(judged.fleet))
    assert_legible(probe(tmp_path, page, width, dark), width, dark)


# The command.


def _command(*words: object, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "drgn_slabtype", *map(str, words)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, **more)


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "drgn_slabtype", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_command_reports_what_is_known(judged: _Judged, tmp_path: Path) -> None:
    known = tmp_path / "known.toml"
    known.write_text('[[cause]]\nname = "foo"\ntext = "Update it."\ncode = "slab-mark-lost"\n')
    page = tmp_path / "page.html"
    done = _run("fleet", "report", judged.folder, "--known", known, "--html", page)
    assert done.returncode == 1, done.stderr
    assert "LOOKS LIKE" in done.stdout
    assert "looks like: foo: Update it." in done.stdout
    assert "foo: Update it." in page.read_text()


def test_check_of_an_example_knows_the_cause(judged: _Judged, tmp_path: Path) -> None:
    (group,) = [one for one in judged.fleet.groups if "slab-mark-lost" in one.what]
    known = tmp_path / "known.toml"
    known.write_text(group.toml.replace('name = ""', 'name = "what the page suggests"'))
    done = _run("check", "-c", group.example, "--known", known, "--format", "json")
    (like,) = json.loads(done.stdout)["looks_like"]
    assert like == {"name": "what the page suggests", "text": "", "findings": [1]}


def test_run_that_is_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    dumps, out = tmp_path / "dumps", tmp_path / "out"
    list(Maker(_KERNELS[:1]).make(dumps, [SOUND, *["mark-lost"] * 4]))
    run = _command("fleet", dumps, "-o", out, "-j", "1", "--format", "json")
    first = _await(out, 2)
    # Shells let what runs in the background ignore SIGINT.
    run.send_signal(signal.SIGTERM)
    text, errors = run.communicate(timeout=60)
    stopped = json.loads(text)
    assert (stopped["interrupted"], stopped["stopped"]) == (True, "SIGTERM"), errors
    assert 0 < stopped["totals"]["waiting"] < 4
    done = _run("fleet", dumps, "-o", out, "-j", "1", "--format", "json")
    totals = json.loads(done.stdout)["totals"]
    assert (totals["damaged"], totals["sound"], totals["waiting"]) == (4, 1, 0)
    # What the first run has judged is as it left it.
    assert first <= set(_finished(out))


def _finished(out: Path) -> List[Any]:
    try:
        base = sqlite3.connect(f"file:{out}/fleet.sqlite?mode=ro", uri=True)
        rows = base.execute("SELECT number, worker FROM dumps WHERE version NOT NULL").fetchall()
    except sqlite3.Error:
        return []
    base.close()
    return rows


def _await(out: Path, count: int) -> Set[Any]:
    for _ in range(6000):
        found = _finished(out)
        if len(found) >= count:
            return set(found)
        time.sleep(0.02)
    raise AssertionError("nothing was judged")


def test_dump_is_kept_as_a_capture(tmp_path: Path, monkeypatch: Any) -> None:
    # A damaged dump that is no capture leaves one; here, for want of a small dump, a capture
    # that is taken for none.
    from drgn_slabtype.fleet import work

    (made,) = Maker(_KERNELS[:1]).make(tmp_path / "dumps", ["mark-lost"])
    monkeypatch.setattr(work, "is_capture", lambda path: False)
    job = work.Job(7, str(made.path), captures=str(tmp_path / "captures"))
    verdict = work.judge(job)
    assert verdict.capture == str(tmp_path / "captures" / "000007.xz")
    assert os.listdir(tmp_path / "captures") == ["000007.xz"]
    again = work.judge(work.Job(8, verdict.capture))
    assert again.signatures == verdict.signatures
    assert open_capture(verdict.capture)
    assert work.judge(work.Job(9, str(tmp_path / "none"))).why == (
        f"{tmp_path}/none: no such file or directory"
    )


def test_copies_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "dumps"
    folder.mkdir()
    for name in ("one.xz", "two.xz"):
        shutil.copy(_BROKEN / "slub-6.1-plain-destroy.xz", folder / name)
    shutil.copy(_BROKEN / "slub-6.1-plain-P-overflow-word.xz", folder)
    Run([str(folder)], str(tmp_path / "out")).go()
    fleet = summarise(str(tmp_path / "out"))
    assert [(group.dumps, group.copies) for group in fleet.groups] == [(2, 1), (1, 0)]


def test_dump_that_takes_too_long_is_judged_in_part(tmp_path: Path) -> None:
    from drgn_slabtype.fleet import work

    path = str(CAPTURES / _KERNELS[0] / "capture.xz")
    verdict = work.judge(work.Job(1, path, max_time=0.0))
    assert (verdict.outcome, verdict.limit) == ("incomplete", "time")
    assert (verdict.why or "").startswith("it took longer than it may")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nowhere", "-o", "out"), "nowhere: no such file or folder"),
        (("", "-o", "out"), "'': no such file or folder"),
        (("empty", "-o", "out"), "there is no dump or capture below empty"),
        (("dump", "-o", ""), "the folder has no name"),
        (("dump", "-o", "dump"), "dump: file exists"),
        (("dump", "-o", "broken"), "broken/fleet.sqlite: file is not a database"),
        (("dump", "-o", "out", "-s", "nowhere"), "nowhere: no such folder"),
        (("dump", "-o", "out", "--known", "nowhere"), "nowhere: No such file or directory"),
        (("dump", "-o", "out", "--html", "nowhere/page"), "no such folder to write it to"),
        (("dump", "-o", "out", "--scheduler", "nowhere"), "no scheduler at nowhere: missing port"),
    ],
)
def test_what_stands_against_a_run_is_one_line(
    words: Sequence[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if "--scheduler" in words:
        pytest.importorskip("distributed")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "fleet.sqlite").write_text("no database")
    (tmp_path / "dump").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["fleet", *words]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert told in error


def test_scheduler_that_is_not_there_is_told(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    where = "tcp://127.0.0.1:9"
    dumps = [str(CAPTURES / _KERNELS[0])]
    run = Run(dumps, str(tmp_path / "out"), Options(scheduler=where))
    with pytest.raises(TargetError, match=f"no scheduler at {where}"):
        run.go()
