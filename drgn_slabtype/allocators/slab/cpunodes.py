# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Whose memory each CPU allocates from
------------------------------------

``cpu_to_mem()``, a per-CPU variable. The arrays of a CPU have objects of that node
and no others, so what is in all of them tells when the variable is damaged.
"""

from __future__ import annotations

from typing import Iterator, NamedTuple

import numpy as np

from ...codes import Measure
from ...ledger import I64, U64, Suspect
from ...machine import Machine
from ...machine.percpu import per_cpu_addresses

_FEWEST = 8  # objects that are not astray alike by chance


class CpuNodes(NamedTuple):
    """The node of each possible CPU."""

    variable: str
    words: U64
    """Where each CPU has it; 0 where the kernel has no such variable."""
    told: I64
    """What it is; -1 where that is not known."""

    def suspect(self, machine: Machine, column: int, right: int, why: str) -> Suspect:
        """
        Return the finding that the word of a CPU is wrong.

        :param column: Position of the CPU among the possible ones.
        :param right: The node that it should be; -1 if that is not known.
        """
        cpu, told = int(machine.cpus[column]), int(self.told[column])
        return Suspect(
            "machine-wrong",
            f"{self.variable} of CPU {cpu} is {told}, {why}",
            cpu=cpu,
            place=self.variable,
            expected=None if right < 0 else right,
            found=told,
            word=int(self.words[column]),
            measure=Measure("index", "nodes"),
        )


def cpu_nodes(machine: Machine) -> CpuNodes:
    """Return the node whose memory each possible CPU allocates from."""
    count = len(machine.cpus)
    nothing = np.zeros(count, np.uint64)
    if machine.node_ids == 1:
        return CpuNodes("", nothing, np.zeros(count, np.int64))
    for name in ("_numa_mem_", "numa_node"):
        try:
            address = machine.prog[name].address_
        except LookupError:
            continue
        where = per_cpu_addresses(machine, np.array([address], np.uint64))[0]
        gathered = machine.memory.gather(where, 4)
        told = gathered.bytes.view(f"{machine.memory.byteorder}i4")[:, 0].astype(np.int64)
        return CpuNodes(name, where, np.where(gathered.ok, told, -1))
    return CpuNodes("", nothing, np.full(count, -1, np.int64))


def correct(
    machine: Machine, nodes: CpuNodes, owners: I64, nids: I64, counted: I64
) -> Iterator[Suspect]:
    """
    Yield a finding for each CPU whose node is contradicted, and put right what counts.

    :param owners: The CPU of each object in the arrays of CPUs.
    :param nids: The node of each of these.
    :param counted: Node of each possible CPU, which is changed.
    """
    for column, cpu in enumerate(machine.cpus.tolist()):
        told = int(nodes.told[column])
        there, times = np.unique(nids[owners == cpu], return_counts=True)
        usual, count = -1, int(times.max(initial=0))
        if count >= _FEWEST and 10 * count >= 9 * int(times.sum()):
            usual = int(there[times.argmax()])
        if not nodes.words[column] or told in (-1, usual):
            continue
        if not 0 <= told < machine.node_ids:
            counted[column] = usual
            yield nodes.suspect(machine, column, usual, "which is no node")
        elif usual >= 0:
            counted[column] = usual
            why = f"where {count} of the {times.sum()} objects in its arrays are of node {usual}"
            yield nodes.suspect(machine, column, usual, why)
