# SPDX-License-Identifier: LGPL-2.1-or-later
"""All recipes for SLAB, and all states of its work."""

from __future__ import annotations

from . import slabbytes, slabcaches, slabcounts, slabflight, slablists, slablocks, slabplaces
from .slabsuite import SUITE

__all__ = [
    "SUITE",
    "slabbytes",
    "slabcaches",
    "slabcounts",
    "slabflight",
    "slablists",
    "slablocks",
    "slabplaces",
]
