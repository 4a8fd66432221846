# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Examples of README.md and of the pages in docs/, and what they print
--------------------------------------------------------------------

A block of kind ``console`` or ``pycon`` is a session: lines that begin with ``$``
are typed in a shell, those that begin with ``>>>`` at the drgn prompt, where ``%``
is a command; all else is output. The dumps of the examples are captures that the
tests have, by the names in :data:`DUMPS`.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from difflib import unified_diff
from pathlib import Path
from typing import Any, Callable, ContextManager, Dict, Iterator, List, NamedTuple, Sequence
from unittest.mock import patch

from drgn import Program
from drgn.cli import default_globals
from drgn.commands import run_command

import drgn_slabtype.plugin  # noqa: F401
from drgn_slabtype.capture import open_capture
from drgn_slabtype.cli import arguments
from drgn_slabtype.cli import main as run
from drgn_slabtype.report import output as reports

ROOT = Path(__file__).parents[1]
_CAPTURES = ROOT / "tests" / "captures"
DUMPS = {
    "vmcore": ROOT / "drgn_slabtype" / "captures" / "slab-6.1-rfc3-plain.xz",
    "debug.vmcore": _CAPTURES / "debian-7-debug" / "capture.xz",
    "overrun.vmcore": _CAPTURES / "broken" / "slub-6.1-plain-P-overflow-word.xz",
}
"""What examples call a dump, and the capture of that dump."""

_WRITTEN = 1764547200  # seconds: 2025-12-01
_ANSWERS = (0, 1, 3)  # consistent, findings, incomplete
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SESSIONS = ("console", "pycon")
# What differs from machine to machine, or with every way to read less; lines may end in it.
_VARYING = re.compile(
    r"read\s+[\d.]+\s+\w+\s+in\s+\d+\s+reads(,\s+[\d.]+\s+\w+\s+of\s+memory\s+taken)?"
    r"|[\d.]+\s+\w+\s+of\s+memory"
    r"|\d{4}-\d\d-\d\d(T[\d:]+Z)?|[\d.]+ s of work"
)
# As at a terminal of so many columns; what is no terminal has all columns of all tables.
_COLUMNS = 120
# In a process of its own, so that it takes what it takes.
_SHELL = f"""
import sys
from drgn_slabtype.report import output
output.width = lambda path: {_COLUMNS} if path is None else None
from drgn_slabtype.cli import main
sys.exit(main())
"""


class Block(NamedTuple):
    """A fenced block of a page."""

    kind: str
    text: str


