# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Check a dump with ``drgn-slabtype`` and compare the answer with the kernel's own.

How exact the kernel's numbers are:

- ``/proc/kpageflags``: exact for every page, see :mod:`lab.pagebits`;
- SLAB's slabinfo: objects, slabs and active objects (those in array caches
  count as active) are exact, as is the number of objects in shared arrays;
- SLUB's slabinfo: objects and slabs are exact. Active objects are all objects
  but the free ones of slabs on the nodes' partial lists, so CPU slabs and CPU
  partial slabs count in full. With the lists' own sum that is exact too (up to
  10,000 slabs a list, which no guest here reaches).
- ``/sys/kernel/slab``: ``total_objects`` and ``slabs`` as above.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence

from .dumps import Dump, running
from .errors import LabError
from .guests import Guest
from .kdump import convert
from .library import KernelFiles
from .live import run_inside
from .oracle import KPF, Oracle

__all__ = ("Result", "compare", "compare_inside", "compare_live")

_TIMEOUT_SECONDS = 600
_ANSWERED = (0, 1, 3)  # statuses of a checker that has judged
_SCRIPTS = Path(__file__).resolve().parent.parent


@dataclass
class Result:
    """What came of one dump."""

    dump: str
    """Name of the dump: ``KERNEL/GUEST``."""
    format: str = "elf"
    """Format of the dump."""
    status: int = 0
    """Exit status of ``drgn-slabtype check``."""
    slabs: int = 0
    """Slabs that were checked."""
    slab_pages: int = 0
    """Pages of slabs."""
    findings: List[str] = field(default_factory=list)
    """Messages of the findings; none is right on a healthy kernel."""
    changing: int = 0
    """What was caught in the middle of a change."""
    unavailable: int = 0
    """What could not be judged."""
    compared: int = 0
    """Numbers compared with the kernel's own, a page counting as one."""
    mismatches: List[str] = field(default_factory=list)
    """Where they differ."""
    error: str = ""
    """Why there is no answer."""
    seconds: float = 0.0
    """How long checking and comparing took."""

    @property
    def good(self) -> bool:
        """Whether there is an answer, no finding and no mismatch."""
        # A dump filtered by a tool that does not know the kernel may lack pages.
        statuses = (0, 3) if "-31" in self.format else (0,)
        wrong = self.error or self.findings or self.mismatches
        return not wrong and self.status in statuses

    def record(self) -> Dict[str, object]:
        """Return it for JSON."""
        return {**asdict(self), "good": self.good}


def _run(arguments: List[str], *, statuses: Sequence[int]) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(_SCRIPTS), str(_SCRIPTS.parent)])
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{arguments[1]} took more than {_TIMEOUT_SECONDS} s") from None
    if done.returncode not in statuses:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise LabError(lines[-1])
    return done


def _compare_caches(
    report: Mapping[str, Any], oracle: Oracle, partial_free: Mapping[str, int], result: Result
) -> None:
    ours = {cache["name"]: cache for cache in report["caches"]}
    is_slab = report["layout"]["allocator"] == "SLAB"
    theirs = oracle.slabinfo

    def equal(cache: str, what: str, mine: int, kernel: int) -> None:
        result.compared += 1
        if mine != kernel:
            result.mismatches.append(f"{cache}: {what}: {mine}, the kernel says {kernel}")

    if set(ours) != set(theirs):
        difference = ", ".join(sorted(set(ours) ^ set(theirs)))
        result.mismatches.append(f"caches in one place only: {difference}")
    for name in sorted(set(ours) & set(theirs)):
        mine, kernel = ours[name], theirs[name]
        equal(name, "objects", mine["objects"], kernel.num_objects)
        equal(name, "slabs", mine["slabs"], kernel.num_slabs)
        if is_slab:
            equal(name, "active objects", mine["counted"], kernel.active_objects)
            shared = [count for place, count in mine["free"].items() if "shared" in place]
            if shared:
                equal(name, "objects in shared arrays", sum(shared), kernel.shared_available)
        else:
            active = mine["objects"] - partial_free.get(mine["address"], 0)
            equal(name, "active objects", active, kernel.active_objects)
    sysfs = oracle.sysfs
    for name in sorted(set(ours) & set(sysfs)):
        numbers = sysfs[sysfs[name].get("alias_of", name)]
        for attribute, key in (("total_objects", "objects"), ("slabs", "slabs")):
            if attribute in numbers:
                kernel_number = int(numbers[attribute].split()[0])
                equal(name, f"sysfs {attribute}", ours[name][key], kernel_number)


