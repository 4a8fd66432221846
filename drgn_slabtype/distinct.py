# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which values there are in a column."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

_Number = TypeVar("_Number", bound=np.generic)


def distinct(values: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
    """
    Return each value once, in ascending order, as ``np.unique()`` does.

    That imports ``numpy.ma`` when it is called first, and enters large columns into a
    table, which takes several times as long as to sort them.

    :param values: Of any shape, of numbers.
    """
    if values.size < 2:
        return values.flatten()
    ordered = np.sort(values, axis=None)
    first = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    return ordered[first]


def among(values: npt.NDArray[_Number], known: npt.NDArray[_Number]) -> npt.NDArray[np.bool_]:
    """
    Return which values are among others, as ``np.isin()`` does, and without what that imports.

    :param values: Of any shape.
    :param known: Of the same type.
    """
    if not known.size:
        return np.zeros(values.shape, np.bool_)
    ordered = np.sort(known, axis=None)
    at = np.minimum(ordered.searchsorted(values), len(ordered) - 1)
    found: npt.NDArray[np.bool_] = ordered[at] == values
    return found
