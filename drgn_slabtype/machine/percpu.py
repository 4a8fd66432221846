# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the CPUs' copies of per-CPU memory lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, List

import numpy as np
from drgn import FaultError, Object, sizeof

from ..regions import Region, region
from .directmap import LINEAR_BYTES
from .memory import U64, Bools

if TYPE_CHECKING:
    from . import Machine


def most_cpus(machine: Machine) -> int:
    """Return CONFIG_NR_CPUS, or how many CPUs are possible where nothing tells."""
    try:
        return int(machine.prog["__per_cpu_offset"].type_.length or 0) or len(machine.cpus)
    except (AttributeError, LookupError):
        return len(machine.cpus)


def per_cpu_addresses(machine: Machine, pointers: U64) -> U64:
    """
    Return where the CPUs' copies of some per-CPU memory lie.

    :param pointers: Per-CPU pointers (``__percpu``), or addresses of per-CPU
        variables: shape (n,).
    :return: Shape (n, possible CPUs). NULL stays NULL.
    """
    pointers = np.asarray(pointers, np.uint64)[:, None]
    return np.where(pointers != 0, pointers + machine.cpu_offsets[None, :], 0)


def outside_units(machine: Machine, addresses: U64) -> Bools:
    """
    Return which copies lie in the direct map, and not in what is set aside for their CPU.

    What CPUs get later, once that is used up, is mapped elsewhere.

    :param addresses: Shape (n, possible CPUs), as :func:`per_cpu_addresses` returns them.
    """
    from .told import last_page

    offsets, last = machine.cpu_offsets, machine.settled(last_page).counted
    nothing = np.zeros(addresses.shape, np.bool_)
    if last is None or len(offsets) < 2 or machine.per_cpu.lost.any():
        return nothing
    try:
        lowest = np.uint64(machine.prog["pcpu_base_addr"].value_())
    except (FaultError, LookupError):
        return nothing
    # Of each CPU where its unit begins. None is larger than the way to the next one.
    units = offsets - offsets.min()
    unit = np.diff(np.sort(units)).min()
    if units.max() > np.uint64(LINEAR_BYTES):
        return nothing
    linear = addresses - np.uint64(machine.memory.linear_base)
    outside: Bools = addresses - (lowest + units)[None, :] >= unit
    return outside & (linear < np.uint64(last << machine.memory.page_shift)) & (addresses != 0)


def per_cpu_copies(machine: Machine, pointer: Object) -> List[Object]:
    """Return a pointer to what a per-CPU pointer leads to, for each possible CPU."""
    addresses = per_cpu_addresses(machine, np.array([pointer.value_()], np.uint64))[0]
    return [Object(machine.prog, pointer.type_, value=address) for address in addresses.tolist()]


def per_cpu_region(machine: Machine, what: str, pointer: Object) -> Region:
    """Return the region of what a per-CPU pointer leads to on each possible CPU."""
    pointers = np.array([pointer.value_()], np.uint64)
    return region(what, per_cpu_addresses(machine, pointers)[0], sizeof(pointer[0]))
