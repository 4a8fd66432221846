# SPDX-License-Identifier: LGPL-2.1-or-later
"""The suites of all allocators."""

from __future__ import annotations

from typing import Any

from drgn import Program

from .language import Suite
from .slab import SUITE as SLAB
from .slub import SUITE as SLUB


def suite_of(prog: Program) -> Suite[Any]:
    """Return the recipes for a kernel's allocator."""
    return SLUB if prog.type("struct kmem_cache").has_member("oo") else SLAB


__all__ = ["SLAB", "SLUB", "suite_of"]
