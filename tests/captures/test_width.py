# SPDX-License-Identifier: LGPL-2.1-or-later
"""Text on a terminal: no wider than it is, and what tables leave out is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Set

import pytest
from drgn import Program

from drgn_slabtype import cli
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.command import answer
from drgn_slabtype.commands import verdict
from drgn_slabtype.report import output, present
from drgn_slabtype.report.text.lines import table, within
from drgn_slabtype.report.views import Column, Grid

from ..recipes.overlay import overlay
from ..recipes.suites import suite_of

HERE = Path(__file__).parent

TABLES = (
    "caches",
    "caches kmalloc-* --per-node --per-cpu --aliases",
    "slabs kmalloc-64",
    "slabs kmalloc-64 --slab {object}",
    "stacks kmalloc-64 -n 9",
    "stacks kmalloc-64 --by words",
    "owners kmalloc-64",
    "pages",
    "refs slab_caches",
    "diff {report} {report}",
)


LINES = (
    "object {object} --bytes 256 --neighbours 2",
    "object slab_caches",
    "what slab_caches --at {object}",
    "page {object}",
    "pages --flags --list -n 20 --map",
    "layout",
    "check",
    "decode f5000000",
    "explain count-mismatch",
)


@pytest.fixture(scope="module")
def prog() -> Program:
    return open_capture(str(HERE / "debian-7-debug" / "capture.xz"))


@pytest.fixture(scope="module")
def report(prog: Program, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("reports") / "report.json"
    path.write_text("".join(present("check", check(prog), "json")))
    return str(path)


def _text(prog: Program, line: str, report: str = "") -> str:
    line = line.format(object="ffff88a1c43c4340", report=report)
    args = cli._parser().parse_args(line.split())
    command: Any = args.command
    return "".join(answer(command, lambda: prog, args).text)


@pytest.mark.parametrize("columns", [80, 120, 200])
@pytest.mark.parametrize("line", [*TABLES, *LINES])
def test_no_line_is_wider_than_the_terminal(
    prog: Program, report: str, line: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "width", lambda path: columns)
    lines = _text(prog, line, report).splitlines()
    assert [one for one in lines if len(one) > columns] == []
    headings = [one for one in lines if one.isupper()]
    if columns == 80 and line == "caches":
        everything = _text(prog, f"{line} --all", report).splitlines()
        left_out = " ".join(lines).partition("left out: ")[2]
        assert "SLABS ON; --all shows them" in left_out
        assert {"ALLOCATED", "FREE", "TOTAL", "MEMORY"} <= set(headings[0].split())
        assert headings[0] != everything[0]
        assert "SLABS ON" in everything[0]


@pytest.mark.parametrize("columns", [30, 80])
@pytest.mark.parametrize("line", [line for line in TABLES if not line.startswith("caches")])
def test_addresses_are_whole_at_any_width(
    prog: Program, report: str, line: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def addresses(text: str) -> Set[str]:
        return set(re.findall(r"0x[0-9a-f]{16}", text))

    everything = _text(prog, line, report)
    monkeypatch.setattr(output, "width", lambda path: columns)
    told = _text(prog, line, report)
    assert addresses(told) <= addresses(everything)
    assert not re.search(r"(?<!\+)0x[0-9a-f]{0,15}$", told, re.M)


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_rows_of_bytes_fit_and_have_all(
    prog: Program, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = open_capture(str(HERE / "broken" / "slub-6.1-plain-P-overflow-word.xz"))
    line = "object ffff888000b917e0 --bytes 100"
    row = re.compile(r" [+-]\d+ ([0-9a-f]{16}): ((?:[0-9a-f]{2}\b ?)+|the same)")

    def rows(text: str) -> Any:
        found: Any = []
        for at, told in row.findall(text):
            if told == "the same":
                start, alike = found[-1]
                found[-1] = start, (alike * 32)[: int(at, 16) + 1 - start]
            else:
                found.append((int(at, 16), told.split()))
        return found

    def bytes_of(text: str) -> Any:
        return {at + n: byte for at, told in rows(text) for n, byte in enumerate(told)}

    def widest(text: str) -> int:
        return max(len(told.split()) for _, told in row.findall(text) if told != "the same")

    everything = _text(broken, line)
    monkeypatch.setattr(output, "width", lambda path: columns)
    told = _text(broken, line)
    assert widest(told) == {60: 4, 80: 8, 120: 16}[columns] <= widest(everything)
    assert bytes_of(told) == bytes_of(everything)
    assert told.count("^^") == everything.count("^^") == 8
    assert max(map(len, told.splitlines())) <= columns


@pytest.mark.parametrize("word", ["f5000000", "ffeffffa", "0"])
def test_lists_of_types_are_broken_between_two(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = cli._parser().parse_args(["decode", word])
    everything = "".join(answer(args.command, lambda: None, args).text)
    monkeypatch.setattr(output, "width", lambda path: 80)
    _, heading, *rows = "".join(answer(args.command, lambda: None, args).text).splitlines()
    assert max(map(len, rows)) <= 80
    # Whatever goes on in the next line does so in its own column.
    start = heading.index("TYPES")
    assert all(row[:start].strip() or not row.startswith("  " + row.strip()) for row in rows)
    names = set(re.findall(r"[a-z_]+", everything))
    assert set(re.findall(r"[a-z_]+", "\n".join(rows))) - names == set()


@pytest.mark.parametrize("columns", [60, 80])
def test_a_long_name_leaves_a_table_whole(columns: int) -> None:
    name = f"{'long_' * 12}name"
    headings = [Column("address"), Column("points to"), Column("what")]
    rows = [
        ["0xffff888000000000", "0xffff888000001000", told] for told in (f"{name}+0x18", "a+0x8")
    ]
    lines = within(columns, lambda: table(Grid(headings, rows)))
    assert max(map(len, lines)) <= columns
    told = [line[40:].strip() for line in lines[1:]]
    assert ("".join(told[:-1]), told[-1]) == (f"{name}+0x18", "a+0x8")
    # The offset is in one line.
    assert told[-2].endswith("+0x18")
    ends = [["0xffff888000000000", 5, "behind 0xffffffffc02ee000-0xffffffffc02f2000, 8 pages"]]
    lines = within(54, lambda: table(Grid(headings, ends)))
    assert max(map(len, lines)) <= 54
    assert {"0xffffffffc02ee000-", "0xffffffffc02f2000,"} <= set(" ".join(lines).split())


def test_a_verdict_in_place_of_a_file_is_no_wider_than_the_terminal(
    prog: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "width", lambda path: 80 if path is None else None)
    words = ["check", "--cache", "kmalloc-64", "-o", str(tmp_path / "nonexistent" / "x")]
    args = cli._parser().parse_args(words)
    found = answer(args.command, lambda: prog, args)
    told, wide = (verdict(args.command, found, wide) for wide in (False, True))
    assert isinstance(told, str)
    assert max(map(len, told.splitlines())) <= 80
    assert wide == found.text != told


def test_what_goes_on_stands_under_what_it_goes_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = open_capture(str(HERE / "broken" / "slub-6.1-plain-P-overflow-word.xz"))
    monkeypatch.setattr(output, "width", lambda path: 80)
    lines = _text(broken, "check").splitlines()
    first = next(at for at, one in enumerate(lines) if one.startswith("1. "))
    assert lines[first + 1].startswith("     bytes from")
    assert lines[-1].startswith("  ")
    told = _text(broken, "object ffff888000b917e0").splitlines()
    at = next(at for at, one in enumerate(told) if "contradiction" in one)
    assert told[at + 1].index(told[at + 1].strip()) == told[at].index("lab_victim")


def test_where_free_objects_are_has_room_beside_sheaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "width", lambda path: 120)
    other = open_capture(str(HERE / "debian-7-plain" / "capture.xz"))
    lines = _text(other, "caches dentry kmalloc-96").splitlines()
    assert lines[0].endswith("FREE IN")
    assert all(len(one) <= 120 for one in lines)
    assert "main sheaf" in " ".join(lines)


@pytest.mark.parametrize("name", ["debian-7-plain", "debian-7-kfence"])
def test_the_sum_adds_up_at_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "width", lambda path: 80)
    other = open_capture(str(HERE / name / "capture.xz"))
    heading, *rows = _text(other, "caches -n 3").splitlines()
    last = next(one for one in rows if one.startswith("total "))
    sums = dict(zip(heading.split()[1:], last.split()[1:]))
    parts = [int(sums[part]) for part in ("ALLOCATED", "FREE", "WAITING")]
    assert parts[2] > 0
    assert sum(parts) == int(sums["TOTAL"])
    assert ("KFENCE" in sums) == name.endswith("kfence")


def test_nothing_is_left_out_where_there_is_no_terminal(prog: Program) -> None:
    assert _text(prog, "caches") == _text(prog, "caches --all")
    assert "left out:" not in _text(prog, "caches")


def test_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "93")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert output.width(None) == 93
    assert output.width("report.txt") is None
    monkeypatch.setattr("sys.stdout.isatty", lambda: False, raising=False)
    assert output.width(None) is None


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("debian-7-plain", "next-one-bit-flipped"),
        ("debian-7-plain", "next-garbage"),
        ("debian-7-debug", "next-garbage"),
        ("slab-6.1-rfc3-plain", "index-out-of-range"),
    ],
)
@pytest.mark.parametrize("columns", [80, 120])
def test_tables_of_damaged_caches_are_whole(
    name: str, recipe: str, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = open_capture(str(HERE / name / "capture.xz"))
    suite = suite_of(broken)
    overlay(broken, suite.recipes[recipe](suite.open(broken)).writes)
    root = next(one for one in check(broken).findings if one.because is None)
    monkeypatch.setattr(output, "width", lambda path: columns)
    for line in (f"slabs {root.cache}", f"caches {root.cache}", "check", f"owners {root.cache}"):
        lines = _text(broken, line).splitlines()
        assert [one for one in lines if len(one) > columns] == [], line
        if line.startswith("slabs"):
            heading, *rows = lines[1:]
            assert {"SLAB", "OBJECTS", "IN", "USE", "FREE", "FINDING"} <= set(heading.split())
            # Each slab has its line, and a finding stands at the end of its own.
            assert all(row.startswith("0xf") for row in rows if "left out" not in row)
            assert any(row.endswith(f" {root.code}") for row in rows)
