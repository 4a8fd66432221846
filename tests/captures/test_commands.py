# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands as users type them: what is said of words that are none, and of files."""

from __future__ import annotations

from pathlib import Path

import pytest

import drgn_slabtype
from drgn_slabtype import cli

(SHIPPED,) = (Path(drgn_slabtype.__file__).parent / "captures").glob("*rfc*")


def said_of(capsys: pytest.CaptureFixture[str], *words: str, status: int = 2) -> str:
    """Return the one line on standard error of a command that fails."""
    assert cli.main([*words, "-c", str(SHIPPED)]) == status
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert line.startswith(f"drgn-slabtype {words[0]}: ")
    return line.rstrip("\n").partition(": ")[2]


@pytest.mark.parametrize("command", ["object", "what", "page", "refs", "check"])
def test_what_is_no_symbol_is_told(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    misspelt = said_of(capsys, command, "slab_cachs+0x10")
    assert misspelt.startswith("there is no symbol slab_cachs; did you mean slab_caches or ")
    cache = said_of(capsys, command, "kmalloc-64")
    assert cache.startswith("there is no symbol kmalloc-64, but a slab cache: caches kmalloc-64, ")
    assert "did you mean the slab cache dentry" in said_of(capsys, command, "dentyr")
    assert said_of(capsys, command, "xyzzyxyzzy") == "there is no symbol xyzzyxyzzy"


@pytest.mark.parametrize("command", ["slabs", "objects", "caches", "owners", "stacks"])
def test_what_is_no_slab_cache_is_told(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    misspelt = said_of(capsys, command, "dentyr")
    assert misspelt == "there is no slab cache named dentyr; did you mean dentry?"


def test_file_that_cannot_be_written_hides_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pages", "-c", str(SHIPPED), "--kpageflags", "/dev/full"]
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert said.out.startswith("TYPE ")
    assert said.err == "drgn-slabtype pages: /dev/full: No space left on device\n"
