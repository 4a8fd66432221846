# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every claim is an object of this cache, and no object is claimed twice."""

from __future__ import annotations

from typing import Iterator, Optional

import numpy as np

from ..findings import Finding
from ..ledger import Ledger, State, Walk


def judge_claims(ledger: Ledger) -> Iterator[Finding]:
    """Yield containers that hold what they must not, then objects in two places."""
    yield from _judge_walks(ledger)
    yield from _judge_foreign(ledger)
    yield from _judge_nodes(ledger)
    yield from _judge_doubles(ledger)


def _judge_walks(ledger: Ledger) -> Iterator[Finding]:
    # Where following a container came to an end that is none.
    boxes, slabs, name = ledger.containers, ledger.slabs, ledger.facts.name
    for box in np.flatnonzero(boxes.state != Walk.WHOLE).tolist():
        place = ledger.places[boxes.place[box]]
        slab = int(boxes.slab[box])
        if slab >= 0 and slabs.excused[slab]:
            continue
        state = Walk(boxes.state[box])
        value, culprit = int(boxes.value[box]), int(boxes.culprit[box])
        code, what = {
            Walk.POINTER: (place.bad, f"entry after {_position(culprit)} is 0x{value:x}"),
            Walk.CYCLE: (place.repeat, f"0x{value:x} comes again after {_position(culprit)}"),
            Walk.MISPLACED: ("freelist-array", f"freelist array cannot be at 0x{value:x}"),
            Walk.UNREADABLE: ("unreadable", "could not be read to its end"),
        }[state]
        yield Finding(
            code,
            f"{name} {_where(ledger, box)}: {what}",
            cache=name,
            node=int(slabs.nid[slab]) if slab >= 0 else None,
            cpu=container_cpu(ledger, box),
            slab=int(slabs.page[slab]) if slab >= 0 else None,
            place=place.name,
            index=culprit if culprit >= 0 else None,
            expected=int(slabs.objects[slab]) if slab >= 0 and state == Walk.POINTER else None,
            found=value,
            moving=bool(boxes.busy[box]),
            address=container_address(ledger, box),
        )


def _judge_foreign(ledger: Ledger) -> Iterator[Finding]:
    # Entries of arrays, each of which can be wrong on its own.
    claims, boxes, name = ledger.claims, ledger.containers, ledger.facts.name
    for claim in np.flatnonzero((claims.slab < 0) | (claims.index < 0)).tolist():
        box, slab = int(claims.container[claim]), int(claims.slab[claim])
        address, position = int(claims.address[claim]), int(claims.position[claim])
        what = "is in no slab of this cache" if slab < 0 else "is not where an object begins"
        yield Finding(
            ledger.places[claims.place[claim]].bad,
            f"{name} {_where(ledger, box)}: entry {position}, 0x{address:x}, {what}",
            cache=name,
            node=int(ledger.slabs.nid[slab]) if slab >= 0 else None,
            cpu=container_cpu(ledger, box),
            slab=int(ledger.slabs.page[slab]) if slab >= 0 else None,
            object=address,
            index=position,
            place=container_name(ledger, box),
            found=address,
            moving=bool(boxes.busy[box]),
            address=container_address(ledger, box),
        )


def _judge_nodes(ledger: Ledger) -> Iterator[Finding]:
    claims, boxes, slabs, name = ledger.claims, ledger.containers, ledger.slabs, ledger.facts.name
    known = np.flatnonzero((claims.slab >= 0) & (claims.container >= 0))
    must = boxes.nid[claims.container[known]]
    nid = slabs.nid[claims.slab[known]]
    for claim in known[(must >= 0) & (must != nid)].tolist():
        box, slab = int(claims.container[claim]), int(claims.slab[claim])
        address = int(claims.address[claim])
        yield Finding(
            "claim-node",
            f"{name} {_where(ledger, box)}: object 0x{address:x} is from node {slabs.nid[slab]}, "
            f"not {boxes.nid[box]}",
            cache=name,
            node=int(slabs.nid[slab]),
            cpu=container_cpu(ledger, box),
            slab=int(slabs.page[slab]),
            object=address,
            index=int(claims.position[claim]),
            place=container_name(ledger, box),
            expected=int(boxes.nid[box]),
            found=int(slabs.nid[slab]),
            moving=bool(boxes.busy[box]),
            address=container_address(ledger, box),
        )


def _judge_doubles(ledger: Ledger) -> Iterator[Finding]:
    claims, slabs, boxes = ledger.claims, ledger.slabs, ledger.containers
    name = ledger.facts.name
    known = np.flatnonzero((claims.slab >= 0) & (claims.index >= 0))
    most = int(slabs.objects.max(initial=0)) + 1
    keys = claims.slab[known].astype(np.int64) * most + claims.index[known]
    order = np.argsort(keys, kind="stable")
    known, keys = known[order], keys[order]
    for at in np.flatnonzero(keys[1:] == keys[:-1]).tolist():
        first, second = int(known[at]), int(known[at + 1])
        owners = [int(claims.container[claim]) for claim in (first, second)]
        places = [container_name(ledger, box) for box in owners]
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
            place=places[1],
            expected=places[0],
            found=places[1],
            moving=bool(boxes.busy[owners].any()),
        )


def _position(culprit: int) -> str:
    return "the head" if culprit < 0 else f"position {culprit}"


def container_cpu(ledger: Ledger, box: int) -> Optional[int]:
    """Return the CPU that owns a container, if a CPU does."""
    owner = int(ledger.containers.owner[box])
    return owner if owner >= 0 and ledger.places[ledger.containers.place[box]].per_cpu else None


def container_address(ledger: Ledger, box: int) -> Optional[int]:
    """Return where a container is, if it is more than the freelist of a slab."""
    shared = ledger.places[ledger.containers.place[box]].counted
    return int(ledger.containers.address[box]) or None if shared else None


def container_node(ledger: Ledger, box: int) -> Optional[int]:
    """Return the node that owns a container, if a node does."""
    owner = int(ledger.containers.owner[box])
    return owner if owner >= 0 and container_cpu(ledger, box) is None else None


def container_name(ledger: Ledger, box: int) -> str:
    """Return the name of a container's place with its owner."""
    place = ledger.places[ledger.containers.place[box]]
    owner = int(ledger.containers.owner[box])
    if owner < 0:
        return place.name
    return f"{place.name} of {'CPU' if place.per_cpu else 'node'} {owner}"


def _where(ledger: Ledger, box: int) -> str:
    slab = int(ledger.containers.slab[box])
    if slab < 0:
        return container_name(ledger, box)
    return f"slab 0x{ledger.slabs.page[slab]:x} {container_name(ledger, box)}"
