# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A run
-----

Dumps are found, those that wait are judged, and each verdict is written down as
it comes.
"""

from __future__ import annotations

import json
import os
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from ..errors import TargetError
from ..files.whole import whole
from ..findings import Outcome
from .estimate import Estimate, Left
from .find import find_dumps, find_symbols
from .pool import Done, locally, on_cluster, processors
from .store import Row, Store, is_judged
from .work import Job, Verdict

_SYMBOLS = "symbols.json"
_CAPTURES = "captures"
_SHARE = 0.8  # of this machine's memory that all processes may take together

MAX_TIME = 3600.0
"""Seconds that a dump may take, unless something else is said."""


class Options(NamedTuple):
    """How dumps are judged."""

    symbols: Sequence[str] = ()
    """Folders with debug info."""
    default_symbols: bool = True
    """Whether to look for it where drgn does."""
    processes: Optional[int] = None
    """How many at a time on this machine; as many as it has processors if ``None``."""
    scheduler: Optional[str] = None
    """Address of a Dask scheduler, whose workers do it then."""
    max_time: float = MAX_TIME
    """Seconds for each."""
    max_memory: Optional[int] = None
    """Bytes for each; on this machine, all together a share of what it has if ``None``."""


class State(NamedTuple):
    """How far a run is."""

    done: int
    of: int
    """Dumps that waited when it began."""
    damaged: int
    """Of those that are done."""
    unjudged: int
    left: Optional[Left]
    """Seconds, if there is enough to tell."""


Progress = Callable[[State], None]


class Run:
    """
    One run.

    :param paths: That dumps are looked for below.
    :param folder: That the results are in.
    :param progress: Called whenever there is news, and now and then.
    """

    def __init__(
        self,
        paths: Sequence[str],
        folder: str,
        options: Options = Options(),  # noqa: B008
        progress: Optional[Progress] = None,
    ) -> None:
        self.folder = os.path.abspath(folder) if folder else folder
        self._paths = paths
        self._options = options
        self._progress = progress
        self.unread: List[str] = []
        """Folders and files that could not be looked at, and why."""

    def go(self) -> None:
        """
        Judge all that waits.

        Stopped in the middle, it leaves all verdicts that it has.

        :raises TargetError: if there is nothing to judge, or nowhere to write to.
        """
        search = find_dumps(self._paths)
        self.unread = [f"{path}: {why}" for path, why in search.unread]
        if not search.dumps:
            why = "; ".join(
                (f"there is no dump or capture below {', '.join(self._paths)}", *self.unread)
            )
            raise TargetError(why)
        symbols = find_symbols(self._options.symbols)
        with Store(self.folder, write=True) as store:
            store.enter(search.dumps)
            wanted = {dump.path for dump in search.dumps}
            self._judge(store, [row for row in store.rows() if row.path in wanted], symbols)

    def _judge(self, store: Store, rows: Sequence[Row], symbols: Dict[str, str]) -> None:
        options = self._options
        memory = options.max_memory
        processes = options.processes or processors()
        if memory is None and options.scheduler is None:
            memory = _memory() // processes or None
        waiting = [row for row in rows if not is_judged(row, options.max_time, memory)]
        # The largest first, so that none of them is alone at the end.
        waiting.sort(key=lambda row: (-row.size, row.path))
        index = self._write_symbols(symbols)
        jobs = [self._job(row, index, memory) for row in waiting]
        if not jobs:
            return
        if options.scheduler is not None:
            done = on_cluster(jobs, options.scheduler)
        else:
            done = locally(jobs, min(processes, len(jobs)))
        self._follow(store, jobs, done, processes)

    def _job(self, row: Row, symbols: Optional[str], memory: Optional[int]) -> Job:
        return Job(
            row.number,
            row.path,
            row.size,
            row.modified,
            symbols,
            self._options.default_symbols,
            os.path.join(self.folder, _CAPTURES),
            self._options.max_time,
            memory,
        )

    def _write_symbols(self, symbols: Dict[str, str]) -> Optional[str]:
        if not symbols:
            return None
        path = os.path.join(self.folder, _SYMBOLS)
        with whole(path) as file:
            file.write(json.dumps(symbols, indent=1).encode())
        return path

    def _follow(
        self, store: Store, jobs: Sequence[Job], done: Iterator[Optional[Done]], processes: int
    ) -> None:
        tally = _Tally(jobs, None if self._options.scheduler else processes)
        try:
            if self._progress:
                self._progress(tally.state())
            for one in done:
                if one is not None:
                    store.record(*one)
                    tally.count(*one)
                if self._progress:
                    self._progress(tally.state())
        finally:
            close = getattr(done, "close", None)
            if close is not None:
                close()


class _Tally:
    # How many processes a cluster has changes; there, what counts is how fast verdicts come.

    def __init__(self, jobs: Sequence[Job], processes: Optional[int]) -> None:
        self._left = {job.number: job.size for job in jobs}
        self._of = len(jobs)
        self._damaged = self._unjudged = 0
        self._is_cluster = processes is None
        self._last = time.monotonic()
        self._estimate = Estimate(processes or 1)

    def count(self, job: Job, verdict: Verdict) -> None:
        del self._left[job.number]
        self._damaged += verdict.outcome == Outcome.INCONSISTENT.value
        self._unjudged += verdict.outcome is None
        now = time.monotonic()
        seconds = now - self._last if self._is_cluster else verdict.seconds
        self._last = now
        self._estimate.learn(job.size, seconds)

    def state(self) -> State:
        left = self._estimate.left(list(self._left.values()))
        done = self._of - len(self._left)
        return State(done, self._of, self._damaged, self._unjudged, left)


def _memory() -> int:
    # Bytes that all processes may take together.
    try:
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE)
    except (OSError, ValueError):
        return 0
