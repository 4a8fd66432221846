# SPDX-License-Identifier: LGPL-2.1-or-later
"""The same work by the workers of a real scheduler, some of which die."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import pytest

from drgn_slabtype.errors import TargetError
from drgn_slabtype.fleet.pool import _verdict
from drgn_slabtype.fleet.run import Options, Run, State
from drgn_slabtype.fleet.summary import summarise
from drgn_slabtype.fleet.work import Job, Verdict

from .cluster import cluster
from .make import SOUND, Maker

pytest.importorskip("distributed")

_KINDS = ["mark-lost", "prev-null", SOUND, "free-pointer-text", "mark-lost"]


class _Future:
    # What Dask has of a job.
    def __init__(self, status: str, error: Optional[Exception] = None, text: str = "") -> None:
        self.status, self._error, self._text = status, error, text

    def exception(self) -> Optional[Exception]:
        return self._error

    def result(self) -> str:
        return self._text


def test_dump_whose_workers_always_die_is_given_up() -> None:
    from distributed.scheduler import KilledWorker

    error = KilledWorker("judge", None, 3)
    verdict = _verdict(_Future("error", error), Job(7, "/d"), "tcp://a")
    assert (verdict.number, verdict.limit, verdict.outcome) == (7, "died", None)


@pytest.mark.parametrize(
    ("future", "why"),
    [
        (_Future("cancelled"), "the scheduler at tcp://a went away"),
        (
            _Future("error", ModuleNotFoundError("No module named 'drgn_slabtype'")),
            "the workers at tcp://a cannot do the work: ModuleNotFoundError",
        ),
        (
            _Future("finished", None, Verdict(7, version="0.0.1", worker="b:1").to_json()),
            "worker b:1 has drgn-slabtype 0.0.1, and this is",
        ),
    ],
)
def test_cluster_that_cannot_do_it_is_told(future: _Future, why: str) -> None:
    with pytest.raises(TargetError) as caught:
        _verdict(future, Job(7, "/d"), "tcp://a")
    assert why in str(caught.value)


def _dumps(folder: Path, count: int) -> str:
    kernel = "debian-6.1-plain"
    made = list(Maker([kernel]).make(folder / "dumps", _KINDS[:count], kernel=kernel))
    assert len(made) == count
    return str(folder / "dumps")


def test_nothing_is_lost_and_nothing_told_twice_when_a_worker_dies(tmp_path: Path) -> None:
    dumps = _dumps(tmp_path, 5)
    states: List[int] = []
    with cluster(tmp_path / "cluster") as found:

        def progress(state: State) -> None:
            states.append(state.done)
            if state.done == 1 and found.workers[0].poll() is None:
                found.workers[0].kill()
                found.workers[0].wait()

        out = str(tmp_path / "out")
        Run([dumps], out, Options(scheduler=found.address), progress).go()
    # Each is counted once, or this would not end with all of them.
    assert states[-1] == 5
    assert states == sorted(states)
    fleet = summarise(out)
    totals = fleet.totals
    assert (totals.dumps, totals.damaged, totals.sound, totals.waiting) == (5, 4, 1, 0)
    assert [group.dumps for group in fleet.groups] == [2, 1, 1]


def test_run_goes_on_when_its_scheduler_has_died(tmp_path: Path) -> None:
    dumps, out = _dumps(tmp_path, 3), str(tmp_path / "out")
    with cluster(tmp_path / "cluster", 1) as found:

        def progress(state: State) -> None:
            if state.done == 1:
                found.end_scheduler()

        with pytest.raises(TargetError, match="scheduler"):
            Run([dumps], out, Options(scheduler=found.address), progress).go()
    kept: List[int] = [summarise(out).totals.waiting]
    Run([dumps], out, Options(processes=1)).go()
    totals = summarise(out).totals
    assert kept == [2]
    assert (totals.damaged, totals.sound, totals.waiting) == (2, 1, 0)
