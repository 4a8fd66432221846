# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is kept of a size to divide by it, and back."""

from __future__ import annotations

from typing import Tuple

import numpy as np
import pytest

from drgn_slabtype.rules.reciprocal import Reciprocal, reciprocal_value, reciprocal_values

_SIZES = [1, 2, 3, 8, 24, 96, 192, 4096, 65536, 1 << 31, (1 << 32) - 1]


@pytest.mark.parametrize("size", _SIZES)
def test_a_reciprocal_tells_of_what_it_was_made(size: int) -> None:
    assert reciprocal_value(size).divisor == size


@pytest.mark.parametrize("kept", [(0, 0, 0), (1, 1, 200), (7, 1, 6), (0xFFFFFFFF, 0, 31)])
def test_what_is_no_reciprocal_tells_nothing(kept: Tuple[int, int, int]) -> None:
    assert Reciprocal(*kept).divisor is None


def test_many_are_as_one_by_one() -> None:
    sizes = np.array([*_SIZES, 0, 1 << 32, 192], np.uint64)
    one_by_one = [reciprocal_value(size) for size in sizes.tolist()]
    assert reciprocal_values(sizes).T.tolist() == [list(one) for one in one_by_one]
