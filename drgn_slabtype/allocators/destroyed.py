# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Caches that were destroyed with objects in them
-----------------------------------------------

kmem_cache_destroy() complains about objects that are left, and takes the cache
off the list of caches all the same. Its slabs, its name and whoever still holds
an object of it stay behind, in memory that nobody will free. Where it gives up
instead (before Linux 6.12), the cache stays on the list and has no users left
(``refcount``).
"""

from __future__ import annotations

import numpy as np

from ..ledger import Ledger, State, Suspect
from ..records import plural
from .caches import Caches


def note_destroyed(ledger: Ledger, caches: Caches, number: int) -> None:
    """
    Enter into the ledger of a destroyed cache that objects are left in it.

    :param ledger: With all claims of the cache.
    :param number: Position of the cache.
    """
    taken_off = bool(caches.destroyed[number])
    if not taken_off and not caches.given_up[number]:
        return
    slabs, claims = ledger.slabs, ledger.claims
    counted = np.array([place.counted for place in ledger.places], np.bool_)
    free = counted[claims.place] & (claims.state != State.LIVE) & (claims.slab >= 0)
    left = int(slabs.counted.sum()) - int(np.count_nonzero(free))
    # Its last slabs are on their way back to the page allocator, or it is about to
    # be taken off the list by whoever has put the last reference.
    empty = left == 0
    how = "was destroyed" if taken_off else "has no users (refcount 0), as if destroyed,"
    what = f"{how} with {plural(left, 'object')} left in {plural(len(slabs), 'slab')}"
    ledger.suspects.append(
        Suspect("cache-destroyed", what, place="slab_caches", expected=0, found=left, moving=empty)
    )
