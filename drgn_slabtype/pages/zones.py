# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Nodes and zones
---------------

The top bits of ``page->flags`` say which NUMA node and which zone a page
belongs to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Program
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.mmzone import NODE_DATA
from drgn.helpers.linux.nodemask import for_each_online_node

from ..machine.columns import structure
from ..machine.memory import U64, memory, unchanging
from ..pagetype.sources import enumerators

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


def zone_bits(prog: Program) -> ZoneBits:
    """Return the :class:`ZoneBits` of a program, found once."""
    found = prog.cache.get("slabtype_zone_bits")
    if found is None:
        found = prog.cache["slabtype_zone_bits"] = _zone_bits(prog)
    assert isinstance(found, ZoneBits)
    return found


def _zone_bits(prog: Program) -> ZoneBits:
    word_bits = 8 * memory(prog).word_size
    # A kernel has two zones at least; as many bits as their numbers need.
    zones = enumerators(prog, "zone_type").get("__MAX_NR_ZONES", 4)
    width = max(zones - 1, 0).bit_length()
    return ZoneBits(word_bits - nodes_shift(prog) - width, width, word_bits)


def zone_names(prog: Program) -> Dict[Tuple[int, int], str]:
    """Return the names of zones by (node, zone), as the kernel has them."""
    return unchanging(prog, "slabtype_zone_names", _zone_names)


def _zone_names(prog: Program) -> Dict[Tuple[int, int], str]:
    names = {}
    for nid in for_each_online_node(prog):
        for number, zone in enumerate(NODE_DATA(prog, nid).node_zones):
            names[nid, number] = _name(prog, zone.name.value_(), number)
    return names


def _name(prog: Program, address: int, number: int) -> str:
    try:
        name = prog.read_c_string(address, max_size=32)
    except FaultError:
        # The names are constants of the kernel image, which a dump may lack.
        by_number = {
            v: k for k, v in enumerators(prog, "zone_type").items() if k != "__MAX_NR_ZONES"
        }
        return by_number.get(number, f"zone {number}").replace("ZONE_", "")
    return escape_ascii_string(name, escape_backslash=True)


def nodes_shift(prog: Program) -> int:
    """
    Return NODES_SHIFT, the bits of ``page->flags`` that hold the node.

    ``struct kmem_cache`` ends in an array of MAX_NUMNODES entries.
    """
    cache = structure(prog, "struct kmem_cache")
    for name in ("per_node", "node"):
        if cache.has(name):
            length = cache.type.member(name).type.length
            return int(length).bit_length() - 1 if length else 0
    return 0
