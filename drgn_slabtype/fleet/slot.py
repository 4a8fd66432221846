# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A place where one dump at a time is judged
------------------------------------------

The near end of a :mod:`.nursery`. The local pool has some of them, and so has
each worker of a cluster: from here on they do the same.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from typing import Any, Dict, List, Optional, Sequence

from .work import Job, Verdict

PROGRAM = (sys.executable, "-m", "drgn_slabtype.fleet.nursery")
TRIES = 3
"""How often a job is begun whose processes die with whoever watches them."""


class SlotDiedError(Exception):
    """Whoever watched the work is gone; the work may be begun again elsewhere."""


class Slot:
    """
    One that does one job at a time.

    :param threads: How many threads a job may use.
    :param program: What serves the jobs.
    """

    def __init__(self, threads: int = 1, program: Sequence[str] = PROGRAM) -> None:
        self.job: Optional[Job] = None
        """What it is at."""
        self._process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C at a terminal is for whoever started this, not for all of them.
            start_new_session=True,
            cwd="/",
            env=_environment(threads),
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._commands, self._answers = self._process.stdin, self._process.stdout
        self._data = b""

    @property
    def pid(self) -> int:
        """Of the process that watches."""
        return self._process.pid

    def fileno(self) -> int:
        """Return the descriptor that is ready when there is news."""
        return self._answers.fileno()

    def give(self, job: Job) -> None:
        """Begin a job."""
        self.job = job
        # That it died is told when the answer is asked for.
        with contextlib.suppress(BrokenPipeError):
            self._commands.write(job.to_json().encode() + b"\n")

    def take(self) -> Optional[Verdict]:
        """
        Return the verdict once all of it is there; waits for the next piece of it.

        :raises SlotDiedError: if it does not come.
        """
        piece = self._answers.read(1 << 16)
        self._data += piece or b""
        if self._data.endswith(b"\n"):
            text, self._data, self.job = self._data.decode(), b"", None
            return Verdict.from_json(text)
        if not piece:
            raise SlotDiedError(f"process {self.pid} is gone")
        return None

    def run(self, job: Job) -> Verdict:
        """
        Do a job.

        :raises SlotDiedError: if that cannot be finished here.
        """
        self.give(job)
        while True:
            verdict = self.take()
            if verdict is not None:
                return verdict

    def close(self) -> None:
        """End it, and what it is at."""
        for end in (self._commands, self._answers):
            with contextlib.suppress(OSError):
                end.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment(threads: int) -> Dict[str, str]:
    # That of this process, with this package in reach wherever it was found.
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    paths: List[str] = [package]
    paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    count = str(max(threads, 1))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(map(os.path.abspath, paths))),
        "OMP_NUM_THREADS": count,
        "OPENBLAS_NUM_THREADS": "1",
    }


_here = threading.local()


def judge_here(text: str) -> str:
    """
    Do a job in a slot of this thread; what a worker of a cluster is asked for.

    :param text: A :class:`.Job` as it travels.
    :return: A :class:`.Verdict` as it travels.
    """
    job, trouble = Job.from_json(text), ""
    for _ in range(TRIES):
        slot: Any = getattr(_here, "slot", None)
        if slot is None:
            slot = _here.slot = Slot()
        try:
            return slot.run(job).to_json()
        except SlotDiedError as error:
            trouble = str(error)
            slot.close()
            _here.slot = None
    return gave_up(job, trouble).to_json()


def gave_up(job: Job, trouble: str) -> Verdict:
    """Return the verdict on a job of which everybody died that was at it."""
    return Verdict(job.number, limit="died", why=f"begun {TRIES} times: {trouble}")
