# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Barns (SLUB since Linux 6.18)
-----------------------------

Each node keeps full and empty sheaves of a cache on two lists for its CPUs.
"""

from __future__ import annotations

from typing import Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from drgn import FaultError

from ...arguments import named
from ...codes import ADDRESS, SHEAVES, Measure
from ...ledger import I64, U64, Bools, Suspect, Walk
from ...machine import Machine
from ...machine.columns import Rows
from ...machine.locks import lock_states
from ...regions import Region, region
from ..caches import Caches
from ..links import Torn, follow, torn
from ..lists import follow_links
from ..locks import lock_suspects
from ..members import per_node_offset
from ..nodes import Nodes, node_pointers
from ..pointers import wild_pointer, wild_pointers
from ..whereabouts import in_no_memory

_MAX_SHEAVES = 4096
_TRIES = 3  # to find a list as its barn counts it, if both move
_SOFT_LIMIT = 10  # sheaves of each kind in a barn; each CPU may add one at the same time


class Found(NamedTuple):
    """One sheaf and who has it."""

    cache: int
    """Position of the cache whose CPU or node has it."""
    place: str
    owner: int
    """CPU or node."""
    address: int
    """``struct slab_sheaf *``."""
    busy: bool
    """Whether the lock of the barn, or of the CPU's sheaves, was held."""
    pointer: Optional[int] = None
    """Where the pointer to it stands, if it is on no list."""

    @property
    def name(self) -> str:
        """The place with its owner."""
        return f"{self.place} of {'node' if 'barn' in self.place else 'CPU'} {self.owner}"

    def suspect(
        self,
        what: str,
        expected: Optional[int],
        found: int,
        passes: bool = False,
        measure: Measure = ADDRESS,
    ) -> Suspect:
        """
        Return the finding that the place holds something it must not.

        :param passes: Whether a sheaf stands there for a moment under the lock.
        """
        per_node = "barn" in self.place
        return Suspect(
            "container-state",
            f"sheaf 0x{self.address:x} in {self.name} {what}",
            node=self.owner if per_node else None,
            cpu=None if per_node else self.owner,
            place=self.name,
            expected=expected,
            found=found,
            moving=self.busy and passes,
            address=self.address,
            word=self.pointer if found == self.address else None,
            measure=measure,
        )


class Barns(NamedTuple):
    """Every barn of the chosen caches."""

    addresses: U64
    """``struct node_barn *`` of each."""
    sheaves: List[Found]
    """What is on their lists."""
    suspects: List[Tuple[int, Suspect]]
    """What is wrong with them, with the position of the cache."""


def barn_pointers(
    machine: Machine, caches: Caches, nodes: Nodes, every: bool = False
) -> Tuple[I64, I64, U64]:
    """
    Return where barns are: position of the cache, node, and pointer.

    :param every: Of all caches, not only of those that are chosen.
    """
    # Before Linux 7.1, the node points to its barn.
    if machine.structure("struct kmem_cache").has("per_node"):
        return node_pointers(machine, caches, "barn", every)
    barn = nodes.rows["barn"]
    there = barn != 0
    return nodes.cache[there], nodes.nid[there], barn[there]


def read_barns(machine: Machine, caches: Caches, nodes: Nodes) -> Barns:
    """Walk both lists of every barn."""
    cache, nid, addresses = barn_pointers(machine, caches, nodes)
    barns = Barns(addresses, [], [])
    rows = machine.rows("struct node_barn", addresses)
    wild = wild_pointers(machine, addresses, machine.memory.word_size, rows.ok)
    for number, node, at in zip(*(column[wild].tolist() for column in (cache, nid, addresses))):
        word = _holder(machine, caches, nodes, number, node)
        lost = wild_pointer(f"barn of node {node}", at, node=node, place="barn", word=word)
        barns.suspects.append((number, lost))
    locks = lock_states(machine, rows, "lock")
    barns.suspects.extend(
        (int(cache[at]), suspect) for at, suspect in lock_suspects(locks, nodes=nid, place="barn")
    )
    for kind in ("full", "empty"):
        _walk_lists(machine, barns, rows, cache, nid, locks.held, kind)
    return barns


def _holder(machine: Machine, caches: Caches, nodes: Nodes, number: int, nid: int) -> int:
    # Where the pointer to a barn stands.
    if machine.structure("struct kmem_cache").has("per_node"):
        return int(caches.addresses[number]) + per_node_offset(machine, "barn", nid)
    (row,) = np.flatnonzero((nodes.cache == number) & (nodes.nid == nid))
    return int(nodes.rows.addresses[row]) + nodes.rows.structure.offset("barn")


