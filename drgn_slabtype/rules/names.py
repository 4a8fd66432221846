# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a cache is called, and its directory in sysfs.

``sysfs_slab_add()`` gives the directory of a cache that cannot be merged its name, and
that of all others one made by ``create_unique_id()``, which ends in the size of a slot.
"""

from __future__ import annotations

import re
from typing import Iterator, Optional, Sequence

import numpy as np

from ..ledger import U64
from .alike import Odd, understood

_UNIQUE = re.compile(r":.*?([0-9]+)")


def judge_characters(names: Sequence[str], pointers: U64) -> Iterator[Odd]:
    """
    Yield the caches whose names have what cannot be printed.

    :param names: Of caches, escaped, backslashes as well.
    :param pointers: ``name`` of each cache.
    """
    wrong = np.array(["\\" in name.replace("\\\\", "") for name in names], np.bool_)
    for row in understood(wrong).nonzero()[0].tolist():
        what = f"name is {names[row]}, which has bytes that cannot be printed"
        yield Odd(row, what, None, int(pointers[row]), "name", True)


def judge_names(
    names: Sequence[Optional[str]],
    in_sysfs: Sequence[Optional[str]],
    pointers: U64,
    sizes: U64,
) -> Iterator[Odd]:
    """
    Yield the caches that are called another name than their directory, or sized.

    :param names: Of caches; ``None`` where that is not known.
    :param in_sysfs: Of their directories; ``None`` where that is not known.
    :param pointers: ``name`` of each cache.
    :param sizes: ``size`` of each, in bytes.
    """
    other = np.zeros(len(names), np.bool_)
    told = np.array(sizes)
    for row, (name, directory) in enumerate(zip(names, in_sysfs)):
        if not directory:
            continue
        unique = _UNIQUE.fullmatch(directory)
        if unique:
            told[row] = int(unique[1])
        elif name is not None:
            # kobject_set_name_vargs() replaces slashes.
            other[row] = directory != name.replace("/", "!")
    for row in understood(other).nonzero()[0].tolist():
        what = f"name is {names[row]}, and its directory in sysfs is called {in_sysfs[row]}"
        yield Odd(row, what, None, int(pointers[row]), "name", True)
    for row in understood(told != sizes).nonzero()[0].tolist():
        what = f"size is {int(sizes[row])}, and was {int(told[row])} when it was made: its "
        what += f"directory in sysfs is called {in_sysfs[row]}"
        yield Odd(row, what, int(told[row]), int(sizes[row]), "size")
