# SPDX-License-Identifier: LGPL-2.1-or-later
"""What scripts give to a run over many dumps is looked at before anything is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

from drgn_slabtype import judge_fleet
from drgn_slabtype.errors import ArgumentError, TargetError


@pytest.mark.parametrize(
    "given",
    [
        {"paths": 5},
        {"paths": [5]},
        {"symbols": [None]},
        {"processes": 0},
        {"max_memory": "4G"},
        {"max_memory": 0},
        {"max_time": -1},
        {"max_time": "600"},
        {"max_time": float("nan")},
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(given: Dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError):
        judge_fleet(**{"paths": [str(tmp_path)], "folder": str(tmp_path / "out"), **given})
    assert not (tmp_path / "out").exists()


def test_one_path_is_one_path(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=f"^{tmp_path}/nothing: no such file or folder"):
        judge_fleet(str(tmp_path / "nothing"), str(tmp_path / "out"))
