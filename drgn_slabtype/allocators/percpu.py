# SPDX-License-Identifier: LGPL-2.1-or-later
"""Per-CPU addresses of all possible CPUs, as columns."""

from __future__ import annotations

import numpy as np
from drgn import Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu

from ..ledger import I64, U64


def possible_cpus(prog: Program) -> I64:
    """Return the numbers of all possible CPUs, offline ones too."""
    try:
        return np.array(list(for_each_possible_cpu(prog)), np.int64)
    except LookupError:
        return np.zeros(1, np.int64)


def per_cpu_addresses(prog: Program, pointers: U64) -> U64:
    """
    Return where the CPUs' copies of some per-CPU memory lie.

    :param pointers: Per-CPU pointers (``__percpu``), or addresses of per-CPU
        variables: shape (n,).
    :return: Shape (n, possible CPUs). NULL stays NULL.
    """
    cpus = possible_cpus(prog)
    try:
        table = prog["__per_cpu_offset"]
        offsets = np.array([int(table[cpu]) for cpu in cpus.tolist()], np.uint64)
    except LookupError:
        offsets = np.zeros(len(cpus), np.uint64)
    pointers = np.asarray(pointers, np.uint64)
    return np.where(pointers[:, None] != 0, pointers[:, None] + offsets[None, :], 0)
