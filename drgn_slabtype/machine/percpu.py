# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the CPUs' copies of per-CPU memory lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, List

import numpy as np
from drgn import Object, sizeof

from ..regions import Region, region
from .memory import U64

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


def per_cpu_copies(machine: Machine, pointer: Object) -> List[Object]:
    """Return a pointer to what a per-CPU pointer leads to, for each possible CPU."""
    addresses = per_cpu_addresses(machine, np.array([pointer.value_()], np.uint64))[0]
    return [Object(machine.prog, pointer.type_, value=address) for address in addresses.tolist()]


def per_cpu_region(machine: Machine, what: str, pointer: Object) -> Region:
    """Return the region of what a per-CPU pointer leads to on each possible CPU."""
    pointers = np.array([pointer.value_()], np.uint64)
    return region(what, per_cpu_addresses(machine, pointers)[0], sizeof(pointer[0]))
