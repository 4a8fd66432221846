# SPDX-License-Identifier: LGPL-2.1-or-later
"""A scheduler and workers of Dask, over loopback."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List

_ROOT = Path(__file__).parents[2]


class Cluster:
    """
    One scheduler, and workers that do one job at a time.

    :param folder: That they keep their files in.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        told = folder / "scheduler.json"
        self._scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(told)
        )
        self.address = self._await(told)
        self.workers: List[subprocess.Popen[bytes]] = [
            self._start(
                *("worker", self.address, "--nworkers", "1", "--nthreads", "1", "--no-nanny"),
                *("--host", "127.0.0.1", "--local-directory", str(folder / str(number))),
            )
            for number in range(workers)
        ]

    def _start(self, what: str, *words: str) -> subprocess.Popen[bytes]:
        module = f"distributed.cli.dask_{what}"
        with open(self._folder / "log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", module, "--no-dashboard", *words],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(_ROOT)},
                cwd=self._folder,
            )

    def _await(self, told: Path) -> str:
        for _ in range(3000):
            with contextlib.suppress(OSError, ValueError):
                return str(json.loads(told.read_text())["address"])
            time.sleep(0.02)
        raise AssertionError("no scheduler")

    def stop(self) -> None:
        """End all of them."""
        # Asked to end, some versions wait for each other first.
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()

    def end_scheduler(self) -> None:
        """End the scheduler as a crash would."""
        self._scheduler.kill()
        self._scheduler.wait()


@contextlib.contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[Cluster]:
    """Have a cluster for some time."""
    folder.mkdir(parents=True, exist_ok=True)
    found = Cluster(folder, workers)
    try:
        yield found
    finally:
        found.stop()
