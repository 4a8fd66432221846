# SPDX-License-Identifier: LGPL-2.1-or-later

"""
Check a dump with ``drgn-slabtype`` and compare the answer with the kernel's own.

How exact the kernel's numbers are:

- ``/proc/kpageflags``: exact for every page, see :mod:`lab.pagebits`;
- ``dump_page()``: exact line by line, see :mod:`lab.pagewords`;
- SLAB's slabinfo: objects, slabs and active objects (those in array caches
  count as active) are exact, as is the number of objects in shared arrays;
- SLUB's slabinfo: objects and slabs are exact. Active objects are all objects
  but the free ones of slabs on the nodes' partial lists, so CPU slabs and CPU
  partial slabs count in full. With the lists' own sum that is exact too (up to
  10,000 slabs a list, which no guest here reaches).
- ``/sys/kernel/slab``: ``total_objects`` and ``slabs`` as above, the size of
  an object and how many a slab has.

Without CONFIG_SLUB_DEBUG there is no slabinfo, and sysfs does not count objects
and slabs; with CONFIG_SLUB_TINY there is no sysfs either. What is left are the
pages, one by one and in sum: the orders of all slabs found add up to the pages
that the kernel says are slabs.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from .boot import running
from .crash import CUT
from .dumps import Dump, vmcoreinfo
from .errors import LabError
from .guests import GUESTS, Guest
from .kdump import convert
from .kernels import KERNELS
from .library import KernelFiles
from .live import run_inside
from .oracle import KPF, Oracle
from .process import run_python
from .qemu import Machine

__all__ = ("ANSWERED", "LIVE", "Result", "compare", "compare_live")

LIVE = ("qmp stopped", "qmp running", "kdump-qemu", "inside")
"""
Ways to a guest that is there: over its monitor, stopped or not; QEMU's own
compressed dump of it; and the checker inside it, as the kernel that runs.
"""

_CUT = "incomplete, as its dumper says"
_INSIDE_SECONDS = 600
ANSWERED = (0, 1, 3)
"""Statuses of a checker that has judged."""
# Attributes in /sys/kernel/slab, and what they are called in a report.
_SYSFS = {
    "total_objects": "objects",
    "slabs": "slabs",
    "object_size": "object_size",
    "objs_per_slab": "objects_per_slab",
}


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
        if self.format == CUT:
            statuses = (2, 3)
        wrong = self.error or self.findings or self.mismatches
        return not wrong and self.status in statuses

    def record(self) -> Dict[str, object]:
        """Return it for JSON."""
        return {**asdict(self), "good": self.good}


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

    # A filtered dump may lack the names of caches, which the report gives others.
    named = {name for name in ours if not name.startswith("(cache 0x")}
    whole = len(named) == len(ours) or "-31" not in result.format
    if theirs and whole and set(ours) != set(theirs):
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
    if sysfs and whole and not set(ours) <= set(sysfs):
        missing = ", ".join(sorted(set(ours) - set(sysfs)))
        result.mismatches.append(f"caches that /sys/kernel/slab does not have: {missing}")
    for name in sorted(set(ours) & set(sysfs)):
        numbers = sysfs[sysfs[name].get("alias_of", name)]
        for attribute, key in _SYSFS.items():
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
        # Where what is left is too little, that is the answer.
        if format == CUT and _CUT in result.error:
            result.error, result.status, result.unavailable = "", 2, 1
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def compare_live(kernel: KernelFiles, guest: Guest, format: str) -> Result:
    """
    Check a guest while it exists, busy as it is.

    :param format: One of :data:`LIVE`.
    """
    begin = time.monotonic()
    result = Result(f"{kernel.kernel.name}/{guest.name}", format)
    try:
        if format == "inside":
            _check_inside(kernel, guest, result)
        else:
            with running(kernel, guest) as machine:
                machine.stop()
                target = _target(kernel, machine, format)
                if format == "qmp running":
                    machine.resume()
                _check(target, kernel.vmlinux, result)
    except LabError as error:
        result.error = str(error)
    result.seconds = round(time.monotonic() - begin, 1)
    return result


def _target(kernel: KernelFiles, machine: Machine, format: str) -> List[str]:
    folder = machine.qmp_path.parent
    info = vmcoreinfo(kernel, machine, folder / "vmcoreinfo")
    words = ["--vmcoreinfo", str(info)] if info is not None else []
    if format != "kdump-qemu":
        return ["--qemu", str(machine.qmp_path), *words]
    machine.dump(folder / "vmcore", format="kdump-zlib")
    return ["-c", str(folder / "vmcore"), *words]


def _check_inside(kernel: KernelFiles, guest: Guest, result: Result) -> None:
    arguments = _arguments(["-k"], kernel.vmlinux)
    done = run_inside(kernel, guest, arguments, timeout_seconds=_INSIDE_SECONDS)
    if done.status not in ANSWERED or not done.output:
        raise LabError((done.errors.strip().splitlines() or [f"status {done.status}"])[-1])
    _take(done.status, done.output, result)


def _arguments(target: List[str], vmlinux: Optional[Path]) -> List[str]:
    symbols = ["-s", str(vmlinux)] if vmlinux is not None else []
    check = ["-m", "drgn_slabtype", "check", *target, *symbols]
    return [*check, "--no-default-symbols", "--format", "json"]


def _check(target: List[str], vmlinux: Optional[Path], result: Result) -> Dict[str, Any]:
    done = run_python(_arguments(target, vmlinux), statuses=ANSWERED)
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
    pages = json.loads(run_python(["-m", "lab.pagebits", str(dump.folder), target[-1]]).stdout)
    for name, bit in pages["bits"].items():
        result.compared += bit["compared"]
        if bit["differ"]:
            result.mismatches.append(f"{bit['differ']} pages differ in {name}: {bit['examples']}")
    guest = GUESTS[dump.guest]
    if guest.cx16 and dump.manifest["allocator"] == "SLUB" and not pages["cx16"]:
        result.mismatches.append("no cache uses cmpxchg16b, which the CPUs have")
    result.compared += pages["words"]
    result.mismatches += pages["words_differ"]
    asked = KERNELS[str(dump.manifest["kernel"])].prints and not guest.crash
    if not pages["words"] and asked:
        result.mismatches.append(f"dump_page(): {dump.manifest['dump_page']}")
    _compare_caches(report, oracle, pages["partial_free"], result)
