# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which nodes there are, and where their structures
-------------------------------------------------

Nodes come online when they get a ``struct pglist_data``, and ``node_data[]`` leads
to it; what has memory is online (``node_states``). Each zone knows the node that it
lies in, and the node its number. Where one is contradicted by the others it is the
finding, and what the others say counts.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.linux.mmzone import NODE_DATA

from ..arguments import named
from ..codes import ADDRESS, Measure
from ..findings import Finding
from .masks import mask_of, numbers_in
from .memory import Bools
from .percpu import outside_units, per_cpu_addresses

if TYPE_CHECKING:
    from . import Machine

_FIRST_ID = 1 << 11
# Lists of free pages, until Linux 5.14 with counts beside them; counts (zone).
_OF_CPUS = ("per_cpu_pageset", "pageset", "per_cpu_zonestats")
_WORD = 1 << 64


class Nodes(NamedTuple):
    """The nodes that are online."""

    numbers: List[int]
    """Of those whose ``struct pglist_data`` can be used, as far as that is known."""
    wrong: Tuple[Finding, ...] = ()
    """What is contradicted."""
    lost: Tuple[int, ...] = ()
    """Numbers of nodes that have memory, and that cannot be found."""


class _Home(NamedTuple):
    # What node_data[] has of a node.
    address: int
    is_one: Optional[bool]
    """Whether it is the ``struct pglist_data`` of a node; ``None`` if that is not in the target."""
    wrong: Tuple[Finding, ...] = ()


def node_ids(machine: Machine) -> int:
    """
    Return how many entries of per-node arrays exist; 1 without NUMA.

    This is ``nr_node_ids``, unless two other places agree on another number:
    ``node_states[N_POSSIBLE]``, from which the kernel takes it, and ``node_data[]``.
    """
    try:
        told = machine.fact(_variable)
    except LookupError:
        return 1
    except FaultError:
        told = 0  # the others tell
    most = max(1 << machine.nodes_shift, 1)
    others = [number for number in _others(machine) if 0 < number <= most]
    if 0 < told <= most and (told in others or len(set(others)) != 1):
        return told
    number = max(others, default=1)
    machine.corrections.add("nr_node_ids", Object(machine.prog, "unsigned int", number))
    return number


def nodes_shift(machine: Machine) -> int:
    """Return NODES_SHIFT: how many bits of ``page->flags`` hold the node."""
    # struct kmem_cache ends in an array of MAX_NUMNODES entries.
    cache = machine.structure("struct kmem_cache")
    for name in ("per_node", "node"):
        if cache.has(name):
            length = cache.type.member(name).type.length
            return int(length).bit_length() - 1 if length else 0
    return 0


def online_nodes(machine: Machine) -> Nodes:
    """
    Return the nodes that are online.

    Where ``node_states`` is not in the target, they are those of which ``node_data[]``
    names the ``struct pglist_data``, or all there can be.
    """
    homes = {nid: _home(machine, nid) for nid in range(machine.node_ids)}
    there = {nid for nid, home in homes.items() if home is not None and home.is_one is not False}
    wrong = [one for home in homes.values() if home is not None for one in home.wrong]
    told = _state(machine, "N_ONLINE")
    if told is None:
        known = sorted(there) or list(range(machine.node_ids))
        return Nodes([nid for nid in known if homes[nid] is not None], tuple(wrong))
    memory = (_state(machine, "N_MEMORY") or 0) & (_state(machine, "N_NORMAL_MEMORY") or 0)
    needed = {nid for nid in numbers_in(memory) if nid in homes}
    lost = sorted(needed - there)
    wrong += [_no_home(machine, nid, homes[nid]) for nid in lost]
    out = needed - set(numbers_in(told))
    beyond = {nid for nid in numbers_in(told) if homes.get(nid) is None} - needed
    right = sorted((set(numbers_in(told)) | out) - beyond)
    if right and (out or beyond):
        wrong.append(_mask(out, beyond, told, sum(1 << nid for nid in right)))
    return Nodes([nid for nid in right or sorted(there) if nid in there], tuple(wrong), tuple(lost))


def node_damage(machine: Machine) -> Iterator[Finding]:
    """Yield a finding for each variable and member that is contradicted."""
    try:
        # The variable, whatever drgn was told since.
        told = machine.fact(_variable)
    except (FaultError, LookupError):
        told = machine.node_ids
    if told != machine.node_ids:
        yield Finding(
            "machine-wrong",
            f"nr_node_ids is {told}, of a machine with {machine.node_ids} nodes",
            place="nr_node_ids",
            expected=machine.node_ids,
            found=told,
            measure=Measure("count", "nodes"),
            id=4,
        )
    for id, one in enumerate(machine.online.wrong, _FIRST_ID):
        yield replace(one, id=id)


