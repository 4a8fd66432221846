# SPDX-License-Identifier: LGPL-2.1-or-later
"""All recipes for SLAB."""

from __future__ import annotations

from . import slabbytes, slabcounts, slablists, slabplaces
from .recipe import RECIPES, SUITE

__all__ = ["RECIPES", "SUITE", "slabbytes", "slabcounts", "slablists", "slabplaces"]
