# SPDX-License-Identifier: LGPL-2.1-or-later
"""All recipes for SLAB, and all states of its work."""

from __future__ import annotations

from . import caches, counts, debug, flight, lists, locks, places, spread
from .suite import SUITE

__all__ = ["SUITE", "caches", "counts", "debug", "flight", "lists", "locks", "places", "spread"]
