# SPDX-License-Identifier: LGPL-2.1-or-later
"""All recipes for SLUB."""

from __future__ import annotations

from . import (
    slubbytes,
    slubcaches,
    slubcounts,
    slubcpus,
    slubfrees,
    slublists,
    slublocks,
    slubpointers,
    slubsheaves,
    slubwords,
)
from .slubsuite import SUITE

__all__ = [
    "SUITE",
    "slubbytes",
    "slubcaches",
    "slubcounts",
    "slubcpus",
    "slubfrees",
    "slublists",
    "slublocks",
    "slubpointers",
    "slubsheaves",
    "slubwords",
]
