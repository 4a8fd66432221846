# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Text over what the allocators keep of nodes and CPUs is a finding, whatever lock is held.

A sample of it; ``python -m tests.recipes.text`` lays it over every word.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from drgn_slabtype.capture import open_capture

from ..recipes.text import REASONS, Result, Structure, Sweep
from . import ONE_OF_EACH_SHAPE

_PLACES = 12
"""How many places of each kernel are tried."""


@pytest.mark.parametrize("held", [False, True], ids=["free", "held"])
@pytest.mark.parametrize("kernel", ONE_OF_EACH_SHAPE)
def test_text_is_a_finding(kernel: str, held: bool) -> None:
    sweep = Sweep(open_capture(str(Path(__file__).parent / kernel / "capture.xz")), held)
    places = sweep.places(sweep.some(2))
    # An odd step reaches every kind of structure; each mode has places of its own.
    step = max(len(places) // _PLACES, 1) | 1
    results = list(sweep.run(places[held::step], 1))
    assert [str(result) for result in results if not result.good] == []
    assert any(result.outcome == "finding" for result in results)


@pytest.mark.parametrize("why", REASONS, ids=lambda why: f"{why.type} {why.name}")
def test_reason_excuses_nothing_else(why: object) -> None:
    (reason,) = (one for one in REASONS if one is why)
    one = Structure("main" + reason.name, reason.type, 0, 64, "made-up")
    members = tuple(reason.members)
    assert Result(one, 0, members, "silent", "").good
    assert not Result(one, 0, (*members, "another"), "silent", "").good
    assert not Result(one._replace(name="full barn"), 0, members, "silent", "").good
    assert not Result(one, 0, members, "changing", "").good
