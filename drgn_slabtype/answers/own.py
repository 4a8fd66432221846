# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What the allocator keeps of its own
-----------------------------------

``struct kmem_cache``, nodes, barns, sheaves and arrays are objects of slab caches.
Which of them an object is, and of which cache, the pointers of all caches tell.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, NamedTuple, Optional, Tuple

import numpy as np

from ..allocators.caches import Caches, same_cache
from ..allocators.live import LIVE
from ..allocators.nodes import node_pointers, read_nodes
from ..allocators.slub.barns import barn_pointers
from ..allocators.slub.sheaves import read_sheaves
from ..ledger import I64, U64
from ..machine import Machine
from .address import AddressInfo
from .lookup import Lookup


class Own(NamedTuple):
    """A structure of the allocator."""

    number: int
    """Position of the cache that it is of."""
    name: str
    """Its type or its place, with CPU or node."""


def with_own(reading: Lookup, info: AddressInfo) -> AddressInfo:
    """Return what is known about an address, with what the allocator keeps in the object there."""
    if LIVE.name not in info.places:
        return info
    own = own_structure(reading.machine, reading.listed, info.object or 0)
    if own is None:
        return info
    return replace(info, holds=f"{own.name} of {reading.listed.names[own.number]}")


_Named = Tuple[I64, U64, str, I64]
# Position of the cache, address, what is there, and of which node; -1 for none.


def own_structure(machine: Machine, caches: Caches, object: int) -> Optional[Own]:
    """
    Return which structure of the allocator an object is; ``None`` if it is none that is known.

    :param caches: All that there are.
    :param object: Where it begins.
    """
    for cache, addresses, name, nodes in _structures(machine, caches):
        for at in np.flatnonzero(addresses == np.uint64(object))[:1].tolist():
            node = int(nodes[at])
            return Own(int(cache[at]), name if node < 0 else f"{name} of node {node}")
    return _sheaf(machine, caches, object)


def _structures(machine: Machine, caches: Caches) -> Iterator[_Named]:
    every, none = np.arange(len(caches)), np.full(len(caches), -1, np.int64)
    yield every, caches.addresses, "struct kmem_cache", none
    cache, nid, pointers = node_pointers(machine, caches, "node", every=True)
    yield cache, pointers, "struct kmem_cache_node", nid
    if caches.rows.structure.has("random_seq"):
        yield every, caches.rows["random_seq"], "random_seq", none
    nodes = read_nodes(machine, caches, every=True)
    if caches.rows.structure.has("cpu_sheaves"):
        cache, nid, pointers = barn_pointers(machine, caches, nodes, every=True)
        yield cache, pointers, "struct node_barn", nid
    if nodes.rows.structure.has("shared"):
        yield nodes.cache, nodes.rows["shared"], "shared array", nodes.nid
    if nodes.rows.structure.has("alien"):
        from ..allocators.slab.arrays import alien_rows, read_alien_tables

        tables = read_alien_tables(machine, nodes)
        yield tables.cache, tables.address, "table of alien arrays", tables.nid
        for column in alien_rows(machine, tables).pointers.T:
            yield tables.cache, column, "alien array", tables.nid


def _sheaf(machine: Machine, caches: Caches, object: int) -> Optional[Own]:
    number = named_by_sheaf(machine, caches, object)
    if number < 0:
        return None
    one = caches.choose([number])
    sheaves = read_sheaves(machine, one, read_nodes(machine, one))
    found = [] if sheaves is None else sheaves.by_cache.get(number, [])
    names = (sheaf.name for sheaf in found if sheaf.address == object)
    return next((Own(number, name) for name in names), None)


def named_by_sheaf(machine: Machine, caches: Caches, object: int) -> int:
    """Return the position of the cache that an object names, as a sheaf does; -1 for none."""
    if not caches.rows.structure.has("cpu_sheaves"):
        return -1
    width = machine.structure("struct slab_sheaf").offset("objects")
    told = machine.rows("struct slab_sheaf", np.array([object], np.uint64), width)["cache"]
    return int(same_cache(told, caches)[0])
