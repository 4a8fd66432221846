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

__all__ = ("KERNELS", "Plan", "numbers", "run", "trouble", "unwitnessed", "walk")

KERNELS = (
    "slab-6.1-rfc3", "slab-6.1", "slab-5.10",
    "slub-6.1-rfc3", "debian-5.10", "debian-6.1", "debian-6.12", "debian-7",
)  # fmt: skip
"""A kernel of each kind of bookkeeping."""

_PAUSE_SECONDS = (0.05, 0.6)
_REACH_SECONDS = 2.5
# A storm that comes to a function now and then has come to it within some tries.
_MOST_TRIES = 2
_MOST_DEATHS = 8
_STOPS_A_BOOT = 25
_SHALLOW, _DEEP = 40, 500
_PC = 16  # among the registers


class Plan(NamedTuple):
    """How often a kernel is stopped."""

    pauses: int = 50
    """At random moments."""
    times: int = 5
    """In each function."""


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
    seed: int = 1,
) -> None:
    """
    Stop kernels until each has been stopped as often as planned, or time is up.

    :param journal: Gets a record for each stop; what it has is not done again.
    """
    end = time.monotonic() + budget_seconds
    known = {}
    for files in kernels:
        if files.vmlinux is None:
            raise LabError(f"{files.kernel.name}: without a vmlinux nobody knows where it can stop")
        known[files.kernel.name] = functions(files.vmlinux)
    deaths = 0
    turns = True
    while turns and time.monotonic() < end:
        # Some of each in turn, so that time that is up is up for all.
        turns = False
        for files in kernels:
            missing = _missing(files.kernel.name, journal, plan, known[files.kernel.name])
            if not missing or time.monotonic() > end:
                continue
            turns = True
            try:
                _stop_some(files, journal, missing[:_STOPS_A_BOOT], end, seed)
            except GuestError as error:
                deaths += 1
                say(f"{files.kernel.name}: {error}")
                if deaths > _MOST_DEATHS * len(kernels):
                    raise


def _stop_some(
    files: KernelFiles, journal: Journal, stops: Sequence[_Stop], end: float, seed: int
) -> None:
    with running(files, GUESTS["storm"], ("nokaslr",)) as machine:
        for stop in stops:
            if time.monotonic() > end:
                return
            chance = random.Random(f"{seed} {files.kernel.name} {stop}")
            journal.add(_one(files, machine, stop, chance))


def _missing(name: str, journal: Journal, plan: Plan, known: Sequence[Function]) -> List[_Stop]:
    # What this machine had no room for is tried again.
    pauses = range(journal.count(kernel=name, function=None, error=""), plan.pauses)
    missing: List[_Stop] = []
    for number in range(plan.times):
        for function in known:
            done = journal.count(kernel=name, function=function.name, reached=True, error="")
            idle = journal.count(kernel=name, function=function.name, reached=False)
            if done <= number and idle < _MOST_TRIES:
                missing.append(_Stop(function, number))
    # Of both, so that the first ones tell of both.
    mixed: List[_Stop] = []
    for at in range(max(len(pauses), len(missing))):
        mixed += [_Stop(None, number) for number in pauses[at : at + 1]]
        mixed += missing[2 * at : 2 * at + 2]
    return mixed


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
        record["steps"], record["pc"] = walk(stub, stop.function, chance)
        if record["pc"] is None:
            record.update(reached=False, error="", findings=[], unwitnessed=[])
        else:
            record.update(_judge(files, machine, record))
    finally:
        stub.close()
        machine.resume()
    return record


def walk(stub: GdbStub, function: Function, chance: random.Random) -> Any:
    """
    Let a CPU enter a function and go on alone for some instructions.

    :return: How many, and the address where that led to; ``None`` if no CPU came there.
    """
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
        told = [*judged["findings"], *judged["unwitnessed"], judged["error"]]
        if any(told):
            which = record["function"] or "pause"
            say(f"{record['kernel']} {which}: {told[0]}")
            if not judged["error"]:
                name = f"{record['kernel']}-{which}-{record['number']}-{int(time.time())}"
                judged["kept"] = _keep(files, dump, name)
    return judged


def _keep(files: KernelFiles, dump: Path, name: str) -> str:
    # A capture gives the same verdict, in a thousandth of the room.
    place = kept(f"{name}.capture.xz")
    arguments = ["-m", "drgn_slabtype", "capture", "-c", str(dump), "-s", str(files.vmlinux)]
    try:
        run_python([*arguments, "--no-default-symbols", "-o", str(place)])
    except LabError as error:
        say(f"{name}: {error}")
        place = kept(f"{name}.vmcore")
        shutil.move(str(dump), place)
    return str(place)


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
    judged["unwitnessed"] = list(unwitnessed(report["changing"]))
    judged["slabs"] = report["totals"]["slabs"]
    return judged


def unwitnessed(changing: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what a report excuses and names nobody for, in words."""
    # What follows from something that is changing has the witness of that.
    for one in changing:
        if one["because"] is None and not any(
            line.startswith("at work: ") for line in one["details"]
        ):
            yield f"{one['code']}: {one['message']}: {'; '.join(one['details'])}"


def numbers(records: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Return what came of the stops of a kernel, in numbers."""
    judged = [one for one in records if one["reached"] and not one["error"]]
    pauses = [one for one in judged if one["function"] is None]
    inside = [one for one in judged if one["function"] is not None]
    return {
        "pauses": len(pauses),
        "functions": len({one["function"] for one in inside}),
        "stops in them": len(inside),
        "instructions": sum(one["steps"] for one in inside),
        "with findings": sum(bool(one["findings"]) for one in judged),
        "changing": sum(one.get("changing", 0) for one in judged),
        "without witness": sum(len(one["unwitnessed"]) for one in judged),
        "unavailable": sum(one.get("unavailable", 0) for one in judged),
    }


def trouble(records: Sequence[Mapping[str, Any]]) -> List[str]:
    """Return what the stops of a sound kernel must not have shown, in words."""
    bad = []
    for record in records:
        where = record["function"] or "a pause"
        bad += [f"{where}: {one}" for one in record["findings"][:1]]
        bad += [f"{where}: no witness: {one}" for one in record["unwitnessed"]]
    return bad
