# SPDX-License-Identifier: LGPL-2.1-or-later
"""
JSON, schema 1: caches, objects, one object
-------------------------------------------

Sizes and memory are in bytes.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Dict, Iterator, Optional

from .documents import document, dump
from .values import address

if TYPE_CHECKING:
    from ..answers.caches import CachesAnswer, CacheUsage
    from ..answers.object import AddressInfo
    from ..answers.states import Objects, SlabObject


def caches(answer: CachesAnswer) -> str:
    """Present every cache, and the sums."""
    total = _cache(answer.total)
    for name in ("name", "address", "aliases", "object_size", "size", "objects_per_slab"):
        del total[name]
    for name in ("pages_per_slab", "colours", "slabinfo", "nodes", "cpus"):
        del total[name]
    return dump(document(caches=[_cache(cache) for cache in answer.caches], total=total))


def _cache(cache: CacheUsage) -> Dict[str, Any]:
    return {
        **asdict(cache),
        "address": address(cache.address),
        "waste": cache.waste,
        "occupancy": cache.occupancy,
        "slabinfo": cache.slabinfo and cache.slabinfo._asdict(),
    }


def objects(found: Objects) -> Iterator[str]:
    """Present the objects of a cache, a line each, as they are asked for."""
    facts = found.ledger.facts
    cache = {
        "name": facts.name,
        "address": address(facts.address),
        "object_size": facts.object_size,
        "size": facts.stride,
    }
    start = dump(document(cache=cache, count=len(found), objects=[]))
    head, tail = start.rsplit("[]", 1)
    yield head + "["
    separator = "\n"
    for rows in found.batches():
        lines = [
            f'{{"address": "0x{object:x}", "slab": "0x{slab:x}", "index": {index}, '
            f'"state": "{state}", "place": {_quoted(place)}, '
            f'"position": {"null" if position is None else position}}}'
            for object, slab, index, state, place, position in rows
        ]
        if lines:
            yield separator + ",\n".join(lines)
            separator = ",\n"
    yield "]" + tail


def _quoted(place: Optional[str]) -> str:
    return "null" if place is None else json.dumps(place)


def object(info: AddressInfo) -> str:
    """Present what is known about an address."""
    addresses = ("address", "slab_cache", "slab", "object", "page")
    found = {
        **asdict(info),
        **{name: address(getattr(info, name)) for name in addresses},
        "previous": _neighbour(info.previous),
        "next": _neighbour(info.next),
        "tracks": [track._asdict() for track in info.tracks],
    }
    return dump(document(**found))


def _neighbour(other: Optional[SlabObject]) -> Optional[Dict[str, Any]]:
    if other is None:
        return None
    return {**asdict(other), "address": address(other.address), "slab": address(other.slab)}
