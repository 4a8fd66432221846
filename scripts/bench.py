# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Measure what reading and checking a dump costs, and judge it by its limits.

Each thing is measured beside what it can be measured by, in the same run: a plain
read of the memory map, one read of each slab that has a freelist, drgn's own helpers,
and crash's "kmem -S". Turns alternate; what is told is the median of all rounds, in
processor time, so that the ratios mean something on a machine that does other things.
On a small dump the fixed costs of every run outweigh the reading: limits are meant for
4 GiB, as "scripts/vmlab dump KERNEL --guest crowd" makes it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from drgn import Program
from drgn.helpers.linux.mm import PageSlab, pfn_to_page
from drgn.helpers.linux.slab import slab_object_info

from drgn_slabtype.answers.object import slab_object
from drgn_slabtype.check import check
from drgn_slabtype.errors import SlabTypeError
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.census import census
from drgn_slabtype.pages.scan import BLOCK_PAGES, page_ranges, scan
from drgn_slabtype.reading import Reading
from drgn_slabtype.target import TargetOptions, open_target

_LOOP_PAGES = 1 << 14  # that are looped over; the loop's time is told for all of them
_OBJECTS = 20  # that are asked for after the first
_MIB = 1 << 20


class Took(NamedTuple):
    """What something took, in seconds."""

    cpu: float
    wall: Optional[float]
    """By the clock; ``None`` where that says nothing."""


class Limit(NamedTuple):
    """A number and what it has to stay under."""

    what: str
    value: float
    most: float
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it does."""
        return self.value <= self.most


def timed(call: Callable[..., object], *arguments: Any, **options: Any) -> Took:
    """Return what a call takes."""
    cpu, wall = time.process_time(), time.perf_counter()
    call(*arguments, **options)
    return Took(time.process_time() - cpu, time.perf_counter() - wall)


def command(arguments: Sequence[str]) -> Tuple[Took, str]:
    """Run a program of its own, and return what it took and what it wrote."""
    # What is installed is compiled; a checkout need not be.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    wall = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
        out.seek(0)
        cpu = used.ru_utime + used.ru_stime
        return Took(cpu, time.perf_counter() - wall), out.read()


class Target:
    """A dump or capture that is opened again and again."""

    def __init__(self, core: str, symbols: Sequence[str]) -> None:
        self.core, self.symbols = core, symbols
        self.prog = self.open()
        index = Reading(machine(self.prog)).index
        needed = np.flatnonzero(index.marked & (index["freelist"] != 0))
        order = np.argsort(index.pfns[needed])
        self._starts = (index.pfns[needed] << np.uint64(12))[order].tolist()
        self._spans = index.spans[needed][order].tolist()
        with_objects = index.addresses[needed][:: max(len(needed) // _OBJECTS, 1)].tolist()
        self.objects: List[int] = with_objects[: _OBJECTS + 1]
        """Addresses in slabs all over the machine."""

    def open(self) -> Program:
        """Open it as if it had not been before."""
        options = TargetOptions(core=self.core, symbols=self.symbols, default_symbols=False)
        return open_target(options)

    @property
    def options(self) -> List[str]:
        """As the command line has them."""
        symbols = [part for path in self.symbols for part in ("-s", path)]
        return ["-c", self.core, *symbols, "--no-default-symbols"]

    def read_map(self) -> None:
        """Read every struct page, in the blocks that the scan reads, and drop it."""
        known, read = machine(self.prog), self.prog.read
        size, vmemmap = known.page.size, known.page.vmemmap
        for start, end in page_ranges(known):
            for low in range(start, end, BLOCK_PAGES):
                read(vmemmap + low * size, min(BLOCK_PAGES, end - low) * size)

    def read_slabs(self) -> None:
        """Read each slab that has a freelist, once, and drop it."""
        read = self.prog.read
        for start, span in zip(self._starts, self._spans):
            read(start, span, True)

    def page_loop(self) -> None:
        """Do what scripts do that have only drgn's helpers, with some of the pages."""
        for pfn in range(_LOOP_PAGES):
            with suppress(Exception):
                PageSlab(pfn_to_page(self.prog, pfn))

    def helper(self) -> None:
        """Ask drgn's own helper about some addresses."""
        for address in self.objects[1:]:
            slab_object_info(self.prog, address)

    def helper_knows(self) -> bool:
        """Return whether it can: of RFC v3, slabs have no ``active`` that it could read."""
        try:
            self.helper()
        except (AttributeError, LookupError):
            return False
        return True


