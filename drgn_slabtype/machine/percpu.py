# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the CPUs' copies of per-CPU memory lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from drgn import Object, Program, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu

from ..regions import Region, region
from .memory import U64

if TYPE_CHECKING:
    from . import Machine

I64 = npt.NDArray[np.int64]


def possible_cpus(prog: Program) -> I64:
    """Return the numbers of all possible CPUs, offline ones too; one without CONFIG_SMP."""
    try:
        return np.array(list(for_each_possible_cpu(prog)), np.int64)
    except LookupError:
        return np.zeros(1, np.int64)


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


def per_cpu_region(machine: Machine, what: str, pointer: Object) -> Region:
    """Return the region of what a per-CPU pointer leads to on each possible CPU."""
    pointers = np.array([pointer.value_()], np.uint64)
    return region(what, per_cpu_addresses(machine, pointers)[0], sizeof(pointer[0]))
