# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The soak: running guests under the storm, checked over QEMU's monitor again and again.

Nothing is wrong with them, so that every finding is a false one. Each check is
the command as people call it, in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

from tabulate import tabulate

from .boot import running
from .comparison import ANSWERED
from .errors import GuestError
from .guests import GUESTS, Guest
from .journal import Journal, kept
from .library import KernelFiles
from .process import SCRIPTS, say
from .qemu import Machine

__all__ = ("KERNELS", "Checked", "check", "guest_for", "run", "table", "wrong")

KERNELS = ("slab-6.1-rfc3", "debian-6.12", "debian-7")
"""SLAB with RFC v3, SLUB with CPU slabs, SLUB with sheaves."""

_CHECKS_A_BOOT = 40
_CHECK_SECONDS = 300
_MOST_DEATHS = 8
SHARES = ("caches", "slabs", "places")
"""Of what a report says which share was decided."""
_LEAST_SHARE = 0.99


class Checked(NamedTuple):
    """What came of one call of the checker."""

    status: int
    """Its exit status; -1 if it was killed for taking too long."""
    report: Dict[str, Any]
    """The JSON that it wrote, empty if there was none."""
    errors: str
    """The last line of its errors."""
    seconds: float
    """How long it took."""
    cpu_seconds: float
    """Time of a CPU that it took."""
    peak_bytes: int
    """How much of memory it had at most."""


def guest_for(files: KernelFiles) -> Guest:
    """Return the guest with the storm in which a kernel does what it does on real machines."""
    return GUESTS["storm-cx16" if files.kernel.allocator == "SLUB" else "storm"]


def check(arguments: Sequence[str]) -> Checked:
    """
    Call ``drgn-slabtype check`` for a report in JSON, and measure what it takes.

    :param arguments: What to check, as ``--qemu SOCKET``.
    """
    command = [sys.executable, "-m", "drgn_slabtype", "check", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS.parent)}
    begin = time.monotonic()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [*command, "--no-default-symbols", "--format", "json"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
        )
        status, usage = _wait(process)
        seconds = time.monotonic() - begin
        out.seek(0)
        errors.seek(0)
        said = errors.read().decode("utf-8", "replace").strip().splitlines()
        try:
            report = json.loads(out.read())
        except ValueError:
            report = {}
    spent = usage.ru_utime + usage.ru_stime
    return Checked(status, report, said[-1] if said else "", seconds, spent, usage.ru_maxrss << 10)


def _wait(process: subprocess.Popen[bytes]) -> Tuple[int, Any]:
    # With what the process has used, which subprocess does not tell.
    end = time.monotonic() + _CHECK_SECONDS
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage
        if time.monotonic() > end:
            process.kill()
            _, _, usage = os.wait4(process.pid, 0)
            process.returncode = -1
            return -1, usage
        time.sleep(0.02)


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
    turns = True
    while turns and time.monotonic() < end:
        # A boot of each in turn, so that time that is up is up for all.
        turns = False
        for files in kernels:
            left = checks - journal.count(kernel=files.kernel.name)
            if left > 0 and time.monotonic() < end:
                turns = True
                _soak(files, journal, min(left, _CHECKS_A_BOOT), end)


def _soak(files: KernelFiles, journal: Journal, checks: int, end: float) -> None:
    name = files.kernel.name
    died = journal.count(kernel=name, died=True)
    try:
        with running(files, guest_for(files)) as machine:
            for number in range(checks):
                if time.monotonic() > end:
                    return
                record = {"kernel": name, "number": number, **_one(files, machine)}
                # A guest that is gone says nothing about its check.
                machine.qmp.command("query-status")
                journal.add(record)
    except GuestError as error:
        say(f"{name}: {error}")
        if died >= _MOST_DEATHS:
            raise


def _one(files: KernelFiles, machine: Machine) -> Dict[str, Any]:
    done = check(["--qemu", str(machine.qmp_path), "-s", str(files.vmlinux)])
    report = done.report
    record: Dict[str, Any] = {
        "status": done.status,
        "error": "" if done.status in ANSWERED and report else done.errors or "no answer",
        "findings": [f"{one['code']}: {one['message']}" for one in report.get("findings", ())],
        "changing": len(report.get("changing", ())),
        "unavailable": len(report.get("unavailable", ())),
        "shares": _shares(report),
        "bytes_read": report.get("totals", {}).get("bytes_read"),
        "seconds": round(done.seconds, 2),
        "cpu_seconds": round(done.cpu_seconds, 2),
        "peak_bytes": done.peak_bytes,
    }
    if wrong(record):
        place = kept(f"soak-{files.kernel.name}-{int(time.time())}.json")
        place.write_text(json.dumps(report, indent=1))
        record["kept"] = str(place)
        say(f"{files.kernel.name}: {[*record['findings'], record['error']][0]}")
    return record


def _shares(report: Mapping[str, Any]) -> Dict[str, float]:
    decided = report.get("decided") or {}
    return {name: decided[name]["share"] for name in SHARES if name in decided}


def table(journal: Journal) -> str:
    """Return what came of all checks, a row for each kernel."""
    rows: List[Tuple[Any, ...]] = []
    for name in dict.fromkeys(record["kernel"] for record in journal.records):
        checks = [one for one in journal.records if one["kernel"] == name]
        seconds = sorted(one["seconds"] for one in checks)
        statuses = [one["status"] for one in checks]
        shares = [one["shares"].get("caches") for one in checks]
        rows.append(
            (
                name,
                len(checks),
                sum(bool(one["findings"]) for one in checks),
                statuses.count(0),
                statuses.count(3),
                sum(bool(one["error"]) for one in checks),
                sum(one["changing"] for one in checks),
                _part(share is None or share >= _LEAST_SHARE for share in shares),
                f"{seconds[len(seconds) // 2]:.1f}",
                f"{seconds[-1]:.1f}",
                f"{max(one['peak_bytes'] for one in checks) >> 20}",
                f"{max(one['bytes_read'] or 0 for one in checks) >> 20}",
            )
        )
    heads = (
        "KERNEL CHECKS FALSE EXIT_0 EXIT_3 ERRORS CHANGING DECIDED_99 SECONDS SLOWEST "
        "PEAK_MIB READ_MIB"
    )
    return tabulate(rows, [word.replace("_", " ") for word in heads.split()], "github")


def _part(hits: Iterable[bool]) -> str:
    known = list(hits)
    return f"{100 * sum(known) / len(known):.1f} %" if known else "-"
