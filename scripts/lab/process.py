# SPDX-License-Identifier: LGPL-2.1-or-later

"""Run other programs: quietly, with their output in a log, errors in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Mapping, Optional, Sequence

from .errors import LabError, MissingToolError

__all__ = ("output", "run", "run_python", "say")

_BEGIN = time.monotonic()
_PYTHON_SECONDS = 600
_SCRIPTS = Path(__file__).resolve().parent.parent


def say(message: str) -> None:
    """Write one line of progress to stderr, with the seconds since the start."""
    print(f"[{time.monotonic() - _BEGIN:7.1f}] {message}", file=sys.stderr, flush=True)


def _tail(log: Path, lines: int = 3) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " | ".join(text[-lines:])


def run(
    arguments: Sequence[str],
    *,
    log: Path,
    cwd: Optional[Path] = None,
    env: Optional[Mapping[str, str]] = None,
    timeout_seconds: Optional[float] = None,
) -> None:
    """
    Run a program with its output appended to a log file.

    :raises LabError: if it cannot be started, fails or takes too long; the
        message ends with the last lines of the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        try:
            status = subprocess.run(
                list(arguments),
                cwd=cwd,
                env={**os.environ, "LC_ALL": "C", **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=timeout_seconds,
                check=False,
            ).returncode
        except FileNotFoundError:
            raise MissingToolError(f"{arguments[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise LabError(f"{arguments[0]} took more than {timeout_seconds:.0f} s") from None
    if status:
        raise LabError(f"{arguments[0]} failed with status {status}: {_tail(log)}")


def output(arguments: Sequence[str], *, env: Optional[Mapping[str, str]] = None) -> str:
    """
    Return what a program writes to its standard output.

    :raises LabError: if it fails.
    """
    try:
        done = subprocess.run(
            list(arguments),
            env={**os.environ, "LC_ALL": "C", **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise MissingToolError(f"{arguments[0]} is not installed") from None
    if done.returncode:
        error = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise LabError(f"{arguments[0]} failed with status {done.returncode}: {error}")
    return done.stdout


def run_python(
    arguments: Sequence[str],
    *,
    statuses: Sequence[int] = (0,),
    timeout_seconds: float = _PYTHON_SECONDS,
) -> subprocess.CompletedProcess[str]:
    """
    Run a module of this checkout with this Python.

    :param statuses: What it may exit with.
    :raises LabError: if it exits with another status, or takes too long.
    """
    path = os.pathsep.join([str(_SCRIPTS), str(_SCRIPTS.parent)])
    try:
        done = subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise LabError(f"{arguments[1]} took more than {timeout_seconds:.0f} s") from None
    if done.returncode not in statuses:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise LabError(lines[-1])
    return done
