# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands as users type them: what is said of words that are none, and of files."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import pytest
from drgn import Program, Symbol, SymbolBinding, SymbolKind

import drgn_slabtype
from drgn_slabtype import ArgumentError, cli
from drgn_slabtype.answers.names import find_symbol
from drgn_slabtype.capture import open_capture
from drgn_slabtype.machine import machine

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


@pytest.mark.parametrize("kind", [SymbolKind.FILE, SymbolKind.SECTION])
def test_source_files_and_sections_are_no_symbols(kind: SymbolKind) -> None:
    prog = open_capture(str(SHIPPED))
    names = {"slab_caches.c": kind, "slab_cachez": SymbolKind.OBJECT}

    def find(prog: Program, name: Optional[str], address: Optional[int], one: bool) -> List[Symbol]:
        return [
            Symbol(known, 0, 8, SymbolBinding.LOCAL, is_a)
            for known, is_a in names.items()
            if name in (None, known) and address is None
        ]

    prog.register_symbol_finder("files", find, enable_index=0)
    kernel = machine(prog)
    assert find_symbol(kernel, "slab_cachez") == 0
    with pytest.raises(ArgumentError, match=r"there is no symbol slab_caches\.c; did you mean s"):
        find_symbol(kernel, "slab_caches.c")
    with pytest.raises(ArgumentError, match=r"slab_cachezz; did you mean slab_cachez or") as told:
        find_symbol(kernel, "slab_cachezz")
    assert ".c" not in str(told.value)


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
