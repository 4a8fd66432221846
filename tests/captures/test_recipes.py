# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage to replayed kernels: a few recipes of each family.

``python -m tests.recipes`` applies all of them, to captures and dumps.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from drgn_slabtype.capture import open_capture

from ..recipes.runner import run
from ..recipes.slub import SUITE as SLUB
from ..recipes.suites import suite_of

_FOLDERS = sorted(path.parent for path in Path(__file__).parent.glob("debian-*/capture.xz"))

# What each needs is in one of these kernels at least.
_FEW = """
    cache-pointer-of-full-slab-null
    cpu-freelist-garbage
    cpu-partial-cut
    inuse-one-too-high
    list-head-emptied
    mark-lost-on-full
    next-null
    sheaf-entry-also-on-slab-freelist
    slab-on-list-of-another-cache
    word-of-page-table
""".split()


@pytest.mark.parametrize("folder", _FOLDERS, ids=[path.name for path in _FOLDERS])
def test_damage_gives_one_root_and_what_follows_from_it(folder: Path) -> None:
    prog = open_capture(str(folder / "capture.xz"))
    results = list(run(prog, suite_of(prog), _FEW))
    wrong = {r.name: r.reasons + r.strays for r in results if r.outcome == "missed" or r.strays}
    assert wrong == {}
    assert sum(result.outcome == "found" for result in results) >= 6


def test_every_recipe_proves_an_invariant() -> None:
    page = Path(__file__).parents[2] / "docs" / "invariants.md"
    named = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)+", page.read_text()))
    assert set(SLUB.recipes) - named == set()


def test_there_are_recipes_for_every_place() -> None:
    assert set(_FEW) <= set(SLUB.recipes)
    assert len(SLUB.recipes) >= 50
    assert set(SLUB.pending) <= set(SLUB.recipes)
