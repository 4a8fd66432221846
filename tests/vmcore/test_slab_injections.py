# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage to SLAB kernels, and work in progress that is none.

Run on the committed captures, and on the dumps that the lab has in its cache;
``DRGN_SLABTYPE_DUMPS`` names another folder of folders with ``vmcore``,
``vmlinux`` and ``manifest.json``.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import List, Tuple

import pytest
from drgn import Program

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report

from ..injections.overlay import overlay
from ..injections.recipe import complaints
from ..injections.slab import RECIPES
from ..injections.slabflight import STATES
from ..injections.slabmachine import Machine

_CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
_CAPTURES = Path(__file__).parent.parent / "captures"
_DUMPS = Path(os.environ.get("DRGN_SLABTYPE_DUMPS", _CACHE / "drgn-slabtype/lab/dumps"))


def _dumps() -> List[Path]:
    # The captures; the newest dump of each kernel with one node, and with several.
    found = {}
    manifests = sorted(_DUMPS.glob("*/*/manifest.json"), key=lambda path: path.stat().st_mtime)
    for manifest in [*_CAPTURES.glob("*/manifest.json"), *manifests]:
        folder, record = manifest.parent, json.loads(manifest.read_text())
        source = next((n for n in ("capture.xz", "vmcore") if (folder / n).exists()), None)
        if source and record["allocator"] == "SLAB" and record["guest"] in ("plain", "numa"):
            found[record["kernel"], record["guest"], source] = folder
    return [folder for _, folder in sorted(found.items())]


def _open(folder: Path) -> Program:
    if (folder / "capture.xz").exists():
        return open_capture(str(folder / "capture.xz"))
    prog = Program()
    prog.set_core_dump(folder / "vmcore")
    prog.load_debug_info([folder / "vmlinux"])
    return prog


@cache
def _clean(folder: Path) -> Tuple[Machine, Report]:
    return Machine(_open(folder)), check(_open(folder))


def _name(folder: Path) -> str:
    if folder.parent == _CAPTURES:
        return f"{folder.name}-capture"
    return f"{folder.parent.name}-{folder.name.partition('-')[0]}"


_FOLDERS = _dumps()
_EACH_DUMP = pytest.mark.parametrize("folder", _FOLDERS, ids=map(_name, _FOLDERS))


@_EACH_DUMP
@pytest.mark.parametrize("name", RECIPES)
def test_damage_gives_one_root(folder: Path, name: str) -> None:
    machine, clean = _clean(folder)
    injury = RECIPES[name](machine)
    if injury is None:
        pytest.skip("no victim in this dump")
    prog = _open(folder)
    overlay(prog, injury.writes)
    assert complaints(injury, check(prog), clean) == []


@_EACH_DUMP
@pytest.mark.parametrize("name", STATES)
def test_work_in_progress_is_no_damage(folder: Path, name: str) -> None:
    machine, clean = _clean(folder)
    writes = STATES[name](machine)
    if writes is None:
        pytest.skip("nothing in this dump to put the state together from")
    prog = _open(folder)
    overlay(prog, writes)
    report = check(prog)
    assert [finding.message for finding in report.findings] == []
    assert report.unavailable == clean.unavailable
