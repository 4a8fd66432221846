# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels built with less than the lab's: members taken out of a replayed kernel's types."""

from __future__ import annotations

from pathlib import Path
from typing import FrozenSet, Set

import pytest
from drgn import Program, Type, TypeKind, TypeKindSet

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check

from ..recipes.runner import run
from ..recipes.suites import suite_of

_CAPTURES = sorted(path.parent for path in Path(__file__).parent.glob("debian-*-plain/capture.xz"))
_NO_SLUB_DEBUG = frozenset({"nr_slabs", "total_objects", "full"})


def _without(folder: Path, name: str, members: FrozenSet[str]) -> Program:
    prog = open_capture(str(folder / "capture.xz"))
    whole = prog.type(f"struct {name}")
    pruned = prog.struct_type(
        name, whole.size, [member for member in whole.members or () if member.name not in members]
    )

    def find(prog: Program, kinds: TypeKindSet, wanted: str, filename: object) -> Type | None:
        return pruned if wanted == name and TypeKind.STRUCT in kinds else None

    prog.register_type_finder("without", find, enable_index=0)
    return prog


@pytest.mark.parametrize("folder", _CAPTURES, ids=[path.name for path in _CAPTURES])
def test_without_slub_debug_no_node_counter_is_asked_for(folder: Path) -> None:
    prog = _without(folder, "kmem_cache_node", _NO_SLUB_DEBUG)
    assert not prog.type("struct kmem_cache_node").has_member("nr_slabs")
    report = check(prog)
    assert report.findings == []
    assert report.unavailable == []


@pytest.mark.parametrize("folder", _CAPTURES, ids=[path.name for path in _CAPTURES])
def test_without_slub_debug_counts_and_freelists_are_still_compared(folder: Path) -> None:
    prog = _without(folder, "kmem_cache_node", _NO_SLUB_DEBUG)
    names = {"inuse-one-too-high", "inuse-one-too-low"}
    found: Set[str] = set()
    for result in run(prog, suite_of(prog), sorted(names)):
        assert result.outcome != "missed", result.reasons
        if result.outcome == "found":
            found.add(result.name)
    assert found
