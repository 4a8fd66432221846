# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``python -m tests.fleet.measure FOLDER``: a large fleet, and what it takes.

Dumps are made; some of them are judged by one process and by two; then all of
them, by two: the run is stopped in the middle and gone on with, and a process is
killed. What comes of it is printed, and written into docs/fleet.md if asked for.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Set

from drgn_slabtype.cli import main as command
from drgn_slabtype.fleet.find import STORE
from drgn_slabtype.fleet.summary import Fleet, summarise

from .make import SOUND, Maker, mixed, write_list

_DOCS = Path(__file__).parents[2] / "docs" / "fleet.md"


class Fleets:
    """
    Dumps, and runs over them.

    :param folder: For all of it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.dumps = folder / "dumps"

    def make(self, count: int) -> None:
        """Make the dumps, unless they are there."""
        if not self.dumps.with_suffix(".json").exists():
            kinds = mixed(count, count // 10)
            write_list(self.dumps, list(Maker().make(self.dumps, kinds)))

    def made(self, count: int) -> Dict[str, str]:
        """Return the kinds of the first so many, by path."""
        told = json.loads(self.dumps.with_suffix(".json").read_text())
        kinds = {str(self.dumps / path): kind for path, (kind, _) in told.items()}
        return {path: kinds[path] for path in sorted(kinds)[:count]}

    def out(self, name: str) -> Path:
        """Return the folder of a run that has not begun."""
        path = self._folder / name
        shutil.rmtree(path, ignore_errors=True)
        return path

    def start(self, out: Path, processes: int, paths: Sequence[str]) -> subprocess.Popen[bytes]:
        """Begin a run."""
        words = ["fleet", *paths, "-o", str(out), "-j", str(processes)]
        return subprocess.Popen(
            [sys.executable, "-m", "drgn_slabtype", *words],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )


def _timed(fleets: Fleets, processes: int, paths: Sequence[str]) -> float:
    started = time.monotonic()
    run = fleets.start(fleets.out(f"timed-{processes}"), processes, paths)
    assert run.wait() == 1
    return time.monotonic() - started


def _done(out: Path) -> int:
    try:
        base = sqlite3.connect(f"file:{out}/{STORE}?mode=ro", uri=True)
        (count,) = base.execute("SELECT count(*) FROM dumps WHERE version NOT NULL").fetchone()
        base.close()
    except sqlite3.Error:
        return 0
    return int(count)


def _until(out: Path, count: int) -> None:
    while _done(out) < count:
        time.sleep(0.5)


def _children(pid: int) -> List[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _eventful(fleets: Fleets, paths: Sequence[str]) -> Iterator[str]:
    out, count = fleets.out("out"), len(paths)
    run = fleets.start(out, 2, paths)
    _until(out, count // 3)
    run.send_signal(signal.SIGTERM)
    assert run.wait() == 1
    stopped = _done(out)
    yield f"stopped by SIGTERM when {stopped} were judged"
    run = fleets.start(out, 2, paths)
    _until(out, 2 * count // 3)
    watchers = _children(run.pid)
    os.kill(watchers[0], signal.SIGKILL)
    yield f"gone on with; one of {len(watchers)} processes killed when {_done(out)} were judged"
    assert run.wait() == 1
    yield f"gone on to the end: {_done(out)} judged"


def _compare(made: Dict[str, str], found: Fleet) -> Iterator[str]:
    damaged = {path for path, kind in made.items() if kind != SOUND}
    told = {path for group in found.groups for path in group.paths}
    yield f"damaged: {len(damaged)}, of them found: {len(damaged & told)}"
    sound = set(made) - damaged
    yield f"sound: {len(sound)}, of them called damaged: {len(sound & told)}"
    kinds: List[Set[str]] = [{made[path] for path in group.paths} for group in found.groups]
    alone = sum(len(some) == 1 for some in kinds)
    spread = Counter(kind for some in kinds for kind in some)
    yield (
        f"kinds: {len({made[path] for path in damaged})}, groups: {len(found.groups)}, "
        f"groups of one kind: {alone}, kinds in one group: "
        f"{sum(count == 1 for count in spread.values())}"
    )


def measure(folder: Path, count: int, sample: int) -> str:
    """Return what came of it, a line each."""
    fleets = Fleets(folder)
    fleets.make(count)
    made = fleets.made(count)
    lines: List[str] = []
    if sample:
        some = list(made)[:sample]
        one, two = (_timed(fleets, processes, some) for processes in (1, 2))
        lines.append(
            f"{sample} dumps: {one:.0f} s with one process, {two:.0f} s with two, "
            f"{one / two:.2f} times as fast"
        )
    lines.append(f"{count} dumps, two processes:")
    lines += _eventful(fleets, list(made))
    found = summarise(str(folder / "out"))
    lines += _compare(made, found)
    totals = found.totals
    lines.append(
        f"{totals.seconds:.0f} s of work, {totals.seconds / totals.dumps:.2f} s a dump; "
        f"at most {totals.peak_memory / (1 << 20):.0f} MiB of memory in a process"
    )
    return "\n".join(lines) + "\n"


def report(folder: Path) -> str:
    """Return what the command prints about the last run, without what is this machine's own."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        command(["fleet", "report", str(folder / "out")])
    return printed.getvalue().replace(str(folder), "/srv/fleet")


def write(text: str, printed: str) -> None:
    """Write both into the page of the documentation."""
    page = _DOCS.read_text()
    before, fence, rest = page.partition("```text\n")
    told = f"{text}\n$ drgn-slabtype fleet report out\n{printed}"
    _DOCS.write_text(before + fence + told + rest[rest.index("```") :])


def main() -> None:
    """Measure, print, and write into the page if that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.fleet.measure", description=__doc__)
    parser.add_argument("folder", type=Path, help="for the dumps and the results")
    parser.add_argument("-n", "--number", type=int, default=1000, help="of dumps (default: 1000)")
    parser.add_argument("--sample", type=int, default=200, help="that are timed (default: 200)")
    parser.add_argument("--docs", action="store_true", help="write it into docs/fleet.md")
    options = parser.parse_args()
    text = measure(options.folder, options.number, options.sample)
    print(text, end="")
    if options.docs:
        asked = f"-n {options.number} --sample {options.sample} --docs"
        write(f"$ python -m tests.fleet.measure FOLDER {asked}\n{text}", report(options.folder))


if __name__ == "__main__":
    main()
