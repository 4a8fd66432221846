# SPDX-License-Identifier: LGPL-2.1-or-later
"""The suite that SLAB's recipes enter themselves into; see :mod:`tests.recipes.language`."""

from __future__ import annotations

from typing import Dict, List

from drgn_slabtype.findings import Report

from ..recipes.language import Injury, Recipe, Suite, compare
from .slabmachine import Machine

SUITE: Suite[Machine] = Suite("SLAB", Machine)
RECIPES: Dict[str, Recipe[Machine]] = SUITE.recipes
recipe = SUITE.recipe


def complaints(injury: Injury, report: Report, clean: Report) -> List[str]:
    """
    Return in which ways a report is not what the injury must give.

    :param clean: Report of the dump without the injury.
    """
    verdict = compare(injury, report, clean)
    return verdict.reasons + verdict.strays


__all__ = ["RECIPES", "SUITE", "Injury", "complaints", "recipe"]
