# SPDX-License-Identifier: LGPL-2.1-or-later
"""At a prompt, answers are short tables with addresses in hexadecimal; they are lists, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from drgn import Program

import drgn_slabtype as lib
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.commands import COMMANDS
from drgn_slabtype.diff import diff
from drgn_slabtype.findings import Finding
from drgn_slabtype.records import Rows, line, table

PACKAGE = Path(lib.__file__).parent
OBJECT = 0xFFFF8880008E2048

ANSWERS: Dict[str, Callable[[Program], Any]] = {
    "check": check,
    "pages": lambda prog: lib.census(prog, flags=True, runs=True),
    "page": lambda prog: lib.page_info(prog, OBJECT),
    "caches": lib.caches,
    "objects": lambda prog: lib.objects(prog, "kmalloc-64"),
    "slabs": lambda prog: lib.slabs(prog, "kmalloc-64", slab=OBJECT),
    "object": lambda prog: lib.slab_object(prog, OBJECT, contents=64),
    "what": lambda prog: lib.what(prog, OBJECT),
    "stacks": lib.stacks,
    "owners": lambda prog: lib.owners(prog, "kmalloc-64"),
    "refs": lambda prog: lib.refs(prog, OBJECT),
    "layout": lib.page_type_layout,
    "decode": lambda prog: lib.decode(0xFFEFFFFA),
    "diff": lambda prog: diff(prog, prog),
    "explain": lambda prog: lib.explain(),
}


@pytest.fixture(scope="module")
def prog() -> Program:
    """The kernel that ships with the package."""
    (path,) = (PACKAGE / "captures").glob("*rfc*")
    return open_capture(str(path))


def test_every_command_of_the_prompt_is_looked_at() -> None:
    others = {"stacks", "owners", "decode"}
    assert {c.name for c in COMMANDS if c.prompt} - others <= set(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("columns", [80, 120])
def test_what_is_printed_is_short(
    name: str, columns: int, prog: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = repr(ANSWERS[name](prog))
    assert text.count("\n") < 30
    assert len(text) < 4000
    # No address as a decimal number, no columns of numpy, no default.
    assert not re.search(r"(?<![\w.])\d{16,}(?!\w)", text)
    assert "array(" not in text
    assert "None" not in text
    if text.count("\n") > 3:
        *rows, last = text.split("\n")
        assert all(len(row) <= columns for row in rows[1:])
        assert len(last) <= columns or last.startswith("…")


def test_answers_are_lists(prog: Program) -> None:
    found = lib.caches(prog)
    assert [cache.name for cache in found[:10]] == [cache.name for cache in found][:10]
    assert isinstance(found[:10], list)
    assert found[-1].memory <= found[0].memory
    assert len(found) == len(list(found))
    objects = lib.objects(prog, "kmalloc-64")
    assert objects[3:9:2] == list(objects)[3:9:2]
    for rows in (found[:10], objects[:10]):
        assert repr(rows).count("\n") == 9 + len(["heading"]) + ("…" in repr(rows))
        assert repr(rows[:2]).count("\n") == 2 + ("…" in repr(rows[:2]))


def test_lists_of_a_report_are_tables(prog: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    report = check(prog)
    assert repr(report.findings) == "[]"
    heading, *rows, _ = repr(report.caches[:2]).split("\n")
    assert (heading.split()[0], len(rows)) == ("NAME", 2)
    report.findings = [Finding("freelist-cycle", f"object {n}") for n in range(3)]
    report.findings.append(Finding("freelist-cycle", "object 3"))
    assert repr(report.findings).split("\n")[-1].split() == ["freelist-cycle", "object", "3"]
    assert len(repr(report.findings[:2]).split("\n")) == 3


def test_a_table_begins_with_what_matters(prog: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    heading, first, second, more = repr(lib.caches(prog)[:2]).split("\n")
    assert heading.split()[:4] == ["NAME", "ADDRESS", "IN", "USE"]
    cache = lib.caches(prog)[0]
    assert first.split()[:4] == [cache.name, hex(cache.address), str(cache.in_use), str(3410)]
    assert len({len(row) for row in (heading, first, second)}) == 1
    assert more.startswith("… also ")


def test_one_record_is_a_line_of_what_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    finding = Finding("freelist-cycle", "object 3 again", cache="dentry", slab=0xFFFFEA0000023880)
    assert repr(finding) == (
        "Finding(code='freelist-cycle', message='object 3 again', cache='dentry', "
        "slab=0xffffea0000023880)"
    )
    assert line(lib.decode(5, "rfc-v3")[0]) == repr(lib.decode(5, "rfc-v3")[0])


def test_one_record_is_a_table_where_a_line_is_too_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    message = "object 3 again, after 12 others that are on the list"
    finding = Finding("freelist-cycle", message, cache="dentry", slab=0xFFFFEA0000023880)
    assert repr(finding).split("\n") == [
        "Finding",
        "  code     freelist-cycle",
        "  message  object 3 again, after 12 others that",
        "           are on the list",
        "  cache    dentry",
        "  slab     0xffffea0000023880",
    ]


@pytest.mark.parametrize("name", ["check", "page", "object", "layout"])
def test_answers_about_one_thing_are_tables(
    name: str, prog: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    heading, *rows = repr(ANSWERS[name](prog)).split("\n")
    assert heading.isidentifier()
    assert len(rows) > 3
    assert all(row.startswith("  ") and len(row) <= 80 for row in rows)


def test_rows_of_anything_else_and_very_many() -> None:
    assert repr(Rows()) == "[]"
    assert repr(Rows(["a", 1])) == "['a', 1]"
    findings = [Finding("freelist-cycle", f"object {n}") for n in range(50)]
    lines = table(findings, 50).split("\n")
    assert lines[1].split()[0] == "freelist-cycle"
    assert lines[-1].startswith("… 30 more rows")
    assert Rows(findings) == findings
