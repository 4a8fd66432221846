# SPDX-License-Identifier: LGPL-2.1-or-later
"""README.md shows what the program does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from drgn_slabtype.commands import COMMANDS

ROOT = Path(__file__).parents[2]


def test_every_command_is_listed_with_its_description() -> None:
    rows = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for command in COMMANDS:
        prompt = f"`%{command.prompt}`" if command.prompt else ""
        cells = [f"`{command.name}`", prompt, command.description]
        wanted = [cell.strip() for cell in cells]
        assert wanted in [[c.strip() for c in row.strip("|").split("|")] for row in rows]


def test_examples_are_what_the_program_prints() -> None:
    if not list((ROOT / "drgn_slabtype" / "captures").glob("*rfc*")):
        pytest.skip("the package has no capture to run the examples on")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "readme.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
