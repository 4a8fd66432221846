# SPDX-License-Identifier: LGPL-2.1-or-later
"""Captures of replayed kernels: nothing that a check reads is lost on the way."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path
from typing import Callable, Iterable, Iterator, List, Set, Tuple

import pytest
from drgn import Program, cast

import drgn_slabtype.capture
from drgn_slabtype.capture import open_capture, write_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Report

from ..recipes.overlay import Write, overlay
from ..recipes.suites import suite_of

_HERE = Path(__file__).parent
# Every structure that is declared is in one of them.
_KERNELS = (
    "slab-6.1-debug-plain",
    "slab-6.1-rfc3-numa",
    "debian-5.10-plain",
    "debian-6.12-plain",
    "debian-7-kfence",
    "debian-7.1-plain",
    "slub-6.12-tiny-plain",
)


def _open(name: str) -> Program:
    return open_capture(str(_HERE / name / "capture.xz"))


def _written(prog: Program, path: Path) -> Path:
    write_capture(prog, str(path), compressed=False)
    return path


def _told(report: Report) -> List[Tuple[str, object, object]]:
    return sorted((found.code, found.message, found.found) for found in report.findings)


@pytest.mark.parametrize("name", _KERNELS)
def test_capture_of_a_capture_holds_the_same(name: str, tmp_path: Path) -> None:
    first = _written(_open(name), tmp_path / "first")
    again = open_capture(str(first))
    replayed, original = check(again), check(_open(name))
    assert replayed.findings == []
    assert replayed.unavailable == []
    # What the process had grown to before is not theirs.
    totals = [replace(one.totals, peak_memory=None) for one in (replayed, original)]
    assert totals[0] == totals[1]
    assert replayed.caches == original.caches
    second = _written(open_capture(str(first)), tmp_path / "second")
    assert second.read_bytes() == first.read_bytes()


def _without_a_cache(prog: Program) -> Iterator[Write]:
    # Its neighbours on slab_caches lead past it; only its slabs lead to it.
    cache = prog["kmalloc_caches"][0][7]
    before, after = cache.list.prev, cache.list.next
    word = prog.type("void *").size or 8
    yield Write(before.next.address_, after.value_().to_bytes(word, "little"))
    yield Write(after.prev.address_, before.value_().to_bytes(word, "little"))


def _with_a_wild_order(prog: Program) -> Iterator[Write]:
    cache = cast("struct kmem_cache *", prog["kmalloc_caches"][0][7])
    yield Write(cache.gfporder.address_, (200).to_bytes(4, "little"))


def _by_recipe(name: str) -> Callable[[Program], Iterable[Write]]:
    def damage(prog: Program) -> Iterable[Write]:
        suite = suite_of(prog)
        writes: Iterable[Write] = suite.recipes[name](suite.open(prog)).writes
        return writes

    return damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("debian-6.12-plain", _by_recipe("order-200")),
        ("debian-6.12-plain", _by_recipe("order-too-great")),
        ("slab-6.1-rfc3-plain", _without_a_cache),
        ("debian-6.12-plain", _without_a_cache),
        ("slab-6.1-debug-plain", _with_a_wild_order),
    ],
)
def test_damage_is_found_in_the_capture_as_in_the_kernel(
    name: str, damage: Callable[[Program], Iterable[Write]], tmp_path: Path
) -> None:
    damaged = _open(name)
    overlay(damaged, list(damage(_open(name))))
    path = _written(damaged, tmp_path / "capture")
    found = check(damaged)
    assert found.findings
    assert _told(check(open_capture(str(path)))) == _told(found)


def test_capture_names_nothing_behind_the_end_of_the_kernel(tmp_path: Path) -> None:
    # Its call traces lead through modules, of which it has no symbols.
    original = _open("debian-7-debug")
    again = open_capture(str(_written(_open("debian-7-debug"), tmp_path / "capture")))
    module = 0xFFFFFFFFC08009F3
    for prog in (original, again):
        assert prog.symbol("_end").address < module
        with pytest.raises(LookupError):
            prog.symbol(module)


def _imported(path: Path) -> Set[str]:
    tree = ast.parse(path.read_text())
    return {
        f"{'.' * node.level}{node.module}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
    }


def test_capture_knows_no_allocator() -> None:
    folder = Path(drgn_slabtype.capture.__file__).parent
    imported = {name for path in folder.glob("*.py") for name in _imported(path)}
    assert "..reading" in imported
    assert [name for name in imported if name.startswith("..allocators")] == []
