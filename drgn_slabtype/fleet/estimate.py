# SPDX-License-Identifier: LGPL-2.1-or-later
"""
How long it will take
---------------------

What a dump takes grows with its size, by how much is learnt from those that are
done. What is said is a range, and nothing before enough is known.
"""

from __future__ import annotations

import math
from typing import List, NamedTuple, Optional, Sequence

_ENOUGH = 5  # dumps after which something can be said
_SPREAD = 2.0  # standard deviations in which most of what comes will lie


class Left(NamedTuple):
    """Seconds until all is done: at least, and at most."""

    low: float
    high: float


class Estimate:
    """
    Learns from what is done.

    :param processes: How many dumps are judged at a time.
    """

    def __init__(self, processes: int) -> None:
        self._processes = max(processes, 1)
        self._sizes: List[float] = []
        self._seconds: List[float] = []

    def learn(self, size: int, seconds: float) -> None:
        """Note that a dump of some bytes took so long."""
        self._sizes.append(float(size))
        self._seconds.append(seconds)

    def left(self, sizes: Sequence[int]) -> Optional[Left]:
        """Return how long dumps of these sizes will take; ``None`` while nothing tells."""
        if not sizes:
            return Left(0.0, 0.0)
        count = len(self._sizes)
        if count < _ENOUGH:
            return None
        each, slope = self._fit()
        expected = [max(each + slope * size, 0.0) for size in sizes]
        wrong = [s - each - slope * b for s, b in zip(self._seconds, self._sizes)]
        deviation = math.sqrt(sum(one * one for one in wrong) / max(count - 2, 1))
        # What is not known of each adds up slower than what is not known of all.
        unsure = _SPREAD * deviation * (math.sqrt(len(sizes)) + len(sizes) / math.sqrt(count))
        whole, longest = sum(expected), max(expected)
        low = max((whole - unsure) / self._processes, 0.0)
        high = (whole + unsure) / self._processes
        # The last dump is judged by one process, while the others have nothing to do.
        least = max(longest - _SPREAD * deviation, 0.0)
        return Left(max(low, least), high + longest * (1 - 1 / self._processes))

    def _fit(self) -> tuple[float, float]:
        # Seconds for any dump, and for each byte of it; neither is negative.
        count = len(self._sizes)
        mean_size, mean = sum(self._sizes) / count, sum(self._seconds) / count
        spread = sum((size - mean_size) ** 2 for size in self._sizes)
        if not spread:
            return mean, 0.0
        both = sum((b - mean_size) * (s - mean) for b, s in zip(self._sizes, self._seconds))
        slope = max(both / spread, 0.0)
        each = mean - slope * mean_size
        if each < 0:
            squares = sum(size * size for size in self._sizes)
            return 0.0, sum(b * s for b, s in zip(self._sizes, self._seconds)) / squares
        return each, slope
