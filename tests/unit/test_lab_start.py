# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab where its packages are not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

VMLAB = Path(__file__).parents[2] / "scripts" / "vmlab"


def _started(tmp_path: Path) -> subprocess.CompletedProcess[str]:
    # -S: as if nothing were installed.
    return subprocess.run(
        [sys.executable, "-S", str(VMLAB), "list"],
        check=False,
        env={"VENV": str(tmp_path)},
        capture_output=True,
        text=True,
    )


def test_lab_says_in_one_line_what_it_needs(tmp_path: Path) -> None:
    done = _started(tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "scripts/prepare" in done.stderr


def test_lab_runs_in_the_virtual_environment_of_the_checkout(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    done = _started(tmp_path)
    assert done.returncode == 0
    assert "debian-6.1" in done.stdout
