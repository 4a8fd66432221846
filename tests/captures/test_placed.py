# SPDX-License-Identifier: LGPL-2.1-or-later
"""Pages and the zones that they name, of damaged captures."""

from __future__ import annotations

from pathlib import Path

import pytest

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.machine import machine
from drgn_slabtype.pages.zones import populated_zones, zone_bits

from ..recipes.changes import Spot
from ..recipes.overlay import overlay
from .test_compound import CAPTURES, ERAS

SOME = [path for path in CAPTURES if path.parent.name in ERAS] or CAPTURES[:1]
ROW = 20
"""Pages that are damaged."""
eras = pytest.mark.parametrize("path", SOME, ids=lambda path: path.parent.name)


@eras
def test_pages_in_a_row_are_one_finding(path: Path) -> None:
    prog = open_capture(str(path))
    page, bits = machine(prog).page, zone_bits(machine(prog))
    _, _, zone = max(populated_zones(machine(prog)), key=lambda one: int(one[2].present_pages))
    pfn = int(zone.zone_start_pfn) + int(zone.spanned_pages) // 2
    spots = [Spot(prog, page.vmemmap + (pfn + at) * page.size + page.flags) for at in range(ROW)]
    ones = (1 << bits.word_bits - bits.shift) - 1
    overlay(prog, [spot.write(spot.number | ones << bits.shift) for spot in spots])
    found = [one for one in check(prog).findings if one.code == "page-zone-wrong"]
    assert [one.pages for one in found] == [ROW]
    assert f"so do the {ROW - 1} after it" in found[0].message


@eras
def test_zone_that_does_not_span_its_pages(path: Path) -> None:
    prog = open_capture(str(path))
    _, _, zone = max(populated_zones(machine(prog)), key=lambda one: int(one[2].present_pages))
    start = zone.zone_start_pfn
    assert start.address_ is not None
    spot = Spot(prog, start.address_)
    overlay(prog, [spot.write(spot.number + 1024)])
    roots = [one for one in check(prog).findings if one.because is None]
    assert [one.code for one in roots] == ["machine-wrong"]
    assert (roots[0].place or "").startswith("zone ")
