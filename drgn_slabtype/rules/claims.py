# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every claim is an object of this cache, and no object is claimed twice."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..findings import Finding
from ..ledger import Ledger, State, Walk


def judge_claims(ledger: Ledger) -> Iterator[Finding]:
    """Yield containers that hold what they must not, then objects in two places."""
    yield from _judge_containers(ledger)
    yield from _judge_doubles(ledger)


def _judge_containers(ledger: Ledger) -> Iterator[Finding]:
    boxes, slabs, name = ledger.containers, ledger.slabs, ledger.facts.name
    for box in np.flatnonzero(boxes.state != Walk.WHOLE).tolist():
        place = ledger.places[boxes.place[box]]
        slab = int(boxes.slab[box])
        if slab >= 0 and slabs.excused[slab]:
            continue
        page = int(slabs.page[slab]) if slab >= 0 else None
        state, value, culprit = (
            Walk(boxes.state[box]),
            int(boxes.value[box]),
            int(boxes.culprit[box]),
        )
        where = f"slab 0x{page:x}" if page is not None else f"{place.name} {int(boxes.owner[box])}"
        code, what = {
            Walk.POINTER: (place.bad, f"entry after {_position(culprit)} is 0x{value:x}"),
            Walk.CYCLE: (place.repeat, f"0x{value:x} comes again after {_position(culprit)}"),
            Walk.MISPLACED: ("freelist-array", f"freelist array cannot be at 0x{value:x}"),
            Walk.UNREADABLE: ("unreadable", f"{place.name} could not be read to its end"),
        }[state]
        yield Finding(
            code,
            f"{name} {where}: {what}",
            cache=name,
            node=int(slabs.nid[slab]) if slab >= 0 else None,
            cpu=int(boxes.owner[box]) if slab < 0 else None,
            slab=page,
            place=place.name,
            index=culprit if culprit >= 0 else None,
            expected=int(slabs.objects[slab]) if slab >= 0 and state == Walk.POINTER else None,
            found=value,
        )


def _position(culprit: int) -> str:
    return "the head" if culprit < 0 else f"position {culprit}"


def _judge_doubles(ledger: Ledger) -> Iterator[Finding]:
    claims, slabs, name = ledger.claims, ledger.slabs, ledger.facts.name
    known = np.flatnonzero((claims.slab >= 0) & (claims.index >= 0))
    most = int(slabs.objects.max(initial=0)) + 1
    keys = claims.slab[known] * most + claims.index[known]
    order = np.argsort(keys, kind="stable")
    known, keys = known[order], keys[order]
    for at in np.flatnonzero(keys[1:] == keys[:-1]).tolist():
        first, second = int(known[at]), int(known[at + 1])
        places = [_spell(ledger, claim) for claim in (first, second)]
        live = State.LIVE in (claims.state[first], claims.state[second])
        slab = int(claims.slab[first])
        address = int(slabs.base[slab]) + int(claims.index[first]) * ledger.facts.stride
        yield Finding(
            "claim-live" if live else "claim-twice",
            f"{name} object 0x{address:x}: recorded in {places[0]} and in {places[1]}",
            cache=name,
            node=int(slabs.nid[slab]),
            slab=int(slabs.page[slab]),
            object=address,
            index=int(claims.index[first]),
            place=ledger.places[claims.place[second]].name,
            expected=places[0],
            found=places[1],
        )


def _spell(ledger: Ledger, claim: int) -> str:
    place = ledger.places[ledger.claims.place[claim]]
    owner = int(ledger.claims.owner[claim])
    return place.name if owner < 0 else f"{place.name} {owner}"
