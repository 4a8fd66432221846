# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a run has come to is kept, read without being written to, and not done again."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import subprocess
from pathlib import Path
from typing import List, Optional

import pytest

from drgn_slabtype import __version__
from drgn_slabtype.errors import TargetError
from drgn_slabtype.fleet import run, work
from drgn_slabtype.fleet.find import STORE, Found, Search
from drgn_slabtype.fleet.store import Row, Store, is_judged
from drgn_slabtype.fleet.summary import summarise
from drgn_slabtype.fleet.work import Job, Verdict


def _rows(folder: Path) -> List[Row]:
    with Store(str(folder)) as store:
        return list(store.rows())


def _judged(folder: Path, verdict: Verdict, path: str = "/d/one", seen: int = 5) -> Row:
    with Store(str(folder), write=True) as store:
        store.enter([Found(path, 10, seen * 10**9)])
        number = next(row.number for row in store.rows() if row.path == path)
        verdict.number = number
        store.record(Job(number, path, 10, seen * 10**9, max_time=60, max_memory=100), verdict)
    return next(row for row in _rows(folder) if row.path == path)


def test_verdict_comes_back_as_it_was(tmp_path: Path) -> None:
    verdict = Verdict(0, outcome="inconsistent", release="6.1", findings=2, seconds=1.5)
    verdict.signatures = [{"code": "poison"}]
    verdict.roots = [{"code": "poison", "message": "m\udcff"}]
    row = _judged(tmp_path, verdict, "/d/\udcff")
    assert (row.path, row.outcome, row.release, row.findings) == (
        "/d/\udcff",
        "inconsistent",
        "6.1",
        2,
    )
    assert row.signatures == [{"code": "poison"}]
    assert row.seen == 5  # the file's time, where the dump tells none


def test_dump_that_has_changed_waits_again(tmp_path: Path) -> None:
    _judged(tmp_path, Verdict(0, outcome="consistent"))
    with Store(str(tmp_path), write=True) as store:
        store.enter([Found("/d/one", 10, 5 * 10**9), Found("/d/two", 1, 1)])
        assert [row.version for row in store.rows()] == [__version__, None]
        store.enter([Found("/d/one", 11, 5 * 10**9)])
        assert [row.version for row in store.rows()] == [None, None]


@pytest.mark.parametrize(
    ("verdict", "time", "memory", "is_done"),
    [
        (Verdict(0, outcome="consistent"), 60, 100, True),
        (Verdict(0, outcome="incomplete"), 60, 100, True),
        (Verdict(0, why="no debug info"), 60, 100, False),
        (Verdict(0, why="died", limit="died"), 60, 100, False),
        (Verdict(0, limit="time"), 60, 100, True),
        (Verdict(0, limit="time"), 61, 100, False),
        (Verdict(0, limit="time", outcome="incomplete"), None, 100, False),
        (Verdict(0, limit="memory"), 600, 100, True),
        (Verdict(0, limit="memory"), 60, 101, False),
        (Verdict(0, outcome="consistent", version="0.0.1"), 60, 100, False),
    ],
)
def test_what_is_judged_is_not_judged_again(
    verdict: Verdict, time: Optional[float], memory: int, is_done: bool, tmp_path: Path
) -> None:
    assert is_judged(_judged(tmp_path, verdict), time, memory) is is_done


def test_reading_writes_nothing(tmp_path: Path) -> None:
    _judged(tmp_path, Verdict(0, outcome="consistent"))
    before = (tmp_path / STORE).read_bytes()
    os.chmod(tmp_path / STORE, 0o444)
    with Store(str(tmp_path)) as store, pytest.raises(sqlite3.OperationalError, match="readonly"):
        store._base.execute("DELETE FROM dumps")
    summarise(str(tmp_path))
    assert (tmp_path / STORE).read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [".lock", STORE]
    assert not stat.S_IMODE(os.stat(tmp_path / STORE).st_mode) & 0o222


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with Store(str(tmp_path), write=True):
        with pytest.raises(TargetError, match="another run is at work there"):
            Store(str(tmp_path), write=True)
        Store(str(tmp_path)).close()
    Store(str(tmp_path), write=True).close()


def test_what_is_not_written_whole_is_not_written(tmp_path: Path) -> None:
    with Store(str(tmp_path), write=True) as store:
        with pytest.raises(sqlite3.IntegrityError):
            store.enter([Found("/d/one", 1, 1), Found("/d/two", None, 1)])  # type: ignore[arg-type]
        assert list(store.rows()) == []


def test_full_disk_is_told_with_its_file(tmp_path: Path) -> None:
    with Store(str(tmp_path), write=True) as store:
        (pages,) = store._base.execute("PRAGMA page_count").fetchone()
        store._base.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(TargetError, match=f"{STORE}: database or disk is full"):
            store.enter([Found(f"/d/{number}", 1, 1) for number in range(1000)])
        assert list(store.rows()) == []
    with pytest.raises(TargetError, match="has left any dump there"):
        summarise(str(tmp_path))


@pytest.mark.parametrize(
    "name", ["plain", 'it\'s "two"', "new\nline", "\udcff\udcfe", "\x1b[31m'\\", "$(x) \x80\n"]
)
def test_command_is_copied_from_a_terminal(name: str, tmp_path: Path) -> None:
    _judged(tmp_path, Verdict(0, outcome="inconsistent", signatures=[{"code": "x"}]), f"/d/{name}")
    (group,) = summarise(str(tmp_path)).groups
    assert group.command.isprintable()
    shell = group.command.replace("drgn-slabtype check -c", "printf %s")
    told = subprocess.run(["bash", "-c", shell], stdout=subprocess.PIPE, check=True).stdout
    assert told == os.fsencode(f"/d/{name}")


def test_dump_that_may_not_be_read_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "vmcore")

    def refuse(path: str) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(work, "is_report", refuse)
    assert work.judge(Job(1, path, 1, 1)).why == f"{path}: permission denied"


def test_nothing_to_judge_is_told_with_all_that_could_not_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = [("/d/one", "permission denied"), ("/d/two", "input/output error")]
    monkeypatch.setattr(run, "find_dumps", lambda paths: Search([], unread))
    with pytest.raises(TargetError, match="/d/one: permission denied; /d/two: input/output error"):
        run.Run(["/d"], str(tmp_path)).go()


def test_folder_without_results_is_told(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no run of fleet has left anything there"):
        summarise(str(tmp_path))


@pytest.mark.parametrize("data", [b"no database, but long enough to be one" * 40, b""])
def test_file_that_is_no_database_is_told(data: bytes, tmp_path: Path) -> None:
    (tmp_path / STORE).write_bytes(data)
    with pytest.raises(TargetError, match=STORE):
        summarise(str(tmp_path))


def test_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TargetError, match="file"):
        Store(str(tmp_path / "file" / "out"), write=True)
