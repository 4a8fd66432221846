# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the CPUs' copies of per-CPU memory lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, List

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, Program, sizeof
from drgn.helpers.linux.cpumask import for_each_possible_cpu

from ..regions import Region, region
from .memory import U64

if TYPE_CHECKING:
    from . import Machine

I64 = npt.NDArray[np.int64]

# Since Linux kernel commit c4c54dd1caf1 ("kernel/cpu.c: change type of
# cpu_possible_bits and friends") (in v4.5).
_MASKS = ("__cpu_possible_mask", "__cpu_present_mask", "__cpu_online_mask")
_MOST_CPUS = 1 << 16


def possible_cpus(prog: Program) -> I64:
    """
    Return the numbers of all possible CPUs, offline ones too; one without CONFIG_SMP.

    Where their mask or its length cannot be had, another mask tells, or their number.
    """
    try:
        most = int(prog["nr_cpu_ids"])
        if 0 < most <= _bits(prog):
            return np.array(list(for_each_possible_cpu(prog)), np.int64)
    except LookupError:
        return np.zeros(1, np.int64)
    except FaultError:
        most = 0
    for name in _MASKS:
        cpus = _of_mask(prog, name)
        if cpus:
            return np.array(cpus, np.int64)
    return np.arange(most if 0 < most <= _bits(prog) else 1, dtype=np.int64)


def _bits(prog: Program) -> int:
    # CONFIG_NR_CPUS, rounded up to words; any number where nothing tells.
    try:
        return 8 * sizeof(prog[_MASKS[0]])
    except LookupError:
        return _MOST_CPUS


def _of_mask(prog: Program, name: str) -> List[int]:
    try:
        words = prog[name].bits
        width = 8 * sizeof(words[0])
        mask = sum(int(word) << width * number for number, word in enumerate(words))
    except (FaultError, LookupError):
        return []
    return [cpu for cpu in range(mask.bit_length()) if mask >> cpu & 1]


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
