# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which layout is recognised, on a made-up program for each of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drgn_slabtype.pagetype.detect import page_type_layout
from tests.synthetic import SPECS, make_kernel

MACHINES = [(True, 64), (False, 64), (True, 32), (False, 32)]


@pytest.mark.parametrize(("little", "bits"), MACHINES)
@pytest.mark.parametrize("name", SPECS)
def test_layout_is_recognised(name: str, little: bool, bits: int) -> None:
    spec = SPECS[name]
    if spec.halves and not little:
        spec = replace(spec, encoding="rfc-v1-low")
    layout = page_type_layout(make_kernel(spec, little, bits).prog)
    assert layout.encoding.name == spec.encoding
    assert layout.allocator == spec.allocator
    assert layout.slab_struct == ("page" if spec.slab == "page" else "slab")
    assert layout.active == spec.active
    assert layout.slab_flag == spec.flags.get("PG_slab")
    assert layout.head_flag == spec.flags["PG_head"]
    assert layout.page_slab_follows_head == (spec.slab != "6.19")
    assert layout.flags_mask == (1 << bits) - 1
    assert layout.evidence
