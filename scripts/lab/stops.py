# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Guests stopped in the middle of the allocator's work.

A kernel under the storm is stopped at random moments, and where a CPU enters a
function of its allocator, from where that CPU goes on some instructions alone.
Each time it is dumped and checked: nothing may be found, and whatever is
excused as work in progress must name who is at it.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

from tabulate import tabulate

from .boot import running
from .comparison import ANSWERED
from .entries import Function, functions
from .errors import GuestError, LabError
from .gdbstub import GdbStub
from .guests import GUESTS
from .journal import Journal, kept
from .library import KernelFiles
from .process import run_python, say
from .qemu import Machine

__all__ = ("ENOUGH", "KERNELS", "Plan", "run", "table", "wrong")

KERNELS = ("slab-6.1-rfc3", "slab-6.1", "slub-6.1-rfc3", "debian-6.1", "debian-6.12", "debian-7")
"""A kernel of each kind of bookkeeping."""
ENOUGH = 20
"""In how many functions a kernel is stopped at least."""

_PAUSE_SECONDS = (0.05, 0.6)
_REACH_SECONDS = 2.5
# A storm that comes to a function now and then has come to it within some tries.
_MOST_TRIES = 2
_MOST_DEATHS = 8
_SHALLOW, _DEEP = 40, 500
_PC = 16  # among the registers


class Plan(NamedTuple):
    """How often a kernel is stopped."""

    pauses: int = 50
    """At random moments."""
    times: int = 5
    """In each function."""


def wrong(record: Mapping[str, Any]) -> bool:
    """Return whether a stop shows something that a sound kernel must not."""
    return bool(record["error"] or record["findings"] or record["unwitnessed"])


class _Stop(NamedTuple):
    # One more stop of a guest.
    function: Optional[Function]
    number: int


def run(
    kernels: Sequence[KernelFiles],
    journal: Journal,
    plan: Plan,
    *,
    budget_seconds: float,
    seed: int,
) -> None:
    """
    Stop kernels until each has been stopped as often as planned, or time is up.

    :param journal: Gets a record for each stop; what it has is not done again.
    """
    end = time.monotonic() + budget_seconds
    for files in kernels:
        _stop_kernel(files, journal, plan, end, seed)


def _stop_kernel(files: KernelFiles, journal: Journal, plan: Plan, end: float, seed: int) -> None:
    assert files.vmlinux is not None
    name, deaths = files.kernel.name, 0
    known = functions(files.vmlinux)
    while time.monotonic() < end and _missing(name, journal, plan, known):
        try:
            with running(files, GUESTS["storm"], ("nokaslr",)) as machine:
                for stop in _missing(name, journal, plan, known):
                    if time.monotonic() > end:
                        return
                    chance = random.Random(f"{seed} {name} {stop}")
                    journal.add(_one(files, machine, stop, chance))
        except GuestError as error:
            deaths += 1
            say(f"{name}: {error}")
            if deaths > _MOST_DEATHS:
                raise


def _missing(name: str, journal: Journal, plan: Plan, known: Sequence[Function]) -> List[_Stop]:
    # What this machine had no room for is tried again.
    pauses = range(journal.count(kernel=name, function=None, error=""), plan.pauses)
    missing = [_Stop(None, number) for number in pauses]
    for number in range(plan.times):
        for function in known:
            done = journal.count(kernel=name, function=function.name, reached=True, error="")
            idle = journal.count(kernel=name, function=function.name, reached=False)
            if done <= number and idle < _MOST_TRIES:
                missing.append(_Stop(function, number))
    return missing