def _home(machine: Machine, nid: int) -> Optional[_Home]:
    # None if node_data[] has none.
    try:
        node = NODE_DATA(machine.prog, nid)
        address = int(node.value_())
    except (FaultError, LookupError):
        return _Home(0, None)
    if not address:
        return None
    zones = list(node.node_zones)
    owners, nids = (_column(zones, name) for name in ("zone_pgdat", "node"))
    number = _read(node.node_id)
    known = [owner for owner in owners if owner is not None]
    if not known:
        kernel = machine.memory.is_kernel_address(np.array([address], np.uint64))[0]
        return _Home(address, None if kernel else False)
    other = number not in (nid, None) and nids.count(number) == len(nids) > 0
    if address not in known or other:
        return _Home(address, False)
    found = []
    if number is not None and number != nid:
        found.append(_member(nid, "node_id", node.node_id, nid, number))
    for column, name, right in ((owners, "zone_pgdat", address), (nids, "node", nid)):
        found += [
            _member(nid, f"node_zones[{at}].{name}", zones[at].member_(name), right, value)
            for at, value in enumerate(column)
            if value is not None and value != right
        ]
    members = [("per_cpu_nodestats", node[0])]
    for at, zone in enumerate(zones):
        if _read(zone.present_pages) or _read(zone.spanned_pages):
            members += [(f"node_zones[{at}].{name}", zone) for name in _OF_CPUS]
    return _Home(address, True, (*found, *_astray(machine, nid, members)))


def _astray(machine: Machine, nid: int, members: Sequence[Tuple[str, Object]]) -> Iterator[Finding]:
    # Per-CPU pointers that lead nowhere; a node or zone has none of some of them, by kernel.
    there: List[Tuple[str, Object, int]] = []
    for place, of in members:
        name = place.split(".")[-1]
        pointer = _read(of.member_(name)) if of.type_.has_member(name) else None
        if pointer is not None:
            there.append((place, of.member_(name), pointer))
    pointers = np.array([pointer for _, _, pointer in there], np.uint64)
    copies = per_cpu_addresses(machine, pointers)
    nowhere = ~machine.memory.is_kernel_address(copies)
    # Lists begin with pointers; counts are bytes.
    lists = np.array([place.endswith("pageset") for place, _, _ in there], np.bool_)
    nowhere |= lists[:, None] & (copies % np.uint64(machine.memory.word_size) != 0)
    astray: Bools = np.any(nowhere & ~machine.per_cpu.lost, axis=1)
    outside: Bools = np.any(outside_units(machine, copies), axis=1)
    if 2 * np.count_nonzero(outside) < len(outside):  # else it is not they
        astray |= outside
    for at in np.flatnonzero(astray).tolist():
        place, member, pointer = there[at]
        yield Finding(
            "machine-wrong",
            f"node {nid}: {place} is {named(pointer)}, which leads to no per-CPU memory",
            node=nid,
            place=place,
            found=pointer,
            measure=ADDRESS,
            word=member.address_,
        )


def _column(zones: List[Object], name: str) -> List[Optional[int]]:
    return [_read(zone.member_(name)) for zone in zones if zone.type_.has_member(name)]


def _read(member: Object) -> Optional[int]:
    try:
        return int(member.value_())
    except (FaultError, OverflowError):
        return None


def _member(nid: int, name: str, member: Object, right: int, found: int) -> Finding:
    pointer = name.endswith("pgdat")
    shown = "0x{:x}" if pointer else "{}"
    return Finding(
        "machine-wrong",
        f"node {nid}: {name} is {shown.format(found)}, not {shown.format(right)}",
        node=nid,
        place=name,
        expected=right,
        found=found,
        measure=ADDRESS if pointer else Measure("index", "nodes"),
        word=member.address_,
    )


def _no_home(machine: Machine, nid: int, home: Optional[_Home]) -> Finding:
    address, what = 0, "NULL, of a node that has memory"
    if home is not None:
        address = home.address
        what = f"0x{address:x}, which is not the struct pglist_data of that node"
    word = None
    with suppress(LookupError):
        word = machine.prog["node_data"][nid].address_
    return Finding(
        "machine-wrong",
        f"node_data[{nid}] is {what}",
        node=nid,
        place="node_data",
        found=address,
        measure=ADDRESS,
        word=word,
    )


def _mask(lost: Set[int], beyond: Set[int], told: int, right: int) -> Finding:
    name = "node_states[N_ONLINE]"
    if lost:
        why = f"lacks node {min(lost)}, which has memory" if told else "is empty"
    else:
        why = f"has node {min(beyond)}, of which there is no struct pglist_data"
    short = max(told, right) < _WORD
    return Finding(
        "machine-wrong",
        f"{name} {why}",
        node=min(lost or beyond),
        place="node_states",
        expected=right if short else None,
        found=told if short else None,
        measure=Measure("word"),
    )


def _variable(machine: Machine) -> int:
    return int(machine.prog["nr_node_ids"])


def _others(machine: Machine) -> List[int]:
    found = []
    possible = _state(machine, "N_POSSIBLE")
    if possible is not None:
        found.append(possible.bit_length())
    with suppress(FaultError, LookupError, TypeError):
        pointers = np.frombuffer(machine.prog["node_data"].to_bytes_(), machine.memory.word)
        places = pointers.nonzero()[0]
        found.append(int(places[-1]) + 1 if len(places) else 0)
    return found


def _state(machine: Machine, name: str) -> Optional[int]:
    # One of the masks of nodes; None if it is not in the target.
    states = machine.enumerators("node_states")
    try:
        return mask_of(machine.prog["node_states"][states[name]].bits)
    except (AttributeError, FaultError, LookupError, TypeError):
        return None
