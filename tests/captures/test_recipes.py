# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Damage to replayed kernels, and work in progress that is none: a few of each family,
in one kernel of each shape.

``python -m tests.recipes`` applies all of them, to captures and dumps, and
``scripts/vmlab matrix`` to a dump of every kernel.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, List

import pytest

from drgn_slabtype.capture import open_capture

from ..recipes.runner import Result, run
from ..recipes.suites import SLAB, SLUB, suite_of
from . import ONE_OF_EACH_SHAPE

_DOCS = Path(__file__).parents[2] / "docs"

# What each needs is in one of these kernels at least.
_FEW_OF_SLAB = """
    active-one-too-high
    active-one-too-low-in-full-slab
    active-one-over-num
    active-65536
    cache-pointer-null
    cpu-cache-pointer-garbage
    entry-also-on-another-cpu
    index-out-of-range
    index-twice
    list-lock-text
    mark-lost-on-partial
    next-link-poisoned
    num-of-cache-one-too-many
    objfreelist-array-in-another-object
    slab-unlinked-to-be-freed
""".split()
_FEW_OF_SLUB = """
    cache-pointer-of-full-slab-null
    cpu-freelist-garbage
    cpu-partial-cut
    inuse-one-too-high
    list-head-emptied
    list-lock-text
    mark-lost-on-full
    name-of-another-cache
    next-null
    object-size-of-cache-too-great
    order-of-cache-wrong
    sheaf-capacity-too-great
    sheaf-entry-also-on-slab-freelist
    slab-on-list-of-another-cache
    word-of-page-table
""".split()


def _wrong(results: List[Result]) -> Dict[str, List[str]]:
    return {r.name: r.reasons + r.strays for r in results if not r.good}


@pytest.mark.parametrize("kernel", ONE_OF_EACH_SHAPE)
def test_damage_gives_one_root_and_what_follows_from_it(kernel: str) -> None:
    prog = open_capture(str(Path(__file__).parent / kernel / "capture.xz"))
    suite = suite_of(prog)
    few = _FEW_OF_SLUB if suite is SLUB else _FEW_OF_SLAB
    results = list(run(prog, suite, few))
    assert [result.name for result in results] == few
    assert _wrong(results) == {}
    # Caches under slub_debug and SLUB_TINY have neither CPU slabs nor sheaves to
    # damage, a kernel without SLUB_DEBUG has no counters that tell of full slabs.
    least = 6 if kernel.endswith(("-debug", "-bare-plain", "-tiny-plain")) else 8
    assert sum(result.outcome == "found" for result in results) >= least


def test_work_in_progress_is_no_damage() -> None:
    # One kernel with two nodes: most states can be put together in it.
    prog = open_capture(str(_DOCS.parent / "tests/captures/slab-6.1-rfc3-numa/capture.xz"))
    results = list(run(prog, SLAB, list(SLAB.states)))
    assert _wrong(results) == {}
    assert sum(result.outcome == "quiet" for result in results) >= 13


def test_states_of_slub_are_no_damage() -> None:
    # A kernel in which no CPU takes whole slabs, and one whose CPUs have a freelist to the last.
    quiet = set()
    for kernel in ("debian-7-numa", "debian-5.10-plain"):
        prog = open_capture(str(_DOCS.parent / "tests/captures" / kernel / "capture.xz"))
        results = list(run(prog, SLUB, list(SLUB.states)))
        assert _wrong(results) == {}
        quiet |= {result.name for result in results if result.outcome == "quiet"}
    assert quiet == {*SLUB.states}


@pytest.mark.parametrize(("suite", "page"), [(SLAB, "slab.md"), (SLUB, "invariants.md")])
def test_every_recipe_proves_an_invariant(suite: object, page: str) -> None:
    assert suite in (SLAB, SLUB)
    recipes = SLAB.recipes if suite is SLAB else SLUB.recipes
    named = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)+", (_DOCS / page).read_text()))
    assert set(recipes) - named == set()


def test_there_are_recipes_for_every_place() -> None:
    assert set(_FEW_OF_SLAB) <= {*SLAB.recipes, *SLAB.states}
    assert set(_FEW_OF_SLUB) <= set(SLUB.recipes)
    for suite, least in ((SLAB, 120), (SLUB, 215)):
        assert len(suite.recipes) >= least
        assert set(suite.pending) <= set(suite.recipes)