def rounds(target: Target, times: int) -> Dict[str, Took]:
    """Return what each thing took, by its name."""
    taken: Dict[str, List[Took]] = {}

    def take(name: str, call: Callable[..., object], *arguments: Any, **options: Any) -> None:
        taken.setdefault(name, []).append(timed(call, *arguments, **options))

    first, *others = target.objects
    helped = target.helper_knows()
    for _ in range(times):
        take("first census", census, target.open())
        take("plain read of the memory map", target.read_map)
        take("scan", scan, machine(target.prog))
        take("census", census, target.prog)
        take("one read of each needed slab", target.read_slabs)
        take("check", check, target.prog)
        fresh = target.open()
        take("first object", slab_object, fresh, first)
        for address in others:
            take("next object", slab_object, fresh, address)
        take("object, all caches asked", slab_object, fresh, first, everywhere=True)
        if helped:
            take(f"drgn's slab_object_info() of {len(others)}", target.helper)
    take(f"drgn's PageSlab() of {_LOOP_PAGES} pages", target.page_loop)
    return {name: _middle(each) for name, each in taken.items()}


def _middle(taken: Sequence[Took]) -> Took:
    walls = [one.wall for one in taken if one.wall is not None]
    return Took(median(one.cpu for one in taken), median(walls) if walls else None)


def commands(target: Target, times: int) -> Tuple[Dict[str, Took], Dict[str, Any]]:
    """Return what whole commands took, and the totals of a check by one process."""
    call = [sys.executable, "-m", "drgn_slabtype"]
    check_by = [*call, "check", *target.options, "--format", "json", "--jobs"]
    asked = {
        "whole check command": [*check_by, "1"],
        "whole check command, 2 processes": [*check_by, "2"],
        "whole object command": [*call, "object", *target.options, hex(target.objects[-1])],
    }
    runs = [{name: command(words) for name, words in asked.items()} for _ in range(times)]
    took = {name: _middle([run[name][0] for run in runs]) for name in asked}
    told = [json.loads(runs[-1][name][1])["totals"] for name in list(asked)[:2]]
    totals: Dict[str, Any] = {**told[0], "peak_of_2": told[1]["peak_memory"]}
    return took, totals


def captured(target: Target, times: int) -> Tuple[Dict[str, Took], Dict[str, Any]]:
    """Write a capture and check it; return what that took, and how large it is."""
    call = [sys.executable, "-m", "drgn_slabtype"]
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "capture.xz")
        written, _ = command([*call, "capture", *target.options, "-o", file])
        replay = [*call, "check", "-c", file, "--format", "json"]
        replays = [command(replay) for _ in range(times)]
        size = os.path.getsize(file)
    took = {
        "whole capture command": written,
        "whole check command, capture": _middle([done for done, _ in replays]),
    }
    return took, {"bytes": size, **json.loads(replays[-1][1])["totals"]}


def crashed(program: str, target: Target, times: int) -> Took:
    """
    Return what crash takes for "kmem -S" beyond its start, which is taken in the same turn.

    In processor time alone: by the clock, what else a machine does is more than either.
    """

    def run(folder: str, lines: str) -> float:
        script = Path(folder) / "commands"
        script.write_text(lines)
        words = [program, "-s", *target.symbols, target.core, "-i", str(script)]
        return command(words)[0].cpu

    with tempfile.TemporaryDirectory() as folder:
        beyond = [
            run(folder, "kmem -S > /dev/null\nquit\n") - run(folder, "quit\n") for _ in range(times)
        ]
    return Took(median(beyond), None)