def compare(dump: Dump, format: str = "elf") -> Result:
    """
    Check one dump and compare it with its oracle, if it has one.

    :param format: ``elf``, or one of :data:`lab.kdump.FORMATS`, which is made
        from it first.
    """
    begin = time.monotonic()
    result = Result(dump.name, format)
    try:
        if format == "elf":
            core = dump.vmcore
        else:
            core = dump.folder / f"vmcore.{format}"
            if not core.exists():
                convert(dump.vmcore, core, format)
        _compare(dump, ["-c", str(core)], result)
    except LabError as error:
        result.error = str(error)
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def compare_live(kernel: KernelFiles, guest: Guest, *, stopped: bool) -> Result:
    """
    Check a guest over its monitor, without any dump.

    :param stopped: Stop it for the time of the check; otherwise its load runs.
    """
    begin = time.monotonic()
    state = "stopped" if stopped else "running"
    result = Result(f"{kernel.kernel.name}/{guest.name}", f"qmp {state}")
    try:
        with running(kernel, guest) as machine:
            if stopped:
                machine.stop()
            target = ["--qemu", str(machine.qmp_path)]
            _check(target, kernel.vmlinux, result)
    except LabError as error:
        result.error = str(error)
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def compare_inside(kernel: KernelFiles, guest: Guest) -> Result:
    """Check a guest from inside, as the kernel that runs, under its load."""
    begin = time.monotonic()
    result = Result(f"{kernel.kernel.name}/{guest.name}", "inside")
    try:
        done = run_inside(
            kernel, guest, _arguments(["-k"], kernel.vmlinux), timeout_seconds=_TIMEOUT_SECONDS
        )
        if done.status not in _ANSWERED:
            raise LabError((done.errors.strip().splitlines() or [f"status {done.status}"])[-1])
        _take(done.status, done.output, result)
    except LabError as error:
        result.error = str(error)
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def _arguments(target: List[str], vmlinux: Path) -> List[str]:
    arguments = ["-m", "drgn_slabtype", "check", *target]
    return [*arguments, "-s", str(vmlinux), "--no-default-symbols", "--format", "json"]


def _check(target: List[str], vmlinux: Path, result: Result) -> Dict[str, Any]:
    done = _run(_arguments(target, vmlinux), statuses=_ANSWERED)
    return _take(done.returncode, done.stdout, result)


def _take(status: int, output: str, result: Result) -> Dict[str, Any]:
    report: Dict[str, Any] = json.loads(output)
    result.status = status
    totals = report["totals"]
    result.slabs, result.slab_pages = totals["slabs"], totals["slab_pages"]
    result.changing, result.unavailable = totals["changing"], totals["unavailable"]
    result.findings = [f"{finding['code']}: {finding['message']}" for finding in report["findings"]]
    return report


def _compare(dump: Dump, target: List[str], result: Result) -> None:
    report = _check(target, dump.vmlinux, result)
    totals = report["totals"]
    expected = dump.manifest["page_type"]
    if report["layout"]["page_type"] != expected:
        result.mismatches.append(f"layout {report['layout']['page_type']}, built as {expected}")
    oracle = dump.oracle
    if not oracle:
        return
    flags = oracle.kpageflags
    marked = sum(word >> KPF["SLAB"] & 1 for word in flags)
    if totals["slab_pages"] != marked:
        result.mismatches.append(f"slab pages: {totals['slab_pages']}, the kernel says {marked}")
    pages = json.loads(
        _run(["-m", "lab.pagebits", str(dump.folder), target[-1]], statuses=[0]).stdout
    )
    for name, bit in pages["bits"].items():
        result.compared += bit["compared"]
        if bit["differ"]:
            result.mismatches.append(f"{bit['differ']} pages differ in {name}: {bit['examples']}")
    _compare_caches(report, oracle, pages["partial_free"], result)
