# SPDX-License-Identifier: LGPL-2.1-or-later
"""README.md and docs/ show what the program prints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from examples import blocks, pages, renewed, same
from pages import dead_links

ROOT = Path(__file__).parents[2]


_PAGES = ["docs/commands.md"] + [
    str(page.relative_to(ROOT))
    for page in pages()
    if {"console", "pycon"} & {block.kind for block in blocks(page.read_text(encoding="utf-8"))}
]


@pytest.mark.parametrize("page", _PAGES)
def test_examples_are_what_the_program_prints(page: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "readme.py"), "--check", str(ROOT / page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_pages_that_have_examples_are_found() -> None:
    assert {"README.md", "docs/prompt.md", "docs/questions.md"} < set(_PAGES)


def test_the_two_commands_for_a_fresh_clone_stand_side_by_side_near_the_top() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "| `scripts/demo` | `scripts/test` |" in lines[:20]


def test_an_example_that_prints_something_else_is_told() -> None:
    text = "```console\n$ drgn-slabtype decode 0 --layout rfc-v3\nnot this\n```\n"
    assert not same(text, renewed(text))
    assert "MEANING" in renewed(text)
    assert renewed(renewed(text)) == renewed(text)


def test_examples_at_the_prompt_run_and_keep_what_they_name() -> None:
    text = "```pycon\n>>> one = 1\n>>> for two in (one, 2):\n...     print(two)\n>>> 1 / 0\n```\n"
    assert renewed(text).splitlines()[4:7] == ["1", "2", ">>> 1 / 0"]
    assert "ZeroDivisionError: division by zero" in renewed(text)


def test_commands_at_the_prompt_are_drgns() -> None:
    text = "```console\n>>> %slablayout\n>>> _.allocator\n```\n"
    assert "page types  rfc-v3" in renewed(text)
    assert "'SLAB'" in renewed(text)


@pytest.mark.parametrize(
    ("link", "wrong"),
    [
        ("b.html#there", ""),
        ("#here", ""),
        ("https://www.kernel.org/", ""),
        ("b.html#gone", "no such place in it"),
        ("#gone", "no such place in it"),
        ("c.html", "no such file"),
    ],
)
def test_dead_links_are_told(link: str, wrong: str, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(f'<p id="here"><a href="{link}">x</a></p>')
    (tmp_path / "b.html").write_text('<h1 id="there">x</h1>')
    assert list(dead_links(tmp_path)) == ([f"a.html: {link}: {wrong}"] if wrong else [])
