# SPDX-License-Identifier: LGPL-2.1-or-later
"""What users type by habit leads to what stands for it here."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, List, Optional

import pytest
from drgn import Program
from drgn.commands import CommandError, run_command

from drgn_slabtype import cli
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.habits import CRASH, of_crash

import drgn_slabtype.plugin as plugin  # isort: skip

from ..synthetic.elf_files import kernel_program

ROOT = Path(__file__).parents[2]

HABITS = [
    ("kmem -s", "caches"),
    ("kmem -s dentry kmalloc-64", "caches dentry kmalloc-64"),
    ("kmem -s -I dentry,filp", "caches"),
    ("kmem -I dentry -s", "caches"),
    ("kmem -I dentry", "caches"),
    ("kmem -S dentry", "slabs dentry"),
    ("kmem -S", "caches"),
    ("kmem -S ffff888003a1c480", "object ffff888003a1c480"),
    ("kmem -s 0xffff888003a1c480", "object 0xffff888003a1c480"),
    ("kmem ffff888003a1c480", "object ffff888003a1c480"),
    ("kmem -p", "pages"),
    ("kmem -p ffff888003a1c480", "page ffff888003a1c480"),
    ("kmem -i", "pages"),
    ("kmem -f", "pages -t buddy -l"),
    ("search -k ffff888003a1c480", "refs ffff888003a1c480"),
    ("kmem", None),
    ("kmem -z", None),
    ("search", None),
    ("caches", None),
    ("", None),
]


@pytest.mark.parametrize(("crash", "ours"), HABITS)
def test_what_stands_for_a_command_of_crash(crash: str, ours: Optional[str]) -> None:
    meant = of_crash(crash.split())
    assert (meant and meant.spelled()) == ours
    if ours is not None:
        # It is a command, with these arguments.
        cli.arguments(shlex.split(ours))


def test_the_table_of_readme_agrees() -> None:
    rows = re.findall(
        r"^\|[^|]*\|([^|]*)\|[^|]*\|([^|]*)\|$", (ROOT / "README.md").read_text(), re.M
    )
    told: List[str] = []
    for ours, crash in rows:
        for words in re.findall(r"`((?:kmem|search)[^`]*)`", crash):
            meant = of_crash(words.replace("ADDRESS", "0xffff888003a1c480").split())
            if "reading it" in crash:
                continue
            assert meant is not None
            assert re.search(rf"`{meant.name}\b", ours), f"{words}: {ours}"
            told += words.split()
    assert {"-s", "-S", "-p", "-i", "-I", "ADDRESS", "search"} <= set(told)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("cache", "there is no command cache; did you mean caches or check?"),
        ("slabcaches", "there is no command slabcaches; did you mean caches"),
        ("zzz", "there is no command zzz; there are check, pages, page,"),
        ("kmem -s dentry", 'did you mean "drgn-slabtype caches dentry"?'),
        ("kmem", "kmem is a command of crash: here are caches, slabs, pages"),
    ],
)
def test_the_shell_says_what_was_meant(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(words.split())
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert said in err


@pytest.fixture
def prog(tmp_path: Path) -> Program:
    """A kernel program without debug info."""
    return kernel_program(tmp_path)


def test_the_prompt_lists_the_commands(prog: Program, capsys: pytest.CaptureFixture[str]) -> None:
    def told(line: str) -> List[str]:
        assert run_command(prog, line) is None
        return capsys.readouterr().out.splitlines()

    every = told("slabhelp")
    assert [line.split()[0] for line in every] == [f"%{c.prompt}" for c in COMMANDS if c.prompt]
    assert all(len(line) <= 110 for line in every)
    assert [line.split()[0] for line in told("slabhelp slabo")] == [
        "%slabobjects",
        "%slabobject",
        "%slabowners",
    ]
    assert told("slabhelp kmem -S dentry") == ["%slabs dentry"]
    assert [line.split()[0] for line in told("slabhelp kmem")] == [
        "%pagetypes",
        "%dumppage",
        "%slabcaches",
        "%slabs",
        "%slabobject",
    ]
    assert [line.split()[0] for line in told("slabhelp search")] == ["%slabrefs"]
    assert told("slabhelp -h")[0].startswith("usage: slabhelp ")
    with pytest.raises(CommandError, match="no command here begins with zzz"):
        run_command(prog, "slabhelp zzz")


@pytest.mark.parametrize("word", CRASH)
def test_a_command_of_crash_leads_on(word: str, prog: Program) -> None:
    address = "ffff888003a1c480"
    ours = {"kmem": "%slabobject", "search": "%slabrefs"}[word]
    with pytest.raises(CommandError, match=f'did you mean "{ours} {address}"'):
        run_command(prog, f"{word} {address}")
    with pytest.raises(CommandError, match=f'did you mean "%slabhelp {word}"'):
        run_command(prog, word)


def test_a_command_of_drgns_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from drgn.commands import DEFAULT_COMMAND_NAMESPACE as namespace

    own: Any = object()
    for kept in ({"kmem": own}, None):
        monkeypatch.setattr(namespace, "_commands", kept, raising=False)
        if kept is None:
            monkeypatch.delattr(namespace, "_commands")
        plugin._register_crash("kmem")
        assert kept is None or kept == {"kmem": own}