def judge(took: Dict[str, Took], totals: Dict[str, Any], captures: Dict[str, Any]) -> List[Limit]:
    """Return the numbers that have limits."""
    cpu = {name: one.cpu for name, one in took.items()}
    plain = cpu["plain read of the memory map"]
    floor = plain + cpu["one read of each needed slab"]
    room = 150 + 100 * totals["slabs"] / _MIB
    found = [
        Limit("census / plain read of the map", cpu["census"] / plain, 2.0),
        Limit("first census / plain read of the map", cpu["first census"] / plain, 3.0),
        Limit("check / one read of each needed slab", cpu["check"] / floor, 2.0),
        Limit("first object", cpu["first object"] * 1e3, 50, "ms"),
        Limit("next object", cpu["next object"] * 1e3, 5, "ms"),
        Limit("whole object command", cpu["whole object command"], 1, "s"),
    ]
    if totals["peak_memory"]:
        found.append(Limit("check above opening", totals["peak_memory"] / _MIB, room, "MiB"))
    if totals["peak_of_2"]:
        both = totals["peak_of_2"] / _MIB
        found.append(Limit("check above opening, 2 processes", both, room, "MiB"))
    if captures:
        replay = cpu["whole check command, capture"] / cpu["whole check command"]
        found.append(Limit("check of a capture / of the dump", replay, 1.0))
    if "crash kmem -S" in cpu:
        share = cpu["whole check command"] / cpu["crash kmem -S"]
        found.append(Limit("whole check command / crash's kmem -S", share, 0.1))
    return found


def judge_kdump(path: str, symbols: Sequence[str], times: int) -> Tuple[Dict[str, Took], Limit]:
    """Return what reading and checking a kdump file took, and its limit."""
    target = Target(path, symbols)
    pairs = []
    for _ in range(times):
        floor = [timed(target.read_map), timed(target.read_slabs)]
        plain = Took(sum(one.cpu for one in floor), None)
        pairs.append((plain, timed(check, target.prog)))
    plain, checked = (_middle(column) for column in zip(*pairs))
    name = Path(path).name
    ratio = Limit(f"{name}: check / plain decompression", checked.cpu / plain.cpu, 1.3)
    return {f"{name}: plain decompression": plain, f"{name}: check": checked}, ratio


def show(took: Dict[str, Took], totals: Dict[str, Any], limits: Sequence[Limit]) -> None:
    """Print the table."""
    for name, done in took.items():
        clock = "" if done.wall is None else f"{done.wall * 1e3:12.1f} ms by the clock"
        print(f"{name:44}{done.cpu * 1e3:12.1f} ms{clock}")
    print(
        f"{totals['pages']} pages, {totals['slabs']} slabs, {totals['objects']} objects, "
        f"{totals['free']} free; {totals['reads']} reads, {totals['bytes_read'] / _MIB:.0f} MiB"
    )
    for one in limits:
        verdict = "met" if one.met else "MISSED"
        print(f"{one.what:44}{one.value:12.2f} {one.unit:4}at most {one.most:.4g}: {verdict}")


def main() -> int:
    """Return the exit status: 1 if a limit is missed, 2 if there is nothing to measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().split("\n\n")[0])
    parser.add_argument("-c", "--core", metavar="CORE", required=True)
    parser.add_argument("-s", "--symbols", metavar="PATH", action="append", default=[])
    parser.add_argument("-n", "--times", type=int, default=5, help="rounds to take the median of")
    parser.add_argument("--kdump", metavar="FILE", action="append", default=[], help="of the same")
    parser.add_argument("--capture", action="store_true", help="write a capture and replay it")
    parser.add_argument("--crash", metavar="PROGRAM", help="crash, to be compared with")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where to write the numbers")
    options = parser.parse_args()
    captures: Optional[Dict[str, Any]] = None
    try:
        target = Target(options.core, options.symbols)
        took = rounds(target, options.times)
        more, totals = commands(target, options.times)
        took.update(more)
        if options.capture:
            more, captures = captured(target, options.times)
            took.update(more)
        if options.crash:
            took["crash kmem -S"] = crashed(options.crash, target, options.times)
        limits = judge(took, totals, captures or {})
        for path in options.kdump:
            more, limit = judge_kdump(path, options.symbols, options.times)
            took.update(more)
            limits.append(limit)
    except SlabTypeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    show(took, totals, limits)
    if captures:
        print(f"the capture has {captures['bytes']} bytes")
    if options.json:
        record = {
            "took": {name: one._asdict() for name, one in took.items()},
            "totals": totals,
            "capture": captures,
            "limits": [{**one._asdict(), "met": one.met} for one in limits],
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if all(one.met for one in limits) else 1


if __name__ == "__main__":
    sys.exit(main())
