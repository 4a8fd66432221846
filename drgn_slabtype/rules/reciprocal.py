# SPDX-License-Identifier: LGPL-2.1-or-later
"""``struct reciprocal_value``: what is multiplied with instead of dividing by the size."""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np

from ..ledger import U64


class Reciprocal(NamedTuple):
    """What ``reciprocal_value()`` (lib/math/reciprocal_div.c) makes of a number."""

    m: int
    sh1: int
    sh2: int

    @property
    def divisor(self) -> Optional[int]:
        """
        The number it was made of; ``None`` if of none.

        >>> reciprocal_value(192).divisor
        192
        """
        bits = self.sh2 + self.sh1
        if bits > 32:
            return None
        about = (1 << 32 + bits) // ((1 << 32) + self.m - 1)
        near = range(max(about - 1, 1), about + 3)
        return next((one for one in near if reciprocal_value(one) == self), None)


def reciprocal_value(divisor: int) -> Reciprocal:
    """
    Return what the kernel keeps of a size; zeroes for what no size can be.

    >>> reciprocal_value(192)
    Reciprocal(m=1431655766, sh1=1, sh2=7)
    """
    if not 0 < divisor < 1 << 32:
        return Reciprocal(0, 0, 0)
    bits = (divisor - 1).bit_length()
    factor = ((1 << 32) * ((1 << bits) - divisor)) // divisor + 1
    return Reciprocal(factor & 0xFFFFFFFF, min(bits, 1), max(bits - 1, 0))


def reciprocal_values(divisors: U64) -> U64:
    """
    Return :func:`reciprocal_value` of many sizes.

    :return: Shape (3, n): the members of each, as :class:`Reciprocal` has them.
    """
    found, which = np.unique(divisors, return_inverse=True)
    values = np.array([reciprocal_value(one) for one in found.tolist()], np.uint64)
    return values.reshape(-1, len(Reciprocal._fields))[which.reshape(-1)].T
