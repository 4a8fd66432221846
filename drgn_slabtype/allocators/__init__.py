# SPDX-License-Identifier: LGPL-2.1-or-later
"""SLAB and SLUB: from the kernel's structures to the ledger."""

from __future__ import annotations

from drgn import Program

from ..errors import UnsupportedError
from ..pagetype.detect import page_type_layout
from .base import Allocator
from .slab import SlabAllocator
from .slub import SlubAllocator


def open_allocator(prog: Program) -> Allocator:
    """
    Return a fresh reading of the slab allocator of a kernel.

    :raises UnsupportedError: for SLOB, which keeps no counts to check.
    """
    name = page_type_layout(prog).allocator
    if name == "SLAB":
        return SlabAllocator(prog)
    if name == "SLUB":
        return SlubAllocator(prog)
    raise UnsupportedError(f"{name} keeps neither slab caches with lists nor counts to check")
