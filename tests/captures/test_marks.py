# SPDX-License-Identifier: LGPL-2.1-or-later
"""The caches that are marked are those of which a check finds something wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Tuple

import pytest

from drgn_slabtype.answers.caches import caches
from drgn_slabtype.capture import open_capture
from drgn_slabtype.check import check
from drgn_slabtype.findings import Outcome

from . import ONE_OF_EACH_SHAPE

HERE = Path(__file__).parent


@pytest.mark.parametrize("wanted", [(), ("lab_victim",), ("kmalloc-*", "lab_*")])
@pytest.mark.parametrize("path", sorted((HERE / "broken").glob("*.xz")), ids=lambda path: path.stem)
def test_every_damaged_cache_is_marked(path: Path, wanted: Tuple[str, ...]) -> None:
    prog = open_capture(str(path))
    marked = {cache.name for cache in caches(prog, *wanted) if not cache.consistent}
    results = check(prog, caches=wanted).caches
    assert marked == {one.name for one in results if one.outcome is Outcome.INCONSISTENT}
    assert marked == {"lab_victim"}


@pytest.mark.parametrize("kernel", ONE_OF_EACH_SHAPE)
def test_no_cache_of_a_sound_kernel_is_marked(kernel: str) -> None:
    answer = caches(open_capture(str(HERE / kernel / "capture.xz")))
    assert [cache.name for cache in answer if not cache.consistent] == []
