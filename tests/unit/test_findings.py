# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every code is explained, nothing else is, and everywhere in the same words."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path
from typing import Dict, Iterator, Set

import explanations
import pytest

from drgn_slabtype import __all__ as public
from drgn_slabtype import cli
from drgn_slabtype.answers.explanations import explain
from drgn_slabtype.codes import CATALOGUE, FAMILIES, KINDS
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.errors import ArgumentError
from drgn_slabtype.report import json, text

ROOT = Path(__file__).parents[2]
# What makes findings, or what becomes some; the first argument is the code.
_MAKERS = {"Finding", "Suspect", "Code", "finding", "suspect", "_suspect", "wrong_slabs", "Counter"}


def _modules() -> Iterator[ast.AST]:
    for path in sorted((ROOT / "drgn_slabtype").rglob("*.py")):
        if path.parent.name != "codes":
            yield ast.parse(path.read_text(encoding="utf-8"))


def _made() -> Set[str]:
    # Codes that are given to what makes findings, in whichever branch.
    found = set()
    for tree in _modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                if name in _MAKERS:
                    found |= _strings(node.args[0])
    return {one for one in found if re.fullmatch(r"[a-z]+(-[a-z]+)*", one)}


def _strings(node: ast.AST) -> Set[str]:
    # A comparison is no code, nor is a sentence.
    compared = {
        id(part)
        for one in ast.walk(node)
        if isinstance(one, (ast.Compare, ast.JoinedStr))
        for part in ast.walk(one)
    }
    return {
        part.value
        for part in ast.walk(node)
        if isinstance(part, ast.Constant)
        and isinstance(part.value, str)
        and id(part) not in compared
    }


def _spelled() -> Set[str]:
    # Every string of the program that looks like a code.
    return {
        node.value
        for tree in _modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    } & set(CATALOGUE)


def test_every_code_that_is_made_is_explained() -> None:
    made = _made()
    assert len(made) > 20
    assert made - set(CATALOGUE) == set()


def test_every_code_that_is_explained_is_made() -> None:
    reserved = {name for name, code in CATALOGUE.items() if code.reserved}
    assert reserved == {"vmcoreinfo-differs", "not-captured"}
    assert set(CATALOGUE) - _spelled() == reserved


def test_sets_of_codes_have_nothing_else() -> None:
    # What is compared with a code that there is not is never met.
    seen = 0
    for path in sorted((ROOT / "drgn_slabtype" / "rules").glob("*.py")):
        module = import_module(f"drgn_slabtype.rules.{path.stem}")
        for name, value in vars(module).items():
            if isinstance(value, (dict, frozenset, list, set, tuple)):
                spelled = {one for one in value if isinstance(one, str) and "-" in one}
                if spelled & set(CATALOGUE):
                    seen += 1
                    assert spelled - set(CATALOGUE) == set(), f"{module.__name__}.{name}"
    assert seen > 10


def test_nothing_is_left_unsaid() -> None:
    for name, code in CATALOGUE.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
        assert code.meaning.endswith(".")
        assert "\n" not in code.meaning
        assert code.promise.endswith(".")
        assert code.causes
        assert code.look
        assert not any(part.endswith(".") for part in (*code.causes, *code.look)), name
        assert code.more == "" or code.more.endswith(".")
        assert code.rule in FAMILIES
        assert code.measure is None or code.measure.kind in KINDS
        for commit in code.commits:
            assert re.fullmatch("[0-9a-f]{12}", commit.hash)
            assert re.fullmatch(r"[4-7]\.[0-9]+", commit.release)


def test_commits_are_told_newest_last_and_once() -> None:
    subjects: Dict[str, str] = {}
    for code in CATALOGUE.values():
        releases = [tuple(map(int, commit.release.split("."))) for commit in code.commits]
        assert releases == sorted(releases)
        for commit in code.commits:
            assert subjects.setdefault(commit.hash, commit.subject) == commit.subject


_STANDS_FOR = {"ADDRESS": "ffff888003a1c480", "WORD": "1", "PFN": "403", "NODE": "0", "CPU": "0"}


def test_commands_that_are_recommended_are_commands() -> None:
    names = {command.name for command in COMMANDS}
    tried = 0
    for code in CATALOGUE.values():
        for told in code.look:
            for quoted in re.findall("`([^`]+)`", told):
                words = [
                    re.sub("[A-Z]{3,}", lambda word: _STANDS_FOR.get(word[0], word[0]), one)
                    for one in quoted.split()
                ]
                if words[0] in names and (len(words) > 1 or words[0] in ("layout", "caches")):
                    assert cli.arguments(words).command.name == words[0]
                    tried += 1
    assert tried > 50


def test_the_page_is_what_the_codes_say() -> None:
    assert explanations.PAGE.read_text(encoding="utf-8") == explanations.page()


def test_page_has_a_section_for_every_code() -> None:
    titles = re.findall(r"^### (.+)$", explanations.page(), re.MULTILINE)
    assert sorted(titles) == sorted(CATALOGUE)


def test_patterns_and_families_are_codes_too() -> None:
    assert "explain" in public
    assert [one.code for one in explain("slab-mark-*")] == ["slab-mark-lost", "slab-mark-stray"]
    assert {one.rule for one in explain("claim")} == {"claim"}
    assert len(explain()) == len(CATALOGUE)
    some = explain(most=3)
    assert ([one.code for one in some], some.found) == (list(CATALOGUE)[:3], len(CATALOGUE))
    assert text.explain(some).endswith(f"{len(CATALOGUE) - 3} more codes\n")
    assert text.explain(explain(most=30)).endswith(f"{len(CATALOGUE) - 30} more codes\n")
    assert "more code" not in text.explain(explain())
    assert [one.code for one in explain("redzone", "poison", "redzone")] == ["redzone", "poison"]


def test_an_unknown_code_names_those_that_are_near() -> None:
    with pytest.raises(ArgumentError, match="did you mean freelist-cycle"):
        explain("freelist-cylce")
    with pytest.raises(
        ValueError,
        match=r"there is no code xyzzy; families of codes are word, .*; all codes: explain",
    ):
        explain("xyzzy")
    with pytest.raises(ValueError, match="there is no code 5; families of codes are"):
        explain(5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"there is no code contain; did you mean container or "):
        explain("contain")


def test_one_code_is_told_in_full_and_many_in_a_table() -> None:
    one = text.explain(explain("count-mismatch"))
    assert one.startswith("count-mismatch\n  The slab's count disagrees with its freelist.")
    assert "What the kernel promises" in one
    assert "- `d122019bf061" not in one
    assert 'd122019bf061 ("mm: Split slab into its own type"), Linux 5.17' in one
    assert max(map(len, one.splitlines())) <= 80
    table = text.explain(explain()).splitlines()
    assert len(table) == len(CATALOGUE) + 1
    assert table[0].split() == ["CODE", "RULE", "MEANING"]


def test_json_has_all_of_it() -> None:
    told = json.explain(explain("redzone"))
    assert '"hash": "946fa0dbf2d8"' in told
    assert '"measure": {\n    "kind": "bytes",\n    "unit": null\n   }' in told
