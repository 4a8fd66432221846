# SPDX-License-Identifier: LGPL-2.1-or-later
"""The example for other projects' CI does what docs/ci.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import List
from xml.etree import ElementTree

import pytest

from drgn_slabtype import cli, kernelci

_ROOT = Path(__file__).parents[2]
_CAPTURE = Path(__file__).parent / "slab-6.1-rfc3-plain" / "capture.xz"
_BROKEN = Path(__file__).parent / "broken" / "slub-6.1-plain-destroy.xz"


def _run(
    folder: Path, core: Path, *more: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(_ROOT / "scripts" / "kernel-ci"), str(folder), str(core), *more],
        env={
            **{name: text for name, text in os.environ.items() if name != "GITHUB_ACTIONS"},
            "PYTHON": sys.executable,
            "PYTHONPATH": str(_ROOT),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def test_clean_kernel_passes_and_leaves_reports(tmp_path: Path) -> None:
    done = _run(tmp_path, _CAPTURE)
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((tmp_path / "slab.json").read_text())["outcome"] == "consistent"
    cases = ElementTree.parse(tmp_path / "slab.xml").getroot().iter("testcase")
    assert sum(1 for _ in cases) >= 100
    assert "\nconsistent: Linux" in (tmp_path / "slab.txt").read_text()
    assert json.loads((tmp_path / "slab-quality.json").read_text()) == []


def test_what_is_no_dump_fails_the_job_and_not_the_kernel(tmp_path: Path) -> None:
    core = tmp_path / "vmcore"
    core.write_text("not a dump\n")
    (tmp_path / "slab.json").write_text("of the run before")
    done = _run(tmp_path, core)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "slab.json").exists()
    assert "<error message=" in (tmp_path / "slab.xml").read_text()


def test_damage_fails_until_a_baseline_accepts_it(tmp_path: Path) -> None:
    done = _run(tmp_path, _BROKEN)
    assert done.returncode == 1
    assert done.stdout.startswith("cache-destroyed: lab_victim: has no users")
    annotated = _run(tmp_path, _BROKEN, GITHUB_ACTIONS="true")
    assert annotated.stdout.startswith("::error title=cache-destroyed in lab_victim::")
    baseline = tmp_path / "baseline.toml"
    baseline.write_text('[[cause]]\nname = "lab"\ncode = "cache-destroyed"\n')
    done = _run(tmp_path, _BROKEN, "--baseline", str(baseline))
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads((tmp_path / "slab.json").read_text())["outcome"] == "accepted"


def test_what_ended_early_is_no_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ended(arguments: List[str]) -> int:
        (path,) = (word[5:] for word in arguments if word.startswith("json="))
        Path(path).write_text('{"interrupted": true, "stopped": "SIGTERM", "findings": []}')
        return 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("drgn_slabtype.cli.main", ended)
        assert kernelci.main([str(tmp_path), "vmcore"]) == 2
    assert capsys.readouterr().out == "the check was ended before it was done: SIGTERM\n"


def test_reports_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert kernelci.main([str(tmp_path / "file" / "folder"), "vmcore"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", ["github", "gitlab"])
def test_jobs_of_the_docs_run(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (_ROOT / "docs" / "ci" / f"{name}.yml").read_text()
    yaml = pytest.importorskip("yaml")
    assert "slab" in str(yaml.safe_load(text))
    commands = {
        line.strip(): line.partition(program)[2].split()
        for program in ("kernel-ci ", "drgn-slabtype capture ")
        for line in text.splitlines()
        if program in line
    }
    assert len(commands) == 2
    # A capture stands for the dump and its vmlinux; the order is that of the job.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vmcore").symlink_to(_BROKEN)
    (tmp_path / "slab-baseline.toml").write_text("")
    checking, capturing = commands.values()
    assert checking[2] == "vmlinux"
    assert kernelci.main([word for word in checking if word != "vmlinux"]) == 1
    assert (
        cli.main(["capture", *(word for word in capturing if word not in ("-s", "vmlinux"))]) == 0
    )
    capsys.readouterr()
    assert cli.main(["check", "-c", "reports/capture.xz"]) == 1
    named = re.findall(r"reports/([\w.-]+)", text)
    assert {*named} <= {path.name for path in (tmp_path / "reports").iterdir()}
