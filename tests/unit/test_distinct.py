# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each value once, at no cost."""

from __future__ import annotations

import subprocess
import sys
from typing import List

import numpy as np
import pytest

from drgn_slabtype.distinct import among, distinct


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(0, np.uint64),
        np.array([7], np.int64),
        np.array([3, 1, 3, 2, 1], np.int32),
        np.array([[1 << 63, 0], [(1 << 64) - 1, 1 << 63]], np.uint64),
        np.array([-1, 5, -1], np.int64),
    ],
)
def test_it_is_what_numpy_says(values: np.ndarray) -> None:
    found = distinct(values)
    assert found.tolist() == np.unique(values).tolist()
    assert found.dtype == values.dtype


def test_it_imports_nothing() -> None:
    code = (
        "import sys, numpy as np; from drgn_slabtype.distinct import among, distinct; "
        "distinct(np.arange(9)); among(np.arange(9), np.arange(20)); "
        "sys.exit('numpy.ma' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("known", [[], [5], [(1 << 64) - 1, 0, 5, 5]])
def test_what_is_among_others_is_what_numpy_says(known: List[int]) -> None:
    values = np.array([[0, 5, 6], [(1 << 64) - 1, 1, 5]], np.uint64)
    others = np.array(known, np.uint64)
    assert among(values, others).tolist() == np.isin(values, others).tolist()
