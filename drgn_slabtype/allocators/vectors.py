# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a slab keeps beside its objects
------------------------------------

A vector with an entry for each object: who is charged for it, and where it was
allocated. It lies in an object of kmalloc(), in what the slab has left over, or in
the slots themselves.
"""

from __future__ import annotations

import numpy as np

from ..index import SlabIndex
from ..ledger import U64


def vector_words(index: SlabIndex) -> U64:
    """
    Return the word of each slab that leads to its vector, flags and all.

    ``obj_cgroups`` to Linux 5.10; ``memcg_data`` since Linux kernel commit
    87944e2992bd ("mm: Introduce page memcg flags") (in v5.11); ``obj_exts`` since
    21c690a349ba ("mm: introduce slabobj_ext to support slab object extensions")
    (in v6.10).
    """
    for name in ("obj_exts", "memcg_data", "obj_cgroups"):
        if index.structure.has(name):
            return index[name]
    return np.zeros(len(index), np.uint64)
