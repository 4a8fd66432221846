# SPDX-License-Identifier: LGPL-2.1-or-later
"""
All declarations together
-------------------------

Each module declares what it reads; here they are asked in turn. What cannot be
declared, because the kernel lacks it or is damaged there, is named and left
out; the rest is captured all the same.
"""

from __future__ import annotations

from itertools import chain
from typing import Iterator, List, Set, Tuple

from drgn import FaultError

from ..machine import Machine, chunks, kfence, pagetables
from ..machine.percpu import per_cpu_region
from ..pages import pcp, printed, scan, sections, vmstat, zones
from ..reading import Reading
from ..regions import Declaration, Region, object_region
from . import roots
from .describe import find_variables


def declared_regions(machine: Machine) -> Tuple[List[Region], Set[str]]:
    """
    Return every region of a program, and the names of what could not be declared.

    :raises SlabTypeError: if the kernel is not one this package understands.
    """
    regions: List[Region] = []
    missing: Set[str] = set()
    reading = Reading(machine)
    for name, declared in chain(_of_machine(machine), reading.allocator.regions(reading.index)):
        try:
            regions.extend(declared)
        except (FaultError, LookupError):
            missing.add(name)
    return regions, missing


def _of_machine(machine: Machine) -> Iterator[Declaration]:
    # Memory that is read whatever the allocator.
    yield Declaration("variables", _variables(machine))
    yield Declaration("variables", printed.regions(machine))
    yield Declaration("memory map", scan.regions(machine))
    yield Declaration("sections", sections.regions(machine))
    yield Declaration("nodes", zones.regions(machine))
    yield Declaration("nodes", vmstat.regions(machine))
    yield Declaration("nodes", pcp.regions(machine))
    yield Declaration("KFENCE", kfence.regions(machine))
    yield Declaration("per-CPU chunks", chunks.regions(machine))
    yield Declaration("page tables", pagetables.regions(machine))


def _variables(machine: Machine) -> Iterator[Region]:
    # The memory of all variables that a capture knows.
    for _, variable in find_variables(machine, roots.VARIABLES):
        yield object_region("variables", variable)
    for _, variable in find_variables(machine, roots.PER_CPU_VARIABLES):
        yield per_cpu_region(machine, "variables", variable.address_of_())
