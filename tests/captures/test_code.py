# SPDX-License-Identifier: LGPL-2.1-or-later
"""The code that --drgn prints runs, and prints what the command tells."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path
from typing import Any, Dict

import pytest
from drgn import Program

from drgn_slabtype import cli
from drgn_slabtype.answers.caches import caches
from drgn_slabtype.answers.objects import objects
from drgn_slabtype.answers.slabs import slabs
from drgn_slabtype.answers.stacks import stacks
from drgn_slabtype.capture import open_capture
from drgn_slabtype.command import Command, answer
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.machine import machine
from drgn_slabtype.report.json import objects as objects_as_json
from drgn_slabtype.report.text import slabs as as_text

HERE = Path(__file__).parent

LINES = (
    "check",
    "check --cache kmalloc-64",
    "check OBJECT",
    "check --html PAGE --report json=JSON --report junit=JUNIT --report text=TEXT",
    "check --rounds 2 --watch 0",
    "check --capture KEPT --max-time 600",
    "pages",
    "pages -t slab -t buddy",
    "pages -l -n 5",
    "pages -b slab --node 0 --pfn 0x1000-0x2000 -l --flags --map",
    "pages --kpageflags FLAGS --kpagecount COUNTS",
    "page OBJECT",
    "caches",
    "caches 'kmalloc-*' dentry --sort name -n 5 --per-node --per-cpu --aliases",
    "objects kmalloc-64",
    "objects kmalloc-64 --free --waiting",
    "objects kmalloc-64 -n 3",
    "slabs kmalloc-64",
    "slabs kmalloc-64 --partial --full --node 0",
    "slabs kmalloc-64 --cpu 0",
    "slabs kmalloc-64 -n 2",
    "slabs kmalloc-64 --slab OBJECT",
    "object OBJECT",
    "object OBJECT --bytes 32 --neighbours 3",
    "what 6b6b6b6b6b6b6b6b",
    "what dead000000000122 --at OBJECT",
    "stacks -j 2",
    "stacks kmalloc-64 --by words -n 3",
    "owners kmalloc-64",
    "owners kmalloc-64 -n 1",
    "refs OBJECT",
    "refs OBJECT+8 --in data --in slabs --type 'struct kmem_cache' -n 5 -j 2",
    "layout",
    "diff CAPTURE CAPTURE",
)


KERNELS = ("debian-6.12-plain", "debian-7-debug", "slab-5.10-plain")
_TRACKED = ("object", "stacks", "slabs", "what")
"""Commands that tell more of a kernel under slub_debug: it takes long, and has these alone."""
_CASES = [
    (kernel, line)
    for kernel in KERNELS
    for line in LINES
    if not kernel.endswith("-debug") or line.split()[0] in _TRACKED
]


@pytest.fixture(scope="module", params=KERNELS)
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def prog(kernel: str) -> Program:
    return open_capture(str(HERE / kernel / "capture.xz"))


def _run(code: str, prog: Program) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {"prog": prog})
    return printed.getvalue()


def _command(name: str) -> Command:
    return next(command for command in COMMANDS if command.name == name)


@pytest.mark.parametrize(("kernel", "line"), _CASES, indirect=["kernel"])
def test_code_runs(kernel: str, prog: Program, line: str, tmp_path: Path) -> None:
    names = {
        "OBJECT": f"{next(iter(objects(prog, 'kmalloc-64'))).address:x}",
        "CAPTURE": str(HERE / kernel / "capture.xz"),
        **{
            name: str(tmp_path / name)
            for name in ("PAGE", "KEPT", "FLAGS", "COUNTS", "JSON", "JUNIT", "TEXT")
        },
    }
    asked = set(re.split(r"[ =]", line)) - {"OBJECT", "CAPTURE"}
    for name, value in names.items():
        line = line.replace(name, value)
    words = shlex.split(line)
    command = _command(words[0])
    args = cli._parser().parse_args([*words, "--format", "json"])
    records = answer(command, lambda: prog, args)
    assert command.drgn is not None
    printed = _run(command.drgn(args), prog)
    written = sorted(path.name for path in tmp_path.iterdir())
    # A capture is written of a finding, and there is none.
    assert written == sorted(
        {name for name in names if name in asked and name.isupper()} - {"KEPT"}
    )
    assert all((tmp_path / name).stat().st_size for name in written)
    told = json.loads("".join(records.text).splitlines()[0] if "rounds" in line else _text(records))
    assert _count(command.name, told, args) in (None, printed.count("\n"))


def _text(found: Any) -> str:
    return "".join(found.text)


def _count(name: str, told: Dict[str, Any], args: Any) -> Any:
    # How many lines the code prints, where that is one for each record.
    if name == "check":
        return len(told["findings"])
    if name == "pages":
        rows = [told["types"], told.get("flags"), told.get("runs"), (told.get("map") or {})]
        cells = rows.pop()
        return sum(len(one or ()) for one in rows) + len(cells.get("cells", ()))
    members = {
        "caches": "caches",
        "objects": "objects",
        "slabs": "slabs",
        "what": "meanings",
        "owners": "owners",
        "refs": "references",
        "diff": "caches",
        "stacks": "kinds" if args.__dict__.get("by") == "words" else "stacks",
    }
    return len(told[members[name]]) if name in members else None


def test_code_about_call_traces_runs() -> None:
    # Of a kernel that keeps them.
    command = _command("stacks")
    args = cli._parser().parse_args(["stacks", "kmalloc-64", "dent*", "--freed", "-n", "3"])
    prog = open_capture(str(HERE / "debian-7-debug" / "capture.xz"))
    assert command.drgn is not None
    told = stacks(prog, "kmalloc-64", "dent*", freed=True, most=3).stacks
    assert told
    printed = _run(command.drgn(args), prog)
    assert printed == "".join(f"{one.count} {one.cache} {one.caller}\n" for one in told)


def test_of_a_cpu_that_has_no_slab_is_told_why(prog: Program) -> None:
    answers = (
        slabs(prog, cache.address, cpu=cpu)
        for cache in caches(prog).caches
        for cpu in machine(prog).cpus.tolist()
    )
    answer = next(answer for answer in answers if not answer.slabs)
    first, why = as_text(answer).splitlines()
    assert first.endswith(": 0 slabs, 0 objects")
    assert why == answer.why_none


def test_two_states_mean_both(prog: Program) -> None:
    both = objects(prog, "kmalloc-64", ["free", "in use"])
    each = [objects(prog, "kmalloc-64", state) for state in ("free", "in use")]
    assert sorted(both.addresses()) == sorted(each[0].addresses() + each[1].addresses())
    assert json.loads("".join(objects_as_json(both)))["count"] == len(both)
    with pytest.raises(ValueError, match="nope is no state: these are in use, free"):
        objects(prog, "kmalloc-64", "nope")
