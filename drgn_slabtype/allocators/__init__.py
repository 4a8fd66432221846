# SPDX-License-Identifier: LGPL-2.1-or-later
"""
SLAB and SLUB: from the kernel's structures to the ledger
---------------------------------------------------------

Of the two wings, the one is imported that a kernel has: it takes as long as a question.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Tuple

from ..errors import UnsupportedError
from ..index import SlabIndex
from ..ledger import I64, U64
from ..machine import Machine
from .base import Allocator
from .caches import Caches
from .slub.fit import object_homes

_KEPT = "allocators of slabs"
_MOST_KEPT = 16


def open_allocator(machine: Machine, caches: Caches) -> Allocator:
    """
    Return a fresh reading of the slab allocator of a kernel.

    :param caches: All caches, with those chosen that it is about.
    :raises UnsupportedError: for SLOB, which keeps no counts to check.
    """
    name = machine.layout.allocator
    if name == "SLAB":
        from .slab.allocator import SlabAllocator

        return SlabAllocator(machine, caches)
    if name == "SLUB":
        from .slub.allocator import SlubAllocator

        return SlubAllocator(machine, caches)
    raise UnsupportedError(f"{name} keeps neither slab caches with lists nor counts to check")


def open_again(machine: Machine, caches: Caches) -> Allocator:
    """
    Return a reading of the slab allocator as :func:`open_allocator` does, or one made before.

    Of memory that does not move, the last few are kept: what has been asked about one slab is
    asked about others of its cache. What :meth:`.base.Allocator.discover` found for an index is
    gone with the next one.

    :param caches: Those that lists lead to, with those chosen that it is about.
    """
    if machine.is_live:
        return open_allocator(machine, caches)
    kept: OrderedDict[Tuple[int, ...], Allocator] = machine.kept.setdefault(_KEPT, OrderedDict())
    chosen = tuple(caches.chosen.nonzero()[0].tolist())
    found = kept.pop(chosen, None)
    kept[chosen] = found = open_allocator(machine, caches) if found is None else found
    if len(kept) > _MOST_KEPT:
        kept.popitem(last=False)
    return found


def homes_of(index: SlabIndex, caches: Caches, owner: I64, addresses: U64) -> I64:
    """
    Return the position of the cache of which an object begins at each address; else -1.

    What :meth:`.base.Allocator.homes` returns, of slabs whose lists nobody has read.

    :param owner: Position of the cache of each row of the index; -1 for none.
    """
    if index.layout.allocator == "SLAB":
        from .slab.view import SlabView

        return SlabView(index, caches, owner, ()).homes(addresses)
    return object_homes(index, caches, owner, addresses)
