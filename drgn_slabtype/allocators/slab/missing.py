# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Array caches that are not there
-------------------------------

Every node that is online gets the same from ``setup_kmem_cache_node()``: a shared
array, if the cache asks for one, and alien arrays for the objects of all other
nodes, unless no cache has any. Which nodes were online then, most caches tell.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Tuple

import numpy as np

from ...codes import ADDRESS
from ...distinct import distinct
from ...ledger import I64, Bools, Suspect
from ...machine import Machine
from ...rules.alike import understood
from ..caches import read_caches
from ..nodes import Nodes, read_nodes
from .arrays import ALIEN, PLACES, SHARED, alien_rows, read_alien_tables

Missing = Dict[int, List[Suspect]]
"""Arrays that are not there, by ``struct kmem_cache *``."""


def missing_arrays(machine: Machine) -> Missing:
    """Return the pointers to arrays that are NULL, and are not in the nodes of other caches."""
    caches = machine.settled(read_caches)
    nodes = read_nodes(machine, caches, every=True)
    there = nodes.rows.ok & caches.listed[nodes.cache]
    asked = there & (caches.rows["shared"][nodes.cache] != 0)
    found: Missing = {}
    for owner, suspect in (
        *_members(nodes, "shared", SHARED, asked),
        *_members(nodes, "alien", ALIEN, there),
        *_rows(machine, nodes, there),
    ):
        found.setdefault(int(caches.addresses[owner]), []).append(suspect)
    return found


def _members(nodes: Nodes, member: str, kind: int, of: Bools) -> Iterator[Tuple[int, Suspect]]:
    # A pointer of a node, by what other caches have for the same node.
    none = of & (nodes.rows[member] == 0)
    offset, place = nodes.rows.structure.offset(member), PLACES[kind].name
    for nid in distinct(nodes.nid[of]).tolist():
        here = of & (nodes.nid == nid)
        for row in np.flatnonzero(understood(none & here, here)).tolist():
            word = int(nodes.rows.addresses[row]) + offset
            what = f"{place}{'s' if kind == ALIEN else ''} of node {nid}"
            yield int(nodes.cache[row]), _missing(what, place, nid, member, word)


def _rows(machine: Machine, nodes: Nodes, there: Bools) -> Iterator[Tuple[int, Suspect]]:
    # The table of a node, by those of other caches for the same node.
    tables = read_alien_tables(machine, nodes)
    gathered = alien_rows(machine, tables)
    owners: I64 = distinct(nodes.cache[there])
    known = gathered.ok & np.isin(tables.cache, owners)
    for nid in distinct(tables.nid[known]).tolist():
        here = known & (tables.nid == nid)
        for other in range(gathered.pointers.shape[1]):
            none = here & (gathered.pointers[:, other] == 0)
            for row in np.flatnonzero(understood(none, here)).tolist():
                word = int(tables.address[row]) + other * machine.memory.word_size
                what = f"alien array of node {nid} for objects of node {other}"
                one = _missing(what, PLACES[ALIEN].name, nid, f"alien[{other}]", word)
                yield int(tables.cache[row]), one


def _missing(what: str, place: str, nid: int, member: str, word: int) -> Suspect:
    # While a cache is tuned, or a CPU comes or goes, some nodes have theirs and some not.
    return Suspect(
        "container-state",
        f"{what} is NULL, which that of other caches is not",
        node=nid,
        place=place,
        found=0,
        moving=True,
        member=member,
        word=word,
        measure=ADDRESS,
    )
