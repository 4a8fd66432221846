# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Where each CPU's memory begins
------------------------------

``__per_cpu_offset`` is written once, at boot. Where one of its words cannot be true,
by the others or by what is there, it is the finding; what the others say counts,
or the memory of that CPU is not in the target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Optional

import numpy as np
from drgn import FaultError, Object, Program

from ..findings import Finding
from .memory import U64, Bools

if TYPE_CHECKING:
    from . import Machine

_ADDRESS = (1 << 64) - 1
_NOWHERE = 0xDEAD000000000000
_PAIR = 2
_FEWEST = 3  # CPUs of which one can be told from the others
_FIRST_ID = 1 << 12


class Offsets(NamedTuple):
    """``__per_cpu_offset`` of each possible CPU."""

    counted: U64
    """What counts."""
    wrong: Dict[int, str]
    """Why the word of a CPU is wrong, by its position."""
    told: List[int]
    """What the words say."""

    @property
    def lost(self) -> Bools:
        """Of which CPUs it is not known where they have their memory."""
        found: Bools = self.counted == np.uint64(_NOWHERE)
        return found


def read_offsets(machine: Machine) -> Offsets:
    """Return the offsets of all possible CPUs; zeroes without CONFIG_SMP."""
    cpus = machine.cpus.tolist()
    try:
        table = machine.prog["__per_cpu_offset"]
    except LookupError:
        return Offsets(np.zeros(len(cpus), np.uint64), {}, [0] * len(cpus))
    told = [_entry(table, cpu) for cpu in cpus]
    wrong = _wrong(machine, cpus, told) if _NOWHERE not in told else {}
    counted = list(told)
    for at in wrong:
        counted[at] = _true(machine, cpus, told, at, wrong) or _NOWHERE
    return Offsets(np.array(counted, np.uint64), wrong, told)


def _entry(table: Object, cpu: int) -> int:
    # What is not in the target leads to nothing that is.
    try:
        return int(table[cpu])
    except (FaultError, OverflowError):
        return _NOWHERE


def offset_damage(machine: Machine) -> Iterator[Finding]:
    """Yield a finding for each word that is contradicted."""
    found = machine.per_cpu
    for id, (at, why) in enumerate(found.wrong.items(), _FIRST_ID):
        cpu, right = int(machine.cpus[at]), int(found.counted[at])
        yield Finding(
            "machine-wrong",
            f"__per_cpu_offset[{cpu}] is 0x{found.told[at]:x}, {why}",
            cpu=cpu,
            place="__per_cpu_offset",
            expected=None if right == _NOWHERE else right,
            found=found.told[at],
            id=id,
        )


def _wrong(machine: Machine, cpus: List[int], told: List[int]) -> Dict[int, str]:
    known = [_is_of(machine.prog, offset, cpu) for offset, cpu in zip(told, cpus)]
    if True in known and False in known:
        strangers = {
            at: f"and the runqueue there is not that of CPU {cpus[at]}"
            for at, of_it in enumerate(known)
            if of_it is False
        }
        blank = [at for at in strangers if _is_blank(machine, cpus, told, at, strangers)]
        return {at: why for at, why in strangers.items() if at not in blank}
    astray = np.flatnonzero(~_may_be(machine, told)).tolist()
    if astray and len(astray) < len(told):
        return dict.fromkeys(astray, "where no CPU has memory")
    open_ones = [at for at, of_it in enumerate(known) if not of_it]
    if len(told) < _FEWEST:
        return {}
    page = machine.memory.page_size
    within = [offset % page for offset in told]
    usual = max(within, key=within.count)
    odd = [at for at in open_ones if within[at] != usual]
    if odd and 2 * within.count(usual) > len(told):
        return dict.fromkeys(odd, "which is not pages away from the others")
    if machine.node_ids > 1 or len(told) <= _FEWEST:
        again = [at for at, offset in enumerate(told) if told.count(offset) > 1]
        return dict.fromkeys(again, "and another CPU's is the same") if len(again) == _PAIR else {}
    # Each node may have its CPUs' memory in another place; on one, all are side by side.
    alone = [at for at in open_ones if _evenly(told, cpus, at) not in (None, told[at])]
    if len(alone) != 1:
        return {}
    return dict.fromkeys(alone, "which is not as far from the others as they are from each other")


def _is_blank(
    machine: Machine, cpus: List[int], told: List[int], at: int, wrong: Dict[int, str]
) -> bool:
    # A dumper left zeroes where a CPU has its memory, as the others say.
    if told[at] not in (_by_units(machine, cpus, told, at, wrong), _evenly(told, cpus, at)):
        return False
    size = machine.memory.page_size
    try:
        where = machine.prog.variable("runqueues").cpu.address_ + told[at] & _ADDRESS
        data = machine.memory.read(where // size * size, size)
    except (AttributeError, FaultError, LookupError, TypeError):
        return False
    return data.count(0) == size


def _may_be(machine: Machine, offsets: List[int]) -> Bools:
    # Copies of per-CPU variables are not in the kernel's image, nor where no memory is.
    try:
        template = machine.prog.symbol("__per_cpu_start").address
    except LookupError:
        template = 0
    told = np.array(offsets, np.uint64)
    return machine.memory.is_kernel_address(told + np.uint64(template)) & (told != 0)


def _is_of(prog: Program, offset: int, cpu: int) -> Optional[bool]:
    # Whether the runqueue at an offset is that of a CPU; None if nothing tells.
    try:
        number = prog.variable("runqueues").cpu
        there = Object(prog, number.type_, address=(number.address_ + offset) & _ADDRESS)
        return int(there) == cpu
    except (AttributeError, FaultError, LookupError, OverflowError, TypeError):
        return None


def _true(
    machine: Machine, cpus: List[int], told: List[int], at: int, wrong: Dict[int, str]
) -> Optional[int]:
    # What the word should be, as far as anything tells.
    for offset in (_by_units(machine, cpus, told, at, wrong), _evenly(told, cpus, at)):
        if offset is None or offset == told[at]:
            continue
        of_it = _is_of(machine.prog, offset, cpus[at])
        if of_it or (of_it is None and machine.node_ids == 1):
            return offset
    return None


def _by_units(
    machine: Machine, cpus: List[int], told: List[int], at: int, wrong: Dict[int, str]
) -> Optional[int]:
    # From what setup_per_cpu_areas() takes it: the same for all CPUs, and where
    # the unit of each begins.
    try:
        table = machine.prog["pcpu_unit_offsets"]
        units = [int(table[cpu]) for cpu in cpus]
    except (FaultError, LookupError, TypeError):
        return None
    bases = {(told[one] - units[one]) & _ADDRESS for one in range(len(told)) if one not in wrong}
    return (bases.pop() + units[at]) & _ADDRESS if len(bases) == 1 else None


def _evenly(told: List[int], cpus: List[int], at: int) -> Optional[int]:
    # What it is if all CPUs are equally far apart, as the others are.
    rest = [one for one in range(len(told)) if one != at]
    if len(rest) < _FEWEST - 1:
        return None
    first, second = rest[:2]
    step, odd = divmod(told[second] - told[first], cpus[second] - cpus[first])
    start = told[first] - step * cpus[first]
    if odd or not step or any(told[one] != start + step * cpus[one] for one in rest):
        return None
    offset = start + step * cpus[at]
    return offset if 0 < offset < 1 << 64 else None
