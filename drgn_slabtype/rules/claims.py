# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every claim is an object of this cache, and no object is claimed twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, Optional

import numpy as np

from ..arguments import named
from ..codes import ADDRESS
from ..findings import Finding
from ..ledger import I64, Ledger, State, Walk, all_differ
from ..records import plural
from .counts import miscounted


def judge_claims(ledger: Ledger) -> Iterator[Finding]:
    """Yield containers that hold what they must not, then objects in two places."""
    yield from _judge_walks(ledger)
    yield from _judge_foreign(ledger)
    yield from _judge_nodes(ledger)
    yield from _judge_doubles(ledger)


def _judge_walks(ledger: Ledger) -> Iterator[Finding]:
    # Where following a container came to an end that is none.
    boxes, slabs, name = ledger.containers, ledger.slabs, ledger.facts.name
    for box in (boxes.state != Walk.WHOLE).nonzero()[0].tolist():
        place = ledger.places[boxes.place[box]]
        slab, state = int(boxes.slab[box]), Walk(boxes.state[box])
        if slab >= 0 and slabs.excused[slab]:
            continue
        if slab >= 0 and state is Walk.UNREADABLE and not place.counted and slabs.fresh[slab]:
            # Its free pointers are being written, to memory that was zeroed last.
            continue
        value, culprit, word = (
            int(column[box]) for column in (boxes.value, boxes.culprit, boxes.word)
        )
        what = {
            Walk.MISPLACED: f"freelist array cannot be at 0x{value:x}",
            Walk.UNREADABLE: "could not be read to its end",
        }.get(state, "")
        finding = Finding(
            {
                Walk.POINTER: place.bad,
                Walk.CYCLE: place.repeat,
                Walk.MISPLACED: "freelist-array",
            }.get(state, "unreadable"),
            f"{name} {_where(ledger, box)}: {what}",
            cache=name,
            node=int(slabs.nid[slab]) if slab >= 0 else None,
            cpu=container_cpu(ledger, box),
            slab=int(slabs.page[slab]) if slab >= 0 else None,
            place=place.name,
            index=culprit if culprit >= 0 else None,
            found=value,
            measure=ADDRESS if state is Walk.UNREADABLE else None,
            address=word or container_address(ledger, box),
            moving=bool(boxes.busy[box]),
        )
        if state in (Walk.POINTER, Walk.CYCLE):
            ended = _ended_in_array if place.bad == "freelist-index" else _ended_in_object
            finding = ended(ledger, box, finding)
        yield finding


def _ended_in_array(ledger: Ledger, box: int, finding: Finding) -> Finding:
    # At an entry of an index array, the first of which are stale.
    slab, entry = int(ledger.containers.slab[box]), int(ledger.containers.culprit[box])
    position = entry - int(ledger.slabs.counted[slab])
    limit = int(ledger.slabs.objects[slab])
    what = f"entry {entry} (position {position}) at 0x{finding.address or 0:x} is {finding.found}"
    if finding.code == "freelist-duplicate":
        return replace(
            finding, message=f"{finding.message}{what}, which comes twice", position=position
        )
    return replace(
        finding,
        message=f"{finding.message}{what}, and it has {plural(limit, 'object')}",
        position=position,
        expected=limit,
    )


def _ended_in_object(ledger: Ledger, box: int, finding: Finding) -> Finding:
    # At the free pointer of an object, or at the head.
    boxes, slabs, stride = ledger.containers, ledger.slabs, ledger.facts.stride
    slab, slot = int(boxes.slab[box]), int(boxes.culprit[box])
    holder, place = None, "the head"
    position = int(boxes.walked[box]) - 1
    if slot >= 0:
        holder = int(slabs.base[slab]) + slot * stride
        place = f"the free pointer of object 0x{holder:x} (slot {slot}, position {position})"
    at = f" at 0x{finding.address:x}" if finding.address is not None else ""
    found = int(finding.found or 0)
    leads = f"is {named(found)}"
    if finding.code == "freelist-cycle":
        again = (found - int(slabs.base[slab])) // stride
        where = f"slot {again}{_standing(ledger, box, again)}"
        leads = f"leads back to object 0x{found:x} ({where})"
    return replace(
        finding,
        message=f"{finding.message}{place}{at} {leads}",
        object=holder,
        slot=slot if slot >= 0 else None,
        position=position if slot >= 0 else None,
    )