def _walk_lists(
    machine: Machine, barns: Barns, rows: Rows, cache: I64, nid: I64, held: Bools, kind: str
) -> None:
    link = machine.structure("struct slab_sheaf").offset("barn_list")
    heads = rows.addresses + np.uint64(rows.structure.offset(f"sheaves_{kind}"))
    kept = rows[f"nr_{kind}"].astype(np.int64)
    counters = rows.addresses + np.uint64(rows.structure.offset(f"nr_{kind}"))
    width = rows.structure.size_of(f"nr_{kind}")
    for at in np.flatnonzero(rows.ok).tolist():
        number, node, busy = int(cache[at]), int(nid[at]), bool(held[at])
        sheaves, end, stop = _walk(machine, int(heads[at]), link)
        for _ in range(_TRIES if machine.is_live else 0):
            if end is Walk.WHOLE and len(sheaves) == kept[at]:
                break
            # Of what moves, the list again and then its counter.
            sheaves, end, stop = _walk(machine, int(heads[at]), link)
            kept[at] = _number(machine, int(counters[at]), width, int(kept[at]))
        place = f"{kind} barn"
        barns.sheaves.extend(Found(number, place, node, sheaf, busy) for sheaf in sheaves)
        if end is Walk.WHOLE and len(sheaves) == kept[at]:
            continue
        code, what = {
            Walk.WHOLE: ("container-count", f"{len(sheaves)} are listed"),
            Walk.POINTER: ("list-broken", "the list does not close"),
            Walk.UNREADABLE: ("unreadable", "the list is not in the target"),
        }[end]
        suspect = Suspect(
            code,
            f"barn of node {node} counts {kept[at]} {kind} sheaves, {what}",
            node=node,
            place=f"{place} of node {node}",
            expected=len(sheaves),
            found=int(kept[at]),
            moving=busy and _passes(machine, int(kept[at]), len(sheaves), stop),
            address=int(heads[at]),
            word=int(counters[at]) if end is Walk.WHOLE else None,
            measure=SHEAVES,
        )
        if end is Walk.POINTER and stop is not None:
            suspect = _at_link(suspect, stop)
        barns.suspects.append((number, suspect))


def _at_link(suspect: Suspect, link: Torn) -> Suspect:
    # A list that does not close, by the link that is to blame.
    leads = f"{link.member} of 0x{link.links:x} is {named(link.found)}"
    should = "" if link.expected is None else f", not {named(link.expected)}"
    return suspect._replace(
        message=f"{suspect.message}: {leads}{should}",
        expected=link.expected,
        found=link.found,
        word=link.word,
        member=link.member,
        measure=ADDRESS,
    )


def _number(machine: Machine, address: int, width: int, otherwise: int) -> int:
    try:
        data = machine.memory.read(address, width)
    except FaultError:
        return otherwise
    return int.from_bytes(data, "little" if machine.memory.byteorder == "<" else "big")


def _walk(machine: Machine, head: int, link: int) -> Tuple[List[int], Walk, Optional[Torn]]:
    # The sheaves of one list, how it ended, and at what link if it did not close.
    found = follow(machine, head, _MAX_SHEAVES)
    sheaves = [member - link for member in found.links]
    if found.closed:
        return sheaves, Walk.WHOLE, None
    known = found.readable or in_no_memory(machine, np.array([found.found], np.uint64))[0]
    stop = torn(machine, found, follow(machine, head, _MAX_SHEAVES, backward=True))
    return sheaves, Walk.POINTER if known else Walk.UNREADABLE, stop


def _passes(machine: Machine, kept: int, listed: int, stop: Optional[Torn]) -> bool:
    # Under the lock one sheaf goes on a list or leaves it, and is counted; a
    # barn that is shrunk is empty before it counts none. A link leads to a
    # sheaf or to a head, if only that of a stack.
    most = _SOFT_LIMIT + len(machine.cpus)
    if abs(kept - listed) > 1 and not (kept <= most and listed in (0, kept)):
        return False
    if stop is None:
        return True
    leads = machine.memory.is_kernel_address(np.array([stop.found], np.uint64))
    return stop.found % machine.memory.word_size == 0 and bool(leads[0])


def regions(machine: Machine, caches: Caches, nodes: Nodes) -> Iterator[Region]:
    """Yield every barn, and the sheaves on its lists."""
    if not caches.rows.structure.has("cpu_sheaves"):
        return
    barn = machine.structure("struct node_barn")
    link = machine.structure("struct slab_sheaf").offset("barn_list")
    cache, _, pointers = barn_pointers(machine, caches, nodes)
    there = machine.memory.is_kernel_address(pointers)
    yield region("cache nodes", pointers[there], barn.size)
    for number, address in zip(cache[there].tolist(), pointers[there].tolist()):
        for member in ("sheaves_full", "sheaves_empty"):
            links = follow_links(machine, address + barn.offset(member))
            sheaves = np.array(links, np.uint64) - np.uint64(link)
            yield sheaf_region(machine, caches, np.full(len(links), number), sheaves)


def sheaf_region(machine: Machine, caches: Caches, cache: I64, sheaves: U64) -> Region:
    """
    Return the region of some sheaves.

    :param cache: Position of the cache that each is of.
    """
    there = machine.memory.is_kernel_address(sheaves)
    capacity = caches.rows["sheaf_capacity"][cache[there]]
    head = machine.structure("struct slab_sheaf").size
    sizes = np.uint64(head) + capacity * np.uint64(machine.memory.word_size)
    return region("per-CPU slabs and sheaves", sheaves[there], sizes)
