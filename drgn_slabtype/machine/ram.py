# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Which pages are memory
----------------------

The memory map covers whole sections. Pages of a section in which the machine has no
memory have a ``struct page``, marked reserved like any other that is never given
out, and are in no dump.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, List, Optional, Tuple

from drgn import FaultError, Object

if TYPE_CHECKING:
    from . import Machine

# IORESOURCE_SYSRAM of include/linux/ioport.h, since Linux 4.6: what tells memory from all
# else that has addresses.
_MEMORY = 0x01000000
_MOST_RESOURCES = 1 << 16
_DEEPEST = 8
"""Memory that was plugged in stands below the device that it came with."""


def memory_ranges(machine: Machine) -> Optional[List[Tuple[int, int]]]:
    """
    Return the physical addresses at which a machine has memory, in order.

    :return: Ranges [start, end); ``None`` if the kernel does not tell.
    """
    found: List[Tuple[int, int]] = []
    try:
        _collect(machine.prog["iomem_resource"].child.read_(), found, _DEEPEST)
    except (AttributeError, FaultError, LookupError):
        return None
    return sorted(found) or None


def _collect(resource: Object, found: List[Tuple[int, int]], depth: int) -> None:
    for _ in range(_MOST_RESOURCES):
        if not resource:
            return
        if resource.flags.value_() & _MEMORY:
            found.append((resource.start.value_(), resource.end.value_() + 1))
        elif depth and resource.child:
            _collect(resource.child.read_(), found, depth - 1)
        resource = resource.sibling.read_()
    raise LookupError("resources without end")


def memory_bytes(machine: Machine, start: int, end: int) -> int:
    """Return how much of some physical addresses is memory: all, if the kernel does not tell."""
    ranges = machine.fact(memory_ranges)
    if ranges is None:
        return end - start
    return sum(max(min(end, last) - max(start, first), 0) for first, last in ranges)
