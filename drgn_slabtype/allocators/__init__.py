# SPDX-License-Identifier: LGPL-2.1-or-later
"""SLAB and SLUB: from the kernel's structures to the ledger."""

from __future__ import annotations

from typing import Sequence

from ..errors import UnsupportedError
from ..machine import Machine
from .base import Allocator
from .caches import read_caches
from .slab.allocator import SlabAllocator
from .slub.allocator import SlubAllocator


def open_allocator(machine: Machine, told: Sequence[int] = ()) -> Allocator:
    """
    Return a fresh reading of the slab allocator of a kernel.

    :param told: What slabs call their cache, to find caches that are on no list.
    :raises UnsupportedError: for SLOB, which keeps no counts to check.
    """
    name = machine.layout.allocator
    if name == "SLAB":
        return SlabAllocator(machine, read_caches(machine, told))
    if name == "SLUB":
        return SlubAllocator(machine, read_caches(machine, told))
    raise UnsupportedError(f"{name} keeps neither slab caches with lists nor counts to check")
