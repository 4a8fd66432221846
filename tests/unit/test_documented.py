# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every command that README.md, CONTRIBUTING.md and docs/ show can be typed as it stands there."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import List

import jsonschema
import pytest
from _pytest.mark import ParameterSet
from examples import DUMPS, ROOT, Block, blocks, link_dumps, pages, stand_in, without_blocks
from lab.cli import main as vmlab

from drgn_slabtype import read_causes, slabs
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.report import present

_README = (ROOT / "README.md").read_text(encoding="utf-8")
_MEANT = {
    "ADDRESS": "ffff88a1c43c4340",
    "WORD": "0xffeffffa",
    "PFN": "0x43c4",
    "CODE": "padding",
    "NAME": "dentry",
    "A": "vmcore",
    "B": "vmcore",
    "DUMPS": "/srv/crash",
    "FOLDER": "triage",
    "SYMBOLS": "vmlinux",
}
"""What words in capitals stand for."""
_TRACKED = ("object", "owners", "stacks")
"""Commands that tell more of a kernel that keeps records of objects, and of cgroups."""


def _blocks(kind: str) -> List[ParameterSet]:
    return [
        pytest.param(block, id=f"{page.name}-{number}")
        for page in pages()
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8")))
        if block.kind == kind
    ]


def _spans(pattern: str) -> List[str]:
    # What stands between backticks in the text of any page, in one line.
    found = {
        " ".join(span.split())
        for page in pages()
        for span in re.findall(r"`([^`]+)`", without_blocks(page.read_text(encoding="utf-8")))
    }
    return sorted(span for span in found if re.match(pattern, span))


def _rows(heading: str) -> List[List[str]]:
    # The first table of README.md below a heading, without its head.
    lines = _README.partition(f"\n## {heading}\n")[2].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


_QUESTIONS = [
    command
    for _, shell, _, _ in _rows("What you want to know")
    for command in re.findall(r"`([^`]+)`", shell)
]


