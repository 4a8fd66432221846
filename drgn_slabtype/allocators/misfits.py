# SPDX-License-Identifier: LGPL-2.1-or-later
"""Slabs that are not made as their cache makes them."""

from __future__ import annotations

from typing import Any, List

import numpy.typing as npt

from ..ledger import Bools, Suspect


def wrong_slabs(
    code: str, what: str, wrong: Bools, expected: npt.NDArray[Any], found: npt.NDArray[Any]
) -> List[Suspect]:
    """
    Return a finding for each slab of which a number is wrong.

    :param code: Of the findings.
    :param what: The same, in words.
    :param wrong: Which slabs of the cache; the numbers lie beside.
    """
    return [
        Suspect(code, what, slab=slab, expected=int(expected[slab]), found=int(found[slab]))
        for slab in wrong.nonzero()[0].tolist()
    ]
