# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Kernels in turn
---------------

Most tests of replayed kernels are repeated for many of them, and so often it is the
same code that is asked. Each takes some of its kernels, other tests take others, and
``--every-kernel`` takes all: CI does.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Sequence, Set, Tuple, TypeVar
from zlib import crc32

KERNELS = frozenset(
    path.parent.name for path in Path(__file__).parent.glob("captures/*/manifest.json")
)
"""Names of the captures that are compared with the kernel's own numbers."""

ALONE = 1
"""On how many kernels a test is tried, if it is repeated for nothing else."""
WITH_OTHERS = 2
"""How often, if it is repeated for more than kernels."""

_T = TypeVar("_T")


def kernel_of(value: object) -> str:
    """Return which kernel an argument of a test is about; empty, if it is about none."""
    if isinstance(value, Path):
        value = value.parent.name if value.suffix == ".xz" else value.name
    return value if isinstance(value, str) and value in KERNELS else ""


def left_out(
    cases: Sequence[_T], told: Callable[[_T], Tuple[str, Mapping[str, object]]]
) -> Set[int]:
    """
    Return the positions of cases that are for ``--every-kernel`` alone.

    What is taken of a test's cases is spread over all of them, and begins at another
    one for each test, so that every kernel has its turn.

    :param told: Returns the name of the test that a case is of, and its arguments.
    """
    groups: Dict[str, List[int]] = defaultdict(list)
    others: Dict[str, Set[str]] = defaultdict(set)
    for position, case in enumerate(cases):
        test, arguments = told(case)
        if any(kernel_of(value) for value in arguments.values()):
            groups[test].append(position)
            rest = {name: value for name, value in arguments.items() if not kernel_of(value)}
            others[test].add(repr(rest))
    left: Set[int] = set()
    for test, positions in groups.items():
        most = ALONE if len(others[test]) < 2 else WITH_OTHERS
        if len(positions) > most:
            first, count = crc32(test.encode()), len(positions)
            taken = {(first + turn * count // most) % count for turn in range(most)}
            left.update(position for at, position in enumerate(positions) if at not in taken)
    return left
