# SPDX-License-Identifier: LGPL-2.1-or-later
"""All recipes for SLUB."""

from __future__ import annotations

from . import (
    caches,
    counts,
    cpus,
    debug,
    flight,
    frees,
    lists,
    locks,
    pointers,
    sheaves,
    spread,
    words,
)  # fmt: skip
from .suite import SUITE

__all__ = [
    "SUITE", "caches", "counts", "cpus", "debug", "flight", "frees", "lists", "locks",
    "pointers", "sheaves", "spread", "words",
]  # fmt: skip
