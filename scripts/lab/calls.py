# SPDX-License-Identifier: LGPL-2.1-or-later

"""
The checker called as people call it, in a process of its own, and what that took.

``python -m lab.calls COUNT ARGUMENT…`` calls it some times and writes a record a
line, short enough for the line that a guest has to its host.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Sequence, Tuple

__all__ = ("Checked", "check", "record_of")

_ROOT = Path(__file__).resolve().parent.parent.parent
_CHECK_SECONDS = 900
_ANSWERED = (0, 1, 3)
_SHARES = ("caches", "slabs", "places")
_MOST_TEXT = 60


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
    """How much of memory it had at most, the debug info that it opened included."""


def check(arguments: Sequence[str]) -> Checked:
    """
    Call ``drgn-slabtype check`` for a report in JSON, and measure what it takes.

    :param arguments: What to check, as ``--qemu SOCKET``.
    """
    command = [sys.executable, "-m", "drgn_slabtype", "check", *arguments]
    path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
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


def record_of(done: Checked) -> Dict[str, Any]:
    """Return what is written down of a call."""
    report = done.report
    return {
        "status": done.status,
        "error": "" if done.status in _ANSWERED and report else done.errors or "no answer",
        "findings": [f"{one['code']}: {one['message']}" for one in report.get("findings", ())],
        "changing": len(report.get("changing", ())),
        "unavailable": len(report.get("unavailable", ())),
        "shares": _shares(report),
        "bytes_read": report.get("totals", {}).get("bytes_read"),
        "seconds": round(done.seconds, 2),
        "cpu_seconds": round(done.cpu_seconds, 2),
        "peak_bytes": done.peak_bytes,
        "above_opening_bytes": report.get("totals", {}).get("peak_memory"),
    }


def _shares(report: Mapping[str, Any]) -> Dict[str, float]:
    decided = report.get("decided") or {}
    # Of a check that ended before it knew of how many, none.
    return {name: decided[name]["share"] or 0.0 for name in _SHARES if name in decided}


def main(arguments: List[str]) -> int:
    """Call the checker again and again, as it is in a guest."""
    count, *rest = arguments
    for _ in range(int(count)):
        record = record_of(check(rest))
        record["error"] = record["error"][:_MOST_TEXT]
        record["findings"] = [one[:_MOST_TEXT] for one in record["findings"][:1]]
        record["shares"] = {name: round(share, 4) for name, share in record["shares"].items()}
        print(json.dumps(record, separators=(",", ":")), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
