# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's own count of slab pages
------------------------------------

``nr_slab_reclaimable`` and ``nr_slab_unreclaimable`` of each node, with what
the CPUs have not added yet, so that the sum is exact where ``/proc/vmstat``
drifts. It counts the pages of slabs, not those of KFENCE's pool, and those of
``kmalloc()`` beyond the slab caches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Iterator, List, Optional

from drgn import Object
from drgn.helpers.linux.mmzone import NODE_DATA

from ..machine import Machine
from ..machine.percpu import per_cpu_copies, per_cpu_region
from ..regions import Region
from .zones import online_nodes

_SLAB_ITEMS = ("NR_SLAB_RECLAIMABLE", "NR_SLAB_UNRECLAIMABLE")


@dataclass(frozen=True)
class SlabPages:
    """Pages of slabs of one node."""

    node: int
    counted: int
    """As the kernel counts them, in pages."""
    slabs: int
    """Pages of the slabs that were found, KFENCE's left out."""
    large: Optional[int]
    """Pages of large ``kmalloc()``; ``None`` where they have no page type."""
    tolerance: int
    """Pages that CPUs can have taken or given back without counting them yet."""


def slab_page_counts(machine: Machine) -> List[int]:
    """
    Return how many pages of slabs the kernel counts, by online node.

    :raises LookupError: if the kernel does not count them by node.
    """
    items = machine.enumerators("node_stat_item")
    # Since Linux kernel commit d42f3245c7e2 ("mm: memcg: convert vmstat slab
    # counters to bytes") (in v5.9), they have a suffix; they still hold pages.
    numbers = [items.get(f"{name}_B", items.get(name)) for name in _SLAB_ITEMS]
    if None in numbers:
        raise LookupError("the kernel has no count of slab pages by node")
    wanted = [number for number in numbers if number is not None]
    return [_of_node(machine, NODE_DATA(machine.prog, nid), wanted) for nid in machine.nodes]


def _of_node(machine: Machine, node: Object, items: List[int]) -> int:
    total = sum(int(node.vm_stat[item].counter) for item in items)
    for copy in per_cpu_copies(machine, node.per_cpu_nodestats):
        # Deltas of the CPU, of 8 bits each.
        deltas = copy.vm_node_stat_diff
        total += sum(int(deltas[item]) for item in items)
    return total


def regions(machine: Machine) -> Iterator[Region]:
    """Yield the counters of nodes and zones that CPUs keep for themselves."""
    for node in online_nodes(machine):
        yield per_cpu_region(machine, "nodes", node.per_cpu_nodestats)
        for zone in node.node_zones:
            # Since Linux kernel commit 28f836b6777b ("mm/page_alloc: split per
            # cpu page lists and zone stats") (in v5.14); before, they are
            # beside the lists of free pages.
            if hasattr(zone, "per_cpu_zonestats"):
                yield per_cpu_region(machine, "nodes", zone.per_cpu_zonestats)
