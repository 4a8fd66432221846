# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names that are spelled much like what somebody typed."""

from __future__ import annotations

import re
from typing import Iterable, List, Tuple

MOST = 3
"""How many are suggested."""

_PART = 3  # letters of a name that it can be meant by
_NUMBERED = re.compile(r"(.*?)([0-9]+)")


def nearest(word: str, known: Iterable[str]) -> List[str]:
    """
    Return the names that are spelled much like a word, the nearest first, or go on from it.

    >>> nearest("kmalloc-65", ["kmalloc-96", "kmalloc-512", "kmalloc-64"])
    ['kmalloc-64', 'kmalloc-96', 'kmalloc-512']

    :param known: All names; of equal ones the first counts.
    """
    from difflib import SequenceMatcher, get_close_matches

    every = list(dict.fromkeys(known)) if word else []
    close = get_close_matches(word, every, len(every) or 1)

    def distance(name: str) -> Tuple[float, float, int]:
        # As difflib compares; it leaves ties as they come.
        ratio = SequenceMatcher(None, name, word).ratio()
        return _apart(word, name), -ratio, -_common(word, name)

    # Nobody remembers how a name goes on.
    longer = [name for name in every if name.startswith(word)]
    longer += [name for name in every if word in name] if len(word) >= _PART else []
    return list(dict.fromkeys([*sorted(close, key=distance), *longer]))[:MOST]


def _apart(word: str, name: str) -> float:
    # Of names that differ in a number at their end alone.
    numbers = _NUMBERED.fullmatch(word), _NUMBERED.fullmatch(name)
    if numbers[0] is None or numbers[1] is None or numbers[0][1] != numbers[1][1]:
        return float("inf")
    return abs(int(numbers[0][2]) - int(numbers[1][2]))


def _common(word: str, name: str) -> int:
    # How many letters both begin with.
    return next((at for at, (a, b) in enumerate(zip(word, name)) if a != b), len(word))
