# SPDX-License-Identifier: LGPL-2.1-or-later
"""SLAB and SLUB: from the kernel's structures to the ledger."""

from __future__ import annotations

from ..errors import UnsupportedError
from ..index import SlabIndex
from ..ledger import I64, U64
from ..machine import Machine
from .base import Allocator
from .caches import Caches
from .slab.allocator import SlabAllocator
from .slab.view import SlabView
from .slub.allocator import SlubAllocator
from .slub.fit import object_homes


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


def homes_of(index: SlabIndex, caches: Caches, owner: I64, addresses: U64) -> I64:
    """
    Return the position of the cache of which an object begins at each address; else -1.

    What :meth:`.base.Allocator.homes` returns, of slabs whose lists nobody has read.

    :param owner: Position of the cache of each row of the index; -1 for none.
    """
    if index.layout.allocator == "SLAB":
        return SlabView(index, caches, owner, ()).homes(addresses)
    return object_homes(index, caches, owner, addresses)
