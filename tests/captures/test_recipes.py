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
from ..recipes.suites import SLAB, SLUB, suite_of

_FOLDERS = sorted(path.parent for path in Path(__file__).parent.glob("*/capture.xz"))

# What each needs is in one of these kernels at least.
_FEW_OF_SLAB = """
    active-one-too-high
    active-one-too-low-in-full-slab
    active-one-over-num
    active-65536
    cache-pointer-null
    entry-also-on-another-cpu
    index-out-of-range
    index-twice
    mark-lost-on-partial
    next-link-poisoned
    objfreelist-array-in-another-object
""".split()
_FEW_OF_SLUB = """
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
    suite = suite_of(prog)
    results = list(run(prog, suite, _FEW_OF_SLUB if suite is SLUB else _FEW_OF_SLAB))
    wrong = {r.name: r.reasons + r.strays for r in results if r.outcome == "missed" or r.strays}
    assert wrong == {}
    # Caches under slub_debug have neither CPU slabs nor sheaves to damage.
    least = 5 if folder.name.endswith("-debug") else 6
    assert sum(result.outcome == "found" for result in results) >= least


def test_every_recipe_proves_an_invariant() -> None:
    page = Path(__file__).parents[2] / "docs" / "invariants.md"
    named = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)+", page.read_text()))
    assert set(SLUB.recipes) - named == set()


def test_there_are_recipes_for_every_place() -> None:
    for suite, few, least in ((SLAB, _FEW_OF_SLAB, 40), (SLUB, _FEW_OF_SLUB, 50)):
        assert set(few) <= set(suite.recipes)
        assert len(suite.recipes) >= least
        assert set(suite.pending) <= set(suite.recipes)
