# SPDX-License-Identifier: LGPL-2.1-or-later
"""The example for other projects' CI does what docs/ci.md says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

_ROOT = Path(__file__).parents[2]
_CAPTURE = Path(__file__).parent / "slab-6.1-rfc3-plain" / "capture.xz"


def _run(folder: Path, core: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        [str(_ROOT / "scripts" / "kernel-ci"), str(folder), str(core)],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_clean_kernel_passes_and_leaves_both_reports(tmp_path: Path) -> None:
    done = _run(tmp_path, _CAPTURE)
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((tmp_path / "slab.json").read_text())["outcome"] == "consistent"
    cases = ElementTree.parse(tmp_path / "slab.xml").getroot().iter("testcase")
    assert sum(1 for _ in cases) >= 100


def test_what_is_no_dump_fails_the_job_and_not_the_kernel(tmp_path: Path) -> None:
    core = tmp_path / "vmcore"
    core.write_text("not a dump\n")
    done = _run(tmp_path, core)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