def pages() -> List[Path]:
    """Return every page for people: README.md, CONTRIBUTING.md and those in docs/."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> List[Block]:
    """Return the fenced blocks of a page that say what they are."""
    return [Block(*match.groups()) for match in _BLOCK.finditer(text)]


def without_blocks(text: str) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def renewed(text: str) -> str:
    """Return a page with the output that its sessions have now."""
    with tempfile.TemporaryDirectory() as folder:
        session = Session(Path(folder))

        def block(match: re.Match[str]) -> str:
            kind, old = match.groups()
            new = session.transcript(old) if kind in _SESSIONS else old
            return f"```{kind}\n{new}```"

        return _BLOCK.sub(block, text)


def same(one: str, other: str) -> bool:
    """Tell whether two texts differ in nothing but what always differs."""
    return not difference(one, other)


def difference(one: str, other: str) -> List[str]:
    """Return the lines in which two texts differ, but for what always differs."""
    before, after = (_VARYING.sub("…", text).splitlines() for text in (one, other))
    lines = unified_diff(before, after, lineterm="", n=0)
    return [line for line in lines if line[0] in "+-"][2:]


def link_dumps(folder: Path) -> None:
    """Make what examples call dumps, in a folder; captures of them, which need no vmlinux."""
    for name, capture in DUMPS.items():
        (folder / name).symlink_to(capture)


def stand_in(words: Sequence[str]) -> int:
    """
    Run ``drgn-slabtype`` as pages show it, where there is no machine that runs.

    A capture takes the place of guests and of the running kernel, and what goes on
    without end has two rounds, without pauses.

    :return: 0 where there is an answer, else the exit status.
    """
    kept = list(words)
    for option, value in (("--qemu", True), ("-k", False)):
        if option in kept:
            at = kept.index(option)
            del kept[at : at + 1 + value]
    if "--watch" in kept:
        kept[kept.index("--watch") + 1] = "0"
        kept += [] if "--rounds" in kept else ["--rounds", "2"]
    if arguments(kept).command.target and "-c" not in kept:
        kept += ["-c", str(DUMPS["overrun.vmcore"])]
    status = run(kept)
    return 0 if status in _ANSWERS else status


class Session:
    """What is typed on one page, in a shell and in drgn, in a folder where the checkout is seen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        link_dumps(folder)
        for path in (_CAPTURES / "broken").iterdir():
            # By which dumps are told apart that do not tell when they crashed.
            os.utime(path, (_WRITTEN, _WRITTEN))
        for path in ROOT.iterdir():
            if path.name not in DUMPS:
                (folder / path.name).symlink_to(path)
        self._names = _names(DUMPS["vmcore"])
        self._status = 0

    def transcript(self, block: str) -> str:
        """Type what a block shows, and return it with its output."""
        lines: List[str] = []
        before = os.getcwd()
        os.chdir(self._folder)
        try:
            for typed in _typed(block.splitlines()):
                lines += [*typed, *self._output(typed).splitlines()]
        finally:
            os.chdir(before)
        text = "".join(f"{line}\n" for line in lines)
        return text.replace(f"{self._folder}/", "").replace(f"{ROOT}/", "")

    def _output(self, typed: Sequence[str]) -> str:
        if typed[0].startswith("$ "):
            return self._in_shell(shlex.split(typed[0][2:]))
        return self._at_prompt("\n".join(line[4:] for line in typed))

    def _in_shell(self, words: Sequence[str]) -> str:
        program, *rest = words
        if program == "drgn":
            self._names = _names(Path(rest[rest.index("-c") + 1]))
            return ""
        if [program, *rest] == ["echo", "$?"]:
            return f"{self._status}\n"
        if program != "drgn-slabtype":
            raise ValueError(f"{program} is no program of the examples")
        done = subprocess.run(
            [sys.executable, "-c", _SHELL, *rest],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self._status = done.returncode
        return done.stdout

    def _at_prompt(self, source: str) -> str:
        def command() -> None:
            self._names["_"] = run_command(self._names["prog"], source[1:])

        def statement() -> None:
            exec(compile(source + "\n", "<prompt>", "single"), self._names)

        return printed(command if source.startswith("%") else statement, self._display)

    def _display(self, value: object) -> None:
        if value is not None:
            print(repr(value))
            self._names["_"] = value


def printed(
    function: Callable[[], object], display: Callable[[object], None] = sys.displayhook
) -> str:
    """Return what a terminal shows of a function, of an exception the last line."""
    output = io.StringIO()
    before, sys.displayhook = sys.displayhook, display
    try:
        with redirect_stdout(output), redirect_stderr(output), _terminal():
            function()
    except Exception as error:
        output.write(f"{type(error).__name__}: {error}\n")
    finally:
        sys.displayhook = before
    return output.getvalue()


def _terminal() -> ContextManager[object]:
    return patch.object(reports, "width", lambda path: _COLUMNS if path is None else None)


def _names(capture: Path) -> Dict[str, Any]:
    prog: Program = open_capture(str(capture))
    return default_globals(prog)


def _typed(lines: Sequence[str]) -> Iterator[List[str]]:
    # Each command or statement with the lines that go on with it.
    typed: List[str] = []
    for line in lines:
        if line.startswith(("$ ", ">>> ")):
            if typed:
                yield typed
            typed = [line]
        elif line.startswith("... ") and typed and typed[-1].startswith((">>> ", "... ")):
            typed.append(line)
    if typed:
        yield typed
