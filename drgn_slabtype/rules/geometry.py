# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a slab is made of: its cache, order, node, objects and first object."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..findings import Finding
from ..ledger import Ledger


def judge_geometry(ledger: Ledger) -> Iterator[Finding]:
    """Yield what the allocator met while reading, and slabs that name another cache."""
    slabs, name = ledger.slabs, ledger.facts.name
    for suspect in (*ledger.suspects, *ledger.notes):
        page = int(slabs.page[suspect.slab]) if suspect.slab >= 0 else None
        node = int(slabs.nid[suspect.slab]) if suspect.slab >= 0 else suspect.node
        where = f" slab 0x{page:x}" if page is not None else ""
        if page is None and suspect.node is not None:
            where = f" node {suspect.node}"
        yield Finding(
            suspect.code,
            f"{name}{where}: {suspect.message}",
            cache=name,
            node=node,
            cpu=suspect.cpu,
            slab=page,
            place=suspect.place,
            expected=suspect.expected,
            found=suspect.found,
            moving=suspect.moving,
        )
    for slab in np.flatnonzero(~slabs.told & ~slabs.excused).tolist():
        page = int(slabs.page[slab])
        yield Finding(
            "slab-cache-wrong",
            f"{name} slab 0x{page:x}: its cache pointer does not lead back to the cache "
            "whose list it stands on",
            cache=name,
            node=int(slabs.nid[slab]),
            slab=page,
            expected=ledger.facts.address,
            found=int(slabs.cache_pointer[slab]),
        )
