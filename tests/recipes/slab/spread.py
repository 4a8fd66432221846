# SPDX-License-Identifier: LGPL-2.1-or-later
"""Damage of many words to SLAB, and to what no cache has for itself."""

from __future__ import annotations

from ..spread import guarded, runs, spread
from .suite import ANY, SUITE

spread(SUITE, ANY)
guarded(SUITE)
runs(SUITE, "array-entries-text", "cpu array")
