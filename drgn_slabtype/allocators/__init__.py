# SPDX-License-Identifier: LGPL-2.1-or-later
"""SLAB and SLUB: from the kernel's structures to the ledger."""

from __future__ import annotations

from ..errors import UnsupportedError
from ..machine import Machine
from .base import Allocator
from .caches import Caches
from .slab.allocator import SlabAllocator
from .slub.allocator import SlubAllocator


def open_allocator(machine: Machine, caches: Caches) -> Allocator:
    """
    Return a fresh reading of the slab allocator of a kernel.

    :param caches: All caches, with those chosen that it is about.
    :raises UnsupportedError: for SLOB, which keeps no counts to check.
    """
    name = machine.layout.allocator
    if name == "SLAB":
        return SlabAllocator(machine, caches)
    if name == "SLUB":
        return SlubAllocator(machine, caches)
    raise UnsupportedError(f"{name} keeps neither slab caches with lists nor counts to check")