_IN_TEXT = [
    command for command in _spans("drgn-slabtype ") if command.partition(" ")[2] not in _QUESTIONS
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that has what examples name: /srv/crash is in it, and known causes."""
    (toml,) = [
        block.text
        for block in blocks((ROOT / "docs" / "fleet.md").read_text(encoding="utf-8"))
        if block.kind == "toml"
    ]
    for name in re.findall(r"\w+\.toml", " ".join(_QUESTIONS)):
        (tmp_path / name).write_text(toml)
    (tmp_path / "crash").symlink_to(DUMPS["overrun.vmcore"].parent)
    (tmp_path / "vmlinux").mkdir()
    link_dumps(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _dump(name: str) -> str:
    # The one that a command reads.
    return "debug.vmcore" if name in _TRACKED else "vmcore"


def _typed(text: str) -> List[str]:
    words = [_MEANT.get(word, word) for word in shlex.split(text)]
    return [word.replace("/srv/", "") for word in words]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_block_says_what_it_is_and_none_hides_a_command(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = blocks(text)
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(found)
    # What a measurement has printed is told, and not run.
    assert {block.kind for block in found} <= {"console", "pycon", "sh", "python", "toml", "text"}
    indented = re.findall(r"^    (?:\$ |>>> |drgn|python|scripts/).*", text, re.MULTILINE)
    assert [line for line in indented if line not in "".join(block.text for block in found)] == []


@pytest.mark.parametrize("block", _blocks("sh"))
def test_shell_examples_run(block: Block, folder: Path) -> None:
    program = folder / "bin" / "drgn-slabtype"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = {[str(ROOT), str(ROOT / 'scripts')]}\n"
        "from examples import stand_in\nsys.exit(stand_in(sys.argv[1:]))\n"
    )
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", block.text.replace("/srv/", "")],
        env={**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for written in re.findall(r"(?:-o |>> |--html |=)(\S+\.\w+)", block.text):
        assert (folder / written).stat().st_size > 0


@pytest.mark.parametrize("block", _blocks("python"))
def test_python_examples_run(block: Block, folder: Path) -> None:
    prog = open_capture(str(DUMPS["vmcore"]))
    document = json.loads(str(present("check", check(prog), "json")))
    exec(block.text, {"prog": prog, "report": document, "jsonschema": jsonschema})


@pytest.mark.parametrize("command", _QUESTIONS)
def test_what_is_to_be_typed_gives_an_answer(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _typed(command)
    if "--slab" in words:
        cache = slabs(open_capture(str(DUMPS["vmcore"])), "dentry")
        words[-1] = f"{cache[0].slab:x}"
    if words[:2] == ["fleet", "report"]:
        assert stand_in(["fleet", "crash", "-o", "triage"]) == 0
        capsys.readouterr()
    spec = next(one for one in COMMANDS if one.name == words[0])
    assert stand_in([*words, *(["-c", _dump(spec.name)] if spec.target else [])]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("command", _IN_TEXT)
def test_commands_in_the_text_give_an_answer(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = _typed(command)[1:]
    if words == ["capture"]:
        words += ["-o", "small.xz"]
    spec = next(one for one in COMMANDS if one.name == words[0])
    on_dump = spec.target and "--qemu" not in words
    assert stand_in([*words, *(["-c", _dump(spec.name)] if on_dump else [])]) == 0
    assert capsys.readouterr().out


def test_every_command_and_its_name_at_the_prompt_are_in_the_table_of_questions() -> None:
    told = set()
    for _, shell, prompt, _ in _rows("What you want to know"):
        for command in re.findall(r"`([^`]+)`", shell):
            words = command.split()
            name = "fleet report" if words[:2] == ["fleet", "report"] else words[0]
            told.add((name, prompt.strip("`%")))
    assert told == {(command.name, command.prompt or "") for command in COMMANDS}


def test_names_at_the_prompt_are_those_of_commands() -> None:
    known = {f"%{command.prompt}" for command in COMMANDS if command.prompt} | {"%slabhelp"}
    assert {span.split()[0] for span in _spans("%[a-z]")} <= known


def test_the_captures_of_the_examples_are_told() -> None:
    told = {name.strip("`"): ROOT / path.strip("`") for name, path, _ in _rows("The first answer")}
    assert told == DUMPS


def test_known_causes_are_read(folder: Path) -> None:
    assert [cause.name for cause in read_causes("causes.toml")]


@pytest.mark.parametrize("command", _spans(r"(PYTHON=\S+ VENV=\S+ )?(scripts/|\.ci/)"))
def test_scripts_are_there_and_take_what_is_given(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for word in command.split() if not re.match(r"[A-Z]+=", word)]
    assert (ROOT / words[0]).exists()
    text = ""
    if words[0] == "scripts/vmlab" and len(words) > 1:
        with pytest.raises(SystemExit) as ended:
            vmlab([words[1], "--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
    elif words[0] == "scripts/bench":
        text = _help("scripts/bench.py")
    elif words[0] == "scripts/test":
        text = _help("-m", "pytest")
    assert [word for word in words[1:] if word.startswith("-") and word not in text] == []


@pytest.mark.parametrize("command", _spans(r"python (-m|scripts/)"))
def test_modules_are_there_and_take_what_is_given(command: str) -> None:
    words = command.split()[1:]
    module = words[:2] if words[0] == "-m" else words[:1]
    text = _help(*module)
    options = [word for word in words[len(module) :] if word.startswith("-")]
    assert [option for option in options if option not in text] == []


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_files_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w./]+(?:\.py|/))`", text))
    sources = ("drgn_slabtype", "scripts", "tests")
    files = {path for room in sources for path in (ROOT / room).rglob("*.py")}
    there = {path.name for path in files}
    missing = [one for one in named if not (one in there if "/" not in one else _exists(one))]
    assert len(named) > 10
    assert missing == []


def _exists(path: str) -> bool:
    return any(
        (ROOT / room / path).exists() for room in ("", "drgn_slabtype", "drgn_slabtype/allocators")
    )


@cache
def _help(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words, "--help"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
