# SPDX-License-Identifier: LGPL-2.1-or-later
"""A few variants of captures; ``python -m tests.cut`` tries as many of a dump as one likes."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest

from ..recipes.apart import apart
from .case import Whole
from .files import ElfDump

_CAPTURES = Path(__file__).parents[1] / "captures"
_SEEDS = range(1, 9)


@pytest.mark.parametrize("name", ["slab-6.1-plain", "debian-7-plain", "debian-5.10-plain"])
def test_what_is_missing_is_no_damage(name: str, tmp_path: Path) -> None:
    path = tmp_path / "vmcore"
    path.write_bytes(lzma.decompress((_CAPTURES / name / "capture.xz").read_bytes()))
    # Zeroes are left out: in a capture, they are what object contents became.
    whole = Whole(ElfDump(path, "address"), capture=True, ways=("cut", "hole"))
    works = [lambda seed=seed: whole.judge(seed) for seed in _SEEDS]
    verdicts = [(verdict, trouble) for verdict, trouble in apart(works, 1)]
    assert [trouble for verdict, trouble in verdicts if verdict is None] == []
    wrong = [f"{one.variant}: {one.wrong}" for one, _ in verdicts if one and one.wrong]
    assert wrong == []
    assert {one.status for one, _ in verdicts if one} & {2, 3}
