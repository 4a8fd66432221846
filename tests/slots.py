# SPDX-License-Identifier: LGPL-2.1-or-later
"""A made-up cache of SLUB: kmalloc-64 under slub_debug=FZPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from drgn_slabtype.allocators.slub.layout import KasanSizes, Parts

PLAIN = Parts(word=8, track=32, asked=8, kasan=None)
KASAN = PLAIN._replace(kasan=KasanSizes(alloc_meta=24, free_meta=24))


def slot_cache(**differs: Any) -> Any:
    """Return what the layout of slots asks of a cache, aligned to 8 bytes."""
    members = {
        "object_size": 64,
        "inuse": 72,
        "offset": 72,
        "red_left_pad": 8,
        "align": 8,
        "size": 168,
        "red_zone": True,
        "store_user": True,
        "kmalloc": True,
        "kasan_alloc": 0,
        "kasan_free": 0,
    }
    return SimpleNamespace(**{**members, **differs})
