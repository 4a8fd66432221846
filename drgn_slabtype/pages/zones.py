# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Nodes and zones
---------------

The top bits of ``page->flags`` say which NUMA node and which zone a page
belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterator, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, sizeof
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.mmzone import NODE_DATA

from ..machine import Machine
from ..machine.memory import U64
from ..regions import Region, region

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ZoneBits:
    """Where ``page->flags`` holds node and zone (SPARSEMEM_VMEMMAP)."""

    shift: int
    """First bit of the zone; the node follows."""
    zone_width: int
    word_bits: int

    def place(self, flags: U64) -> U64:
        """Return node and zone of pages as one number, to be split by :meth:`split`."""
        return flags >> np.uint64(self.shift)

    def split(self, place: int) -> Tuple[int, int]:
        """Return (node, zone)."""
        return place >> self.zone_width, place & ((1 << self.zone_width) - 1)


def zone_bits(machine: Machine) -> ZoneBits:
    """Return the :class:`ZoneBits` of a program, found once."""
    return machine.fact(_zone_bits)


def _zone_bits(machine: Machine) -> ZoneBits:
    word_bits = 8 * machine.memory.word_size
    # A kernel has two zones at least; as many bits as their numbers need.
    zones = machine.enumerators("zone_type").get("__MAX_NR_ZONES", 4)
    width = max(zones - 1, 0).bit_length()
    return ZoneBits(word_bits - machine.nodes_shift - width, width, word_bits)


def zone_names(machine: Machine) -> Dict[Tuple[int, int], str]:
    """Return the names of zones by (node, zone), as the kernel has them."""
    return machine.settled(_zone_names)


def _zone_names(machine: Machine) -> Dict[Tuple[int, int], str]:
    names = {}
    for nid in machine.nodes:
        for number, zone in enumerate(NODE_DATA(machine.prog, nid).node_zones):
            names[nid, number] = _name(machine, zone.name.value_(), number)
    return names


def _name(machine: Machine, address: int, number: int) -> str:
    try:
        name = machine.prog.read_c_string(address, max_size=32)
    except FaultError:
        # The names are constants of the kernel image, which a dump may lack.
        by_number = {
            v: k for k, v in machine.enumerators("zone_type").items() if k != "__MAX_NR_ZONES"
        }
        return by_number.get(number, f"zone {number}").replace("ZONE_", "")
    return escape_ascii_string(name, escape_backslash=True)


def online_nodes(machine: Machine) -> Iterator[Object]:
    """Yield the ``struct pglist_data *`` of every online node."""
    for nid in machine.nodes:
        yield NODE_DATA(machine.prog, nid)


def populated_zones(machine: Machine) -> Iterator[Tuple[int, int, Object]]:
    """
    Yield node, number and ``struct zone`` of every zone that has pages.

    Either of the numbers that say so may be damaged.
    """
    for nid in machine.nodes:
        for number, zone in enumerate(NODE_DATA(machine.prog, nid).node_zones):
            if zone.spanned_pages or zone.present_pages:
                yield nid, number, zone


def zones_with_lists(machine: Machine) -> Iterator[Tuple[int, int, Object]]:
    """Yield what :func:`populated_zones` does, unless no lists of CPUs can be where it leads."""
    wrong = {one.word for one in machine.online.wrong}
    for nid, number, zone in populated_zones(machine):
        # Since Linux kernel commit 28f836b6777b ("mm/page_alloc: split per cpu page lists and
        # zone stats") (in v5.14), it has the first of these names.
        names = ("per_cpu_pageset", "pageset")
        places = {zone.member_(name).address_ for name in names if zone.type_.has_member(name)}
        if not places & wrong:
            yield nid, number, zone


def regions(machine: Machine) -> Iterator[Region]:
    """Yield nodes with their zones."""
    for node in online_nodes(machine):
        yield region("nodes", node.value_(), sizeof(node[0]))
