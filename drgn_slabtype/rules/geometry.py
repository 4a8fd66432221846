# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a slab is made of: its cache, order, node, objects and first object."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator

import numpy as np

from ..codes import ADDRESS
from ..findings import Finding
from ..ledger import Ledger, Suspect, Walk

_MADE_WRONG = frozenset({"slab-order-wrong", "slab-objects-wrong", "slab-base-wrong"})
_SEVERAL = 3  # slabs that are not damaged alike by chance


def as_finding(suspect: Suspect) -> Finding:
    """Return what an allocator met while reading as a finding of no cache and no slab."""
    return Finding(
        suspect.code,
        suspect.message,
        node=suspect.node,
        cpu=suspect.cpu,
        place=suspect.place,
        expected=suspect.expected,
        found=suspect.found,
        moving=suspect.moving,
        address=suspect.address,
        activity=suspect.activity,
        word=suspect.word,
        member=suspect.member,
        measure=suspect.measure,
    )


def judge_geometry(ledger: Ledger) -> Iterator[Finding]:
    """Yield what the allocator met while reading, and slabs that name another cache."""
    slabs, name = ledger.slabs, ledger.facts.name
    for suspect in (*ledger.suspects, *ledger.notes):
        page = int(slabs.page[suspect.slab]) if suspect.slab >= 0 else None
        node = int(slabs.nid[suspect.slab]) if suspect.slab >= 0 else suspect.node
        where = f" slab 0x{page:x}" if page is not None else ""
        if page is None and suspect.node is not None:
            where = f" node {suspect.node}"
        message = f"{name}{where}: {suspect.message}"
        yield replace(as_finding(suspect), message=message, cache=name, node=node, slab=page)
    for slab in (~slabs.told & ~slabs.excused).nonzero()[0].tolist():
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
    yield from _judge_cache(ledger)


def _judge_cache(ledger: Ledger) -> Iterator[Finding]:
    # What all slabs have in common is the cache's, not theirs.
    facts, slabs, boxes = ledger.facts, ledger.slabs, ledger.containers
    if len(slabs) < _SEVERAL:
        return
    misfits = {s.slab for s in ledger.suspects if s.code in _MADE_WRONG and s.slab >= 0}
    own = np.array([not place.counted for place in ledger.places], np.bool_)[boxes.place]
    own &= (boxes.walked > 0) | (boxes.state != Walk.WHOLE)
    broken = own & (boxes.state != Walk.WHOLE) & (boxes.state != Walk.UNREADABLE)
    for what, wrong, all_of in (
        ("slabs is made as the cache says", len(misfits), len(slabs)),
        ("freelists can be followed as the cache says", int(broken.sum()), int(own.sum())),
    ):
        if wrong == all_of >= _SEVERAL:
            yield Finding(
                "cache-wrong",
                f"{facts.name}: none of {all_of} {what}",
                cache=facts.name,
                found=facts.address,
                measure=ADDRESS,
            )
            return