def _one(
    files: KernelFiles, machine: Machine, stop: _Stop, chance: random.Random
) -> Dict[str, Any]:
    record: Dict[str, Any] = {
        "kernel": files.kernel.name,
        "function": stop.function and stop.function.name,
        "number": stop.number,
        "reached": True,
        "steps": 0,
        "pc": None,
    }
    if stop.function is None:
        time.sleep(chance.uniform(*_PAUSE_SECONDS))
        machine.stop()
        record.update(_judge(files, machine, record))
        machine.resume()
        return record
    # A guest that the debugger's connection stops tells so, unasked.
    machine.stop()
    stub = GdbStub(machine.gdb_path)
    try:
        record["steps"], record["pc"] = _walk(stub, stop.function, chance)
        if record["pc"] is None:
            record.update(reached=False, error="", findings=[], unwitnessed=[])
        else:
            record.update(_judge(files, machine, record))
    finally:
        stub.close()
        machine.resume()
    return record


def _walk(stub: GdbStub, function: Function, chance: random.Random) -> Any:
    # Steps taken from a function's entry, and where that led; None if no CPU came there.
    stub.breakpoint(function.address, on=True)
    thread = stub.run(_REACH_SECONDS)
    stub.breakpoint(function.address, on=False)
    if thread is None:
        return 0, None
    steps = chance.randrange(_SHALLOW if chance.random() < 0.4 else _DEEP)
    for _ in range(steps):
        stub.step(thread)
    stub.command(f"Hg{thread}", 10)
    return steps, stub.registers()[_PC]


def _judge(files: KernelFiles, machine: Machine, record: Mapping[str, Any]) -> Dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="slabtype-stop-") as name:
        dump = Path(name) / "vmcore"
        machine.dump(dump)
        dump.chmod(0o644)
        begin = time.monotonic()
        judged = _check(files, dump)
        judged["seconds"] = round(time.monotonic() - begin, 1)
        if wrong(judged):
            which = record["function"] or "pause"
            place = kept(f"{record['kernel']}-{which}-{record['number']}-{int(time.time())}.vmcore")
            shutil.move(str(dump), place)
            judged["kept"] = str(place)
            told = [*judged["findings"], *judged["unwitnessed"], judged["error"]]
            say(f"{record['kernel']} {which}: {told[0]}")
    return judged


def _check(files: KernelFiles, dump: Path) -> Dict[str, Any]:
    arguments = ["-m", "drgn_slabtype", "check", "-c", str(dump), "-s", str(files.vmlinux)]
    judged: Dict[str, Any] = {"error": "", "findings": [], "unwitnessed": []}
    try:
        done = run_python(
            [*arguments, "--no-default-symbols", "--format", "json"], statuses=ANSWERED
        )
        report = json.loads(done.stdout)
    except (LabError, ValueError) as error:
        return {**judged, "error": str(error)}
    judged["status"] = done.returncode
    judged["findings"] = [f"{one['code']}: {one['message']}" for one in report["findings"]]
    judged["changing"] = len(report["changing"])
    judged["unavailable"] = len(report["unavailable"])
    judged["unwitnessed"] = list(_unwitnessed(report["changing"]))
    judged["slabs"] = report["totals"]["slabs"]
    return judged


def _unwitnessed(changing: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    # What follows from something that is changing has the witness of that.
    for one in changing:
        if one["because"] is None and not any(
            line.startswith("at work: ") for line in one["details"]
        ):
            yield f"{one['code']}: {one['message']}: {'; '.join(one['details'])}"


def table(journal: Journal) -> str:
    """Return what came of all stops, a row for each kernel."""
    rows = []
    for name in dict.fromkeys(record["kernel"] for record in journal.records):
        all_of = [one for one in journal.records if one["kernel"] == name and one["reached"]]
        pauses = [one for one in all_of if one["function"] is None]
        inside = [one for one in all_of if one["function"] is not None]
        rows.append(
            (
                name,
                len(pauses),
                len({one["function"] for one in inside}),
                len(inside),
                sum(one["steps"] for one in inside),
                sum(len(one["findings"]) for one in all_of),
                sum(one.get("changing", 0) for one in all_of),
                sum(len(one["unwitnessed"]) for one in all_of),
                sum(bool(one["error"]) for one in all_of),
            )
        )
    heads = "KERNEL PAUSES FUNCTIONS STOPS STEPS FINDINGS CHANGING UNWITNESSED ERRORS".split()
    return tabulate(rows, heads, tablefmt="github")
