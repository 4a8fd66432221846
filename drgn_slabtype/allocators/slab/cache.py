# SPDX-License-Identifier: LGPL-2.1-or-later
"""The members of SLAB's ``struct kmem_cache`` that reading its slabs needs."""

from __future__ import annotations

import enum
from typing import List

import numpy as np

from ...ledger import Facts
from ...rules.members import Pointer, SlabMembers
from ..caches import Caches, same_cache

# Values of the flags are the same from 5.10 to the removal of SLAB in 6.8.
_RED_ZONE = 0x400
_POISON = 0x800
_STORE_USER = 0x10000
_TYPESAFE_BY_RCU = 0x80000
_OBJFREELIST = 0x40000000
_OFF_SLAB = 0x80000000

MAX_SLAB_ORDER = 13  # the highest order of pages that any architecture sets
_MAX_NUM = 0xFFFF  # SLAB_OBJ_MAX_NUM: more objects than an index can name
_MAX_COLOURS = 1 << 31  # more than any slab has bytes left over


class Mode(enum.Enum):
    """Where a cache keeps the index arrays of its slabs."""

    ON_SLAB = "on-slab"
    """At the end of the slab."""
    OFF_SLAB = "off-slab"
    """In memory of its own, allocated with kmalloc."""
    OBJFREELIST = "objfreelist"
    """Inside one of the slab's free objects, which the last entry names."""


class SlabCache:
    """
    One slab cache of SLAB.

    :param number: Position in *caches*.
    :param page_size: Bytes of a page.
    :param cpus: Number of possible CPUs.
    """

    def __init__(self, caches: Caches, number: int, page_size: int, cpus: int) -> None:
        rows = caches.rows

        def value(member: str) -> int:
            return int(rows[member][number]) if rows.structure.has(member) else 0

        def has(flag: int) -> bool:
            return bool(value("flags") & flag)

        self.number = number
        self.dying = bool(caches.dying[number])
        """Whether it is being destroyed and waits for RCU."""
        # A damaged cache must not decide how much memory is read: of an order that no
        # slab has, nothing follows.
        order = value("gfporder")
        self.order = order if order <= MAX_SLAB_ORDER else 0
        self.span = page_size << self.order
        """Bytes of a slab."""
        self.size = max(value("size"), 1)
        """Bytes from one slot to the next."""
        self.object_size = value("object_size")
        self.align = max(value("align"), 1)
        self.num = max(min(value("num"), self.span // self.size, _MAX_NUM), 1)
        """Objects of a slab."""
        self.colours = max(min(value("colour"), _MAX_COLOURS), 1)
        """How many places of the first object there are, ``colour_off`` bytes apart."""
        self.colour_off = max(value("colour_off"), 1)
        self.freelist_size = value("freelist_size")
        """Bytes of an index array."""
        self.freelist_cache = value("freelist_cache")
        """``struct kmem_cache *`` of off-slab arrays; 0 where kmalloc decides."""
        self.limit = value("limit")
        """Most objects in a CPU's array cache."""
        self.obj_offset = value("obj_offset")
        """Bytes from a slot to the object in it; 0 without CONFIG_DEBUG_SLAB."""
        self.batchcount = value("batchcount")
        """How many objects move between its arrays and its slabs at a time."""
        self.arrayfuls = (self.limit, self.batchcount, value("shared") * self.batchcount)
        """How many objects an array of a CPU, a refill and the shared array have at most."""
        self.red_zone = has(_RED_ZONE)
        self.poison = has(_POISON)
        self.store_user = has(_STORE_USER)
        self.debug = self.red_zone or self.poison or self.store_user
        """Whether CONFIG_DEBUG_SLAB promises anything about the bytes of a slot."""
        self.typesafe_by_rcu = has(_TYPESAFE_BY_RCU)
        self.mode = Mode.ON_SLAB
        if has(_OBJFREELIST):
            self.mode = Mode.OBJFREELIST
        elif has(_OFF_SLAB):
            self.mode = Mode.OFF_SLAB
        # A CPU can be giving back as many empty slabs as one batch of objects
        # empties.
        self.facts = Facts(
            caches.names[number],
            int(rows.addresses[number]),
            self.object_size,
            self.size,
            self.num,
            in_flight=cpus * max(self.batchcount, 1),
        )


def slab_members(caches: Caches, cache: SlabCache, page_size: int, index_size: int) -> SlabMembers:
    """
    Return the members of a cache that follow from each other, as they are in memory.

    :param page_size: Bytes of a page.
    :param index_size: Bytes of one entry of an index array.
    """

    def value(member: str) -> int:
        return int(caches.rows[member][cache.number])

    return SlabMembers(
        page_size,
        value("gfporder"),
        value("size"),
        cache.object_size,
        cache.obj_offset,
        value("num"),
        value("colour"),
        cache.colour_off,
        cache.freelist_size,
        index_size,
        cache.mode is Mode.ON_SLAB,
    )


def freelist_cache(caches: Caches, cache: SlabCache) -> List[Pointer]:
    """Return the pointer to the cache that off-slab arrays are from, if there is the member."""
    # Before Linux kernel commit e36ce448a08d ("mm/slab: use kmalloc() for
    # on-slab freelist") (in v6.1).
    if not caches.rows.structure.has("freelist_cache"):
        return []
    at = cache.freelist_cache
    if cache.mode is not Mode.OFF_SLAB:
        # __kmem_cache_create() writes it for those alone, over zeroes.
        kind = "cache for index arrays that lie in their slabs"
        return [Pointer("freelist_cache", at, leads=False, needed=False, kind=kind)]
    # A cache that is not in the target is on no list that could be followed.
    leads = not caches.all_known or bool(same_cache(np.array([at], np.uint64), caches)[0] >= 0)
    return [Pointer("freelist_cache", at, leads, needed=True, kind="cache")]