def _standing(ledger: Ledger, box: int, slot: int) -> str:
    # Where an object of a container's slab stands in the container.
    claims = ledger.claims
    at = ((claims.container == box) & (claims.index == slot)).nonzero()[0]
    return f", position {claims.position[at[0]]}" if len(at) else ""


def _judge_foreign(ledger: Ledger) -> Iterator[Finding]:
    # Entries of arrays, each of which can be wrong on its own.
    claims, name = ledger.claims, ledger.facts.name
    for claim in ((claims.slab < 0) | (claims.index < 0)).nonzero()[0].tolist():
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
            position=position,
            place=container_name(ledger, box),
            found=address,
            moving=bool(claims.passing[claim]),
            address=container_address(ledger, box),
        )


def _judge_nodes(ledger: Ledger) -> Iterator[Finding]:
    claims, boxes, slabs, name = ledger.claims, ledger.containers, ledger.slabs, ledger.facts.name
    if not (boxes.nid >= 0).any():
        return
    known = ((claims.slab >= 0) & (claims.container >= 0)).nonzero()[0]
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
            slot=int(claims.index[claim]) if claims.index[claim] >= 0 else None,
            position=int(claims.position[claim]),
            place=container_name(ledger, box),
            expected=int(boxes.nid[box]),
            found=int(slabs.nid[slab]),
            address=container_address(ledger, box),
        )


def _judge_doubles(ledger: Ledger) -> Iterator[Finding]:
    claims, slabs, name = ledger.claims, ledger.slabs, ledger.facts.name
    known = ((claims.slab >= 0) & (claims.index >= 0)).nonzero()[0]
    most = int(slabs.objects.max(initial=0)) + 1
    keys = claims.slab[known].astype(np.int64) * most + claims.index[known]
    if all_differ(keys, len(slabs) * most):
        return
    order = np.argsort(keys, kind="stable")
    known, keys = known[order], keys[order]
    again = (keys[1:] == keys[:-1]).nonzero()[0]
    # Who moves objects between a slab and a CPU keeps the slab's count and freelist together.
    firm = np.zeros(len(slabs), np.bool_)
    firm[ledger.containers.slab[miscounted(ledger)]] = True
    firm &= ~slabs.busy
    for at in again[_in_order(ledger, known[again], known[again + 1])].tolist():
        first, second = int(known[at]), int(known[at + 1])
        owners = [int(claims.container[claim]) for claim in (first, second)]
        places = [container_name(ledger, box) for box in owners]
        live = State.LIVE in (claims.state[first], claims.state[second])
        # An object changes from one CPU to another by way of its slab or its node alone.
        apart = len({container_cpu(ledger, box) for box in owners} - {None}) > 1
        passes = claims.passing[[first, second]]
        work = {ledger.places[claims.place[one]].activity for one in (first, second)} - {None}
        slab, slot = int(claims.slab[first]), int(claims.index[first])
        address = int(slabs.base[slab]) + slot * ledger.facts.stride
        yield Finding(
            "claim-live" if live else "claim-twice",
            f"{name} object 0x{address:x}: recorded in {places[0]} and in {places[1]}",
            cache=name,
            node=int(slabs.nid[slab]),
            slab=int(slabs.page[slab]),
            object=address,
            index=slot,
            slot=slot,
            position=int(claims.position[second]) if claims.position[second] >= 0 else None,
            place=places[1],
            expected=places[0],
            found=places[1],
            moving=bool(passes.any()) and not (live or apart or firm[slab]),
            activity=next(iter(work), None),
        )


def _in_order(ledger: Ledger, first: I64, second: I64) -> I64:
    # Pairs of claims of one object, place by place; of all that two freelists
    # have in common, the object at which they met before what follows it.
    claims = ledger.claims
    beside = claims.position[first] + claims.position[second]
    return np.lexsort((beside, claims.container[second], claims.container[first]))


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
