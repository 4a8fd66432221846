# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a dump does to the process that judges it is told, and costs no other dump."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, List, Optional, Tuple

from drgn_slabtype.fleet import nursery
from drgn_slabtype.fleet.pool import locally
from drgn_slabtype.fleet.slot import Slot
from drgn_slabtype.fleet.work import Job, Verdict

_PROGRAM = (sys.executable, "-m", "tests.unit.test_fleet_slots")


def _misbehave(job: Job) -> Verdict:
    # What the path says.
    what, _, rest = job.path.partition(" ")
    if what == "hang":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        time.sleep(3600)
    elif what == "eat":
        eaten: List[bytes] = []
        while True:
            eaten.append(b"x" * (8 << 20))
            time.sleep(0.01)
    elif what == "die":
        os.write(2, b"first words\nlibfoo: assertion failed \xff\n\n")
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "raise":
        raise ValueError("what is this?")
    elif what == "print":
        print("not an answer", flush=True)
        os.write(1, b"nor this\n")
    elif what == "fell":
        # Whoever watches it dies the first time, as if the kernel had picked it.
        if not os.path.exists(rest):
            Path(rest).touch()
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(3600)
    elif what == "always":
        with open(rest, "ab") as file:
            file.write(b"x")
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(3600)
    return Verdict(job.number, outcome="consistent")


def _job(what: str, number: int = 1, **more: Any) -> Job:
    return Job(number, what, **more)


def _verdict(what: str, **more: Any) -> Verdict:
    slot = Slot(program=_PROGRAM)
    try:
        first = slot.run(_job(what, **more))
        # It is there for the next one.
        assert slot.run(_job("fine", 2)).outcome == "consistent"
        return first
    finally:
        slot.close()


def test_dump_that_hangs_is_given_up() -> None:
    verdict = _verdict("hang", max_time=0)
    assert (verdict.limit, verdict.outcome) == ("time", None)
    assert verdict.why == "killed: not done after 0 s"


def test_dump_that_takes_too_much_memory_is_given_up() -> None:
    verdict = _verdict("eat", max_memory=256 << 20)
    assert (verdict.limit, verdict.why) == ("memory", "killed: it took more than 256 MiB")
    assert verdict.memory > 256 << 20


def test_process_that_dies_leaves_its_last_words() -> None:
    verdict = _verdict("die")
    assert verdict.limit == "died"
    assert verdict.why == "its process died: SIGSEGV: libfoo: assertion failed \ufffd"


def test_error_of_this_program_costs_one_dump() -> None:
    verdict = _verdict("raise")
    assert verdict.why == "its process died: exit status 1: ValueError: what is this?"


def test_what_is_printed_is_no_answer() -> None:
    assert _verdict("print").outcome == "consistent"


def _all(jobs: List[Job], processes: int) -> List[Tuple[int, Verdict]]:
    done: List[Optional[Tuple[Job, Verdict]]] = list(locally(jobs, processes, _PROGRAM))
    return sorted((one[0].number, one[1]) for one in done if one is not None)


def test_dump_of_a_watcher_that_died_is_begun_again(tmp_path: Path) -> None:
    jobs = [_job("fine", number) for number in range(1, 6)]
    jobs.insert(2, _job(f"fell {tmp_path / 'once'}", 9))
    found = _all(jobs, 2)
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 9]
    assert {verdict.outcome for _, verdict in found} == {"consistent"}


def test_dump_that_always_ends_its_watcher_is_given_up(tmp_path: Path) -> None:
    tries = tmp_path / "tries"
    found = _all([_job(f"always {tries}", 1), _job("fine", 2)], 1)
    assert [(number, verdict.limit) for number, verdict in found] == [(1, "died"), (2, None)]
    assert tries.read_bytes() == b"xxx"


def test_nothing_is_left_when_a_run_is_stopped() -> None:
    jobs = locally([_job("hang", number) for number in (1, 2)], 2, _PROGRAM)
    assert next(jobs) is None
    slots = jobs.gi_frame.f_locals["slots"]  # type: ignore[attr-defined]
    watchers = [slot.pid for slot in slots]
    children: List[int] = []
    while len(children) < 2:
        assert next(jobs) is None
        children = [int(pid) for watcher in watchers for pid in _children(watcher)]
    jobs.close()  # type: ignore[attr-defined]
    assert not any(os.path.exists(f"/proc/{pid}") for pid in watchers)
    for pid in children:
        _await_end(pid)


def test_nothing_listens() -> None:
    slot = Slot(program=_PROGRAM)
    try:
        assert slot.run(_job("fine")).outcome == "consistent"
        for pid in (os.getpid(), slot.pid):
            assert not _sockets(pid) & _listening()
    finally:
        slot.close()


def _children(pid: int) -> List[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _await_end(pid: int) -> None:
    for _ in range(1000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.01)
    raise AssertionError(f"process {pid} is still there")


def _sockets(pid: int) -> set[str]:
    links = (os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink())
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def _listening() -> set[str]:
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        if os.path.exists(f"/proc/net/{name}")
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[9] for row in rows if row[3] == "0A"}


if __name__ == "__main__":
    nursery.main(_misbehave)
