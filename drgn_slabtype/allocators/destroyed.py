# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Caches that were destroyed with objects in them
-----------------------------------------------

kmem_cache_destroy() complains about objects that are left, and takes the cache
off the list of caches all the same. Its slabs, its name and whoever still holds
an object of it stay behind, in memory that nobody will free.
"""

from __future__ import annotations

import numpy as np

from ..ledger import Ledger, State, Suspect
from .caches import Caches


def note_destroyed(ledger: Ledger, caches: Caches, number: int) -> None:
    """
    Enter into the ledger of a destroyed cache that objects are left in it.

    :param ledger: With all claims of the cache.
    :param number: Position of the cache.
    """
    if not caches.destroyed[number]:
        return
    slabs, claims = ledger.slabs, ledger.claims
    counted = np.array([place.counted for place in ledger.places], np.bool_)
    free = counted[claims.place] & (claims.state != State.LIVE) & (claims.slab >= 0)
    left = int(slabs.counted.sum()) - int(np.count_nonzero(free))
    what = f"was destroyed with {left} objects left in {len(slabs)} slabs"
    # Its last slabs are on their way back to the page allocator.
    empty = left == 0
    ledger.suspects.append(
        Suspect("cache-destroyed", what, place="slab_caches", expected=0, found=left, moving=empty)
    )
