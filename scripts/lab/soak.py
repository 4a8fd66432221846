# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The soak: running guests under the storm, checked over QEMU's monitor again and again.

Nothing is wrong with them, so that every finding is a false one. Each check is
the command as people call it, in a process of its own.
"""

from __future__ import annotations

import json
import time
from typing import Any, Dict, Iterable, List, Mapping, Sequence

from .boot import running
from .calls import check, record_of
from .errors import GuestError, LabError
from .guests import GUESTS, Guest
from .journal import Journal, kept
from .library import KernelFiles
from .process import run_python, say
from .qemu import Machine

__all__ = ("KERNELS", "guest_for", "numbers", "run", "taken", "trouble", "wrong")

KERNELS = ("slab-6.1-rfc3", "debian-6.12", "debian-7")
"""SLAB with RFC v3, SLUB with CPU slabs, SLUB with sheaves."""

_CHECKS_A_BOOT = 10
_MOST_DEATHS = 8
_LEAST_SHARE = 0.99


def guest_for(files: KernelFiles) -> Guest:
    """Return the guest with the storm in which a kernel does what it does on real machines."""
    return GUESTS["storm-cx16" if files.kernel.allocator == "SLUB" else "storm"]


def wrong(record: Mapping[str, Any]) -> bool:
    """Return whether a check said something that it must not say of a sound guest."""
    return bool(record["findings"] or record["error"] or record["status"] not in (0, 3))


def run(
    kernels: Sequence[KernelFiles], journal: Journal, checks: int, *, budget_seconds: float
) -> None:
    """
    Check each kernel so many times, or until time is up.

    :param journal: Gets a record for each check; what it has is not done again.
    """
    end = time.monotonic() + budget_seconds
    deaths = 0
    while time.monotonic() < end:
        # Whose turn it is says the journal, so that every kernel comes to it.
        left = {
            files.kernel.name: checks - journal.count(kernel=files.kernel.name) for files in kernels
        }
        files = max(kernels, key=lambda files: left[files.kernel.name])
        if left[files.kernel.name] <= 0:
            return
        try:
            _soak(files, journal, min(left[files.kernel.name], _CHECKS_A_BOOT), end)
        except GuestError as error:
            deaths += 1
            say(f"{files.kernel.name}: {error}")
            if deaths > _MOST_DEATHS * len(kernels):
                raise


def _soak(files: KernelFiles, journal: Journal, checks: int, end: float) -> None:
    with running(files, guest_for(files)) as machine:
        for number in range(checks):
            if time.monotonic() > end:
                return
            record = {"kernel": files.kernel.name, "number": number, **_one(files, machine)}
            # A guest that is gone says nothing about its check.
            machine.qmp.command("query-status")
            journal.add(record)


def _one(files: KernelFiles, machine: Machine) -> Dict[str, Any]:
    done = check(["--qemu", str(machine.qmp_path), "-s", str(files.vmlinux)])
    record = record_of(done)
    if wrong(record):
        say(f"{files.kernel.name}: {[*record['findings'], record['error']][0]}")
        record["kept"] = _keep(files, machine, done.report)
    return record


def _keep(files: KernelFiles, machine: Machine, report: Mapping[str, Any]) -> str:
    # The report, and the guest as it is now: what is wrong in that was not false.
    place = kept(f"soak-{files.kernel.name}-{int(time.time())}.json")
    place.write_text(json.dumps(report, indent=1))
    machine.stop()
    target = ["--qemu", str(machine.qmp_path), "-s", str(files.vmlinux), "--no-default-symbols"]
    try:
        capture = str(place.with_suffix(".capture.xz"))
        run_python(["-m", "drgn_slabtype", "capture", *target, "-o", capture])
    except LabError as error:
        say(f"{files.kernel.name}: {error}")
    machine.resume()
    return str(place)


def numbers(records: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Return what came of the checks of a kernel, in numbers."""
    statuses = [one["status"] for one in records]
    shares = [one["shares"]["caches"] for one in records if one["shares"]]
    return {
        "checks": len(records),
        "false": sum(bool(one["findings"]) for one in records),
        "exit 0": statuses.count(0),
        "exit 3": statuses.count(3),
        "errors": sum(bool(one["error"]) for one in records),
        "changing": sum(one["changing"] for one in records),
        "checks with 99 % of caches decided": _part(share >= _LEAST_SHARE for share in shares),
        **taken(records),
    }


def taken(records: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    """Return what the checks of a kernel took."""
    seconds = sorted(one["seconds"] for one in records)
    spent = sorted(one["cpu_seconds"] for one in records)
    read = [one["bytes_read"] for one in records if one["bytes_read"]]
    above = [one["above_opening_bytes"] for one in records if one.get("above_opening_bytes")]
    return {
        "seconds": f"{seconds[len(seconds) // 2]:.1f}",
        "slowest": f"{seconds[-1]:.1f}",
        "CPU seconds": f"{spent[len(spent) // 2]:.1f}",
        "peak MiB": max(one["peak_bytes"] for one in records) >> 20,
        "above opening": max(above) >> 20 if above else "-",
        "MiB read": f"{sorted(read)[len(read) // 2] / (1 << 20):.1f}" if read else "-",
    }


def trouble(records: Sequence[Mapping[str, Any]]) -> List[str]:
    """Return what the checks of a sound kernel must not have said, in words."""
    bad = [*(one for record in records for one in [*record["findings"], record["error"]] if one)]
    shares = [one["shares"]["caches"] for one in records if one["shares"]]
    if sum(share >= _LEAST_SHARE for share in shares) < _LEAST_SHARE * len(shares):
        bad.append("too few checks have decided 99 % of the caches")
    return bad


def _part(hits: Iterable[bool]) -> str:
    known = list(hits)
    return f"{100 * sum(known) / len(known):.1f} %" if known else "-"
