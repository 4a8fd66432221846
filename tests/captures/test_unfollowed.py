# SPDX-License-Identifier: LGPL-2.1-or-later
"""A cache in which no freelist can be followed, where CPUs alone have free objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check

from ..recipes.overlay import Write, overlay
from ..recipes.suites import suite_of

_CAPTURE = str(Path(__file__).parent / "debian-6.1-plain" / "capture.xz")
_FEWEST = 3


def _of_cpus_alone(machine: Any) -> Any:
    for cache in machine.caches:
        with_free = [one for one in machine.cpu_slabs if one.cache is cache and one.entries]
        none_else = all(not slab.free for slab in machine.slabs_of(cache))
        if len(with_free) >= _FEWEST and none_else and cache.name not in machine.own:
            return cache
    raise LookupError("CPUs have free objects of no cache alone")


@pytest.mark.parametrize(("member", "bytes_"), [("random", 8), ("offset", 4)])
def test_the_cache_is_the_root_where_only_cpus_have_free_objects(member: str, bytes_: int) -> None:
    prog = open_capture(_CAPTURE)
    cache = _of_cpus_alone(suite_of(prog).open(prog))
    spot = cache.spot(member)
    assert spot.number
    overlay(prog, [Write(spot.address, bytes(bytes_))])
    found = check(prog).findings
    (root,) = (finding for finding in found if finding.because is None)
    assert (root.code, root.cache, root.word) == ("cache-wrong", cache.name, spot.address)
    assert root.member == member
