# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What belongs to one CPU, and is no per-CPU variable
---------------------------------------------------

The stacks on which it takes interrupts, and on s390x its lowcore: what the
processor itself knows of it, and the task that it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterator, List, NamedTuple

import numpy as np
from drgn import sizeof

from .memory import U64
from .percpu import per_cpu_addresses
from .tasks import ERRORS, stack_bytes

if TYPE_CHECKING:
    from . import Machine

_INTERRUPT_STACK_BYTES = 1 << 14  # IRQ_STACK_SIZE of x86-64
_LOWCORE_STACKS = ("async_stack", "mcck_stack", "nodat_stack", "restart_stack")


class CpuMemory(NamedTuple):
    """Memory of one CPU."""

    cpu: int
    name: str
    """What it is: ``interrupt stack``, ``lowcore``."""
    start: int
    end: int

    @property
    def lowcore(self) -> bool:
        """Whether it is a ``struct lowcore``."""
        return self.name == "lowcore"


def of_cpus(machine: Machine) -> List[CpuMemory]:
    """Return the lowcores and the interrupt stacks of all CPUs."""
    return [
        own
        for cpu in machine.cpus.tolist()
        for own in (*_lowcore(machine, cpu), *interrupt_stacks(machine, cpu))
    ]


def interrupt_stacks(machine: Machine, cpu: int) -> Iterator[CpuMemory]:
    """Yield the stacks on which a CPU takes interrupts."""
    # Since Linux kernel commit 951c2a51ae75 ("x86/irq/64: Adjust the per CPU irq
    # stack pointer by 8") (in v5.12), x86-64 points to the last word and not behind
    # it; arm64 points to the lowest byte.
    prog = machine.prog
    column = machine.cpus.tolist().index(cpu)
    for name in ("hardirq_stack_ptr", "pcpu_hot", "irq_stack_ptr"):
        try:
            variable = prog[name]
            if name == "pcpu_hot":
                variable = variable.hardirq_stack_ptr
            where: U64 = np.array([variable.address_], np.uint64)
            pointer = prog.read_word(int(per_cpu_addresses(machine, where)[0, column]))
        except ERRORS:
            continue
        if name == "irq_stack_ptr":
            yield CpuMemory(cpu, "interrupt stack", pointer, pointer + stack_bytes(machine))
        else:
            top = (pointer + 15) & ~15
            yield CpuMemory(cpu, "interrupt stack", top - _INTERRUPT_STACK_BYTES, top)
    for lowcore in _lowcore(machine, cpu):
        for name in _LOWCORE_STACKS:
            try:
                pointer = prog["lowcore_ptr"][cpu].member_(name).value_()
            except ERRORS:
                continue
            # It points to the first frame, near the end.
            size = stack_bytes(machine)
            start = pointer & ~(size - 1)
            if pointer and start != lowcore.start:
                yield CpuMemory(cpu, name, start, start + size)


def _lowcore(machine: Machine, cpu: int) -> Iterator[CpuMemory]:
    try:
        lowcore = machine.prog["lowcore_ptr"][cpu]
        start = lowcore.value_()
        # Of a CPU that never ran there is none.
        if start:
            yield CpuMemory(cpu, "lowcore", start, start + sizeof(lowcore.type_.type))
    except ERRORS:
        return
