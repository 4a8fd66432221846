# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Stacks of the kernel
--------------------

Which functions the CPUs, and the tasks that were taken off them, are in.

The live part of each stack is searched for addresses in the functions that are
asked about; that finds no less than unwinding, and costs a fraction. Only a
stack on which there are some is unwound, to tell calls that are under way from
what earlier ones left behind. Where unwinding does not reach the end of a
stack, what was found on it counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Collection, Iterator, List, NamedTuple, Optional, Set, Tuple

import numpy as np
from drgn import Architecture, FaultError, Object, StackTrace
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import cpu_curr, idle_task

from .activities import DEAD_ENDS, base_name
from .memory import U8, U64, Bools
from .percpu import per_cpu_addresses

if TYPE_CHECKING:
    from . import Machine

_MAX_TASKS = 1 << 16
_MAX_FRAMES = 512
_MOST_STACK_BYTES = 1 << 16
_USUAL_STACK_BYTES = 1 << 14
_EXCEPTION_STACK_BYTES = 1 << 13
_NEAR_TOP = 1024  # what lies between the first frame and the top of a stack: registers of the user
# CPU_ENTRY_AREA_PGD of x86-64.
_ENTRY_AREA = range(0xFFFFFE0000000000, 0xFFFFFE8000000000)
# Where each architecture keeps the stack pointer of a task that does not run.
_SAVED = (
    (Architecture.X86_64, "thread.sp"),
    (Architecture.AARCH64, "thread.cpu_context.sp"),
    (Architecture.S390X, "thread.ksp"),
    (Architecture.PPC64, "thread.ksp"),
    (Architecture.RISCV64, "thread.sp"),
)
_ERRORS = (AttributeError, FaultError, LookupError, NotImplementedError, OverflowError, ValueError)


class Call(NamedTuple):
    """A function that somebody is in."""

    who: str
    """``CPU 2, pid 123 (name)``, or without a CPU."""
    function: str
    """Its name in the source."""
    where: str
    """``symbol+0xoffset`` of the address: of the function it was put into, if it was."""
    exact: bool
    """Whether debug info tells what was put into the function there."""

    def __str__(self) -> str:
        inside = "" if base_name(self.where.partition("+")[0]) == self.function else self.function
        return f"{self.who}: {inside + ' in ' if inside else ''}{self.where}"


class Functions:
    """
    Ranges of code of the functions that are asked about.

    :param names: As in the source.
    """

    def __init__(self, machine: Machine, names: Collection[str]) -> None:
        wanted = set(names) | DEAD_ENDS
        found = sorted(
            (symbol.address, symbol.address + symbol.size, symbol.name)
            for symbol in machine.prog.symbols()
            if symbol.size and base_name(symbol.name) in wanted
        )
        self._starts: U64 = np.array([start for start, _, _ in found], np.uint64)
        self._ends: U64 = np.array([end for _, end, _ in found], np.uint64)
        self._names = [name for _, _, name in found]

    def __len__(self) -> int:
        return len(self._names)

    def among(self, words: U64) -> List[Tuple[int, str, str]]:
        """
        Return position, function and place of the words that lead into one of them.

        A call that never returns can be the last instruction of a function.
        """
        if not len(self._starts) or not len(words):
            return []
        at = np.searchsorted(self._starts, words, "left").astype(np.int64) - 1
        inside = (at >= 0) & (words <= self._ends[np.maximum(at, 0)])
        found = []
        for position in np.flatnonzero(inside).tolist():
            row, word = int(at[position]), int(words[position])
            name = self._names[row]
            where = f"{name}+0x{word - int(self._starts[row]):x}"
            found.append((position, base_name(name), where))
        return found


class Area(NamedTuple):
    """Memory of a stack that is in use."""

    start: int
    end: int


class Stacks:
    """
    The calls that are under way in some functions.

    :param names: The functions that are asked about.
    """

    def __init__(self, machine: Machine, names: Collection[str]) -> None:
        self.calls: List[Call] = []
        self.gaps: List[str] = []
        """What could not be seen, in words."""
        self._machine, self._memory = machine, machine.memory
        self._names = frozenset(names)
        self._size = _stack_bytes(machine)
        self._saved: Optional[str] = None
        platform = machine.prog.platform
        if platform is not None:
            self._saved = dict(_SAVED).get(platform.arch)
        self._aarch64 = platform is not None and platform.arch == Architecture.AARCH64
        self._functions = Functions(machine, names)
        if not len(self._functions):
            self.gaps.append("the functions of the allocators have no symbols here")
            return
        running = self._running()
        self._sleeping(running)

    # CPUs ------------------------------------------------------------------------

    def _running(self) -> Set[int]:
        machine, running = self._machine, set()
        try:
            online = set(for_each_online_cpu(machine.prog))
        except _ERRORS:
            online = set(machine.cpus.tolist())
        for cpu in machine.cpus.tolist():
            try:
                task = cpu_curr(machine.prog, cpu)
                address = int(task.value_())
                idle = address == int(idle_task(machine.prog, cpu).value_())
            except _ERRORS:
                self.gaps.append(f"what CPU {cpu} runs is not known")
                continue
            if not address:
                continue
            running.add(address)
            if idle and cpu not in online:
                continue
            try:
                self._cpu(cpu, task, f"CPU {cpu}, {_spell(task)}")
            except _ERRORS as error:
                what = str(error).partition("\n")[0] or type(error).__name__
                self.gaps.append(f"the stack of CPU {cpu} cannot be followed: {what}")
        return running

    def _cpu(self, cpu: int, task: Object, who: str) -> None:
        trace = self._machine.prog.stack_trace(task)
        base = int(task.stack.value_())
        own = Area(base, base + self._size)
        whole, calls = self._unwound(trace, who, own)
        self.calls += calls
        if whole:
            return
        pointer = trace[0].sp
        areas = self._areas(cpu, pointer, own)
        if areas is None:
            self.gaps.append(f"CPU {cpu} is on a stack at 0x{pointer:x} that is not known")
            areas = []
        parts = [np.array([trace[0].pc], np.uint64)]
        for area in areas:
            words, readable = self._words(area)
            parts.append(words)
            if not readable and area.start not in _ENTRY_AREA:
                self.gaps.append(f"a stack of CPU {cpu} at 0x{area.start:x} is not in the target")
        known = set(calls)
        found = self._searched(np.concatenate(parts), who)
        self.calls += [call for call in found if call not in known]

    def _areas(self, cpu: int, pointer: int, own: Area) -> Optional[List[Area]]:
        # The parts of stacks that may be in use, from the innermost outward.
        if own.start <= pointer < own.end:
            return [Area(pointer, own.end)]
        for top, size in self._interrupt_stacks(cpu):
            if top - size <= pointer < top:
                return [Area(pointer, top), own]
        if pointer in _ENTRY_AREA:
            return [Area(pointer, pointer + _EXCEPTION_STACK_BYTES), own]
        return None

    def _interrupt_stacks(self, cpu: int) -> Iterator[Tuple[int, int]]:
        # Top and size. Since Linux kernel commit 951c2a51ae75 ("x86/irq/64: Adjust
        # the per CPU irq stack pointer by 8") (in v5.8), x86-64 points to the
        # last word; arm64 points to the lowest byte.
        prog = self._machine.prog
        column = self._machine.cpus.tolist().index(cpu)
        for name in ("hardirq_stack_ptr", "pcpu_hot", "irq_stack_ptr"):
            try:
                variable = prog[name]
                if name == "pcpu_hot":
                    variable = variable.hardirq_stack_ptr
                where = np.array([variable.address_], np.uint64)
                pointer = prog.read_word(int(per_cpu_addresses(self._machine, where)[0, column]))
            except _ERRORS:
                continue
            if name == "irq_stack_ptr":
                yield pointer + self._size, self._size
            else:
                yield pointer + 16, _USUAL_STACK_BYTES

    # Tasks -----------------------------------------------------------------------

    def _sleeping(self, running: Set[int]) -> None:
        tasks: List[Object] = []
        try:
            for task in for_each_task(self._machine.prog):
                if len(tasks) >= _MAX_TASKS:
                    self.gaps.append(f"there are more than {_MAX_TASKS} tasks")
                    break
                if int(task.value_()) not in running:
                    tasks.append(task)
        except _ERRORS:
            self.gaps.append("the list of tasks cannot be followed")
        if self._saved is None:
            self.gaps.append("where this architecture keeps the stacks of tasks is not known")
            return
        addresses = np.array([int(task.value_()) for task in tasks], np.uint64)
        try:
            starts, starts_known = self._member(addresses, "stack")
            saved, saved_known = self._member(addresses, self._saved)
        except LookupError:
            self.gaps.append("where tasks keep their stacks is not known")
            return
        lost = 0
        for at, task in enumerate(tasks):
            own = Area(int(starts[at]), int(starts[at]) + self._size)
            if not (starts_known[at] and saved_known[at] and own.start <= saved[at] < own.end):
                # A task that is gone has no stack.
                lost += int(starts[at]) != 0
                continue
            words, readable = self._words(Area(int(saved[at]), own.end))
            lost += not readable
            if self._functions.among(words):
                self._task(task, own, words)
        if lost:
            self.gaps.append(f"the stacks of {lost} tasks are not in the target")

    def _task(self, task: Object, own: Area, words: U64) -> None:
        who = _spell(task)
        try:
            whole, calls = self._unwound(self._machine.prog.stack_trace(task), who, own)
        except _ERRORS:
            whole, calls = False, []
        self.calls += calls if whole else self._searched(words, who)

    def _member(self, addresses: U64, path: str) -> Tuple[U64, Bools]:
        offset = self._machine.structure("struct task_struct").offset(path)
        gathered = self._memory.gather(addresses + np.uint64(offset), self._memory.word_size)
        return gathered.bytes.view(self._memory.word)[:, 0].astype(np.uint64), gathered.ok

    # Both --------------------------------------------------------------------------

    def _words(self, area: Area) -> Tuple[U64, bool]:
        # What can be read of it, up to the first hole, and whether that is all.
        step = self._memory.word_size
        start = -(-area.start // step) * step
        end = min(area.end, start + _MOST_STACK_BYTES)
        parts: List[U8] = []
        for address, data in self._memory.blocks(start, end, _MOST_STACK_BYTES):
            if address == start + sum(map(len, parts)):
                parts.append(data[: len(data) // step * step].copy())
        if not parts:
            return np.zeros(0, np.uint64), False
        words = np.concatenate(parts).view(self._memory.word).astype(np.uint64)
        # Return addresses may be signed in the bits that an address does not use.
        if self._aarch64:
            kernel = words & np.uint64(1 << 55) != 0
            words = np.where(kernel, words | np.uint64(0xFFFF << 48), words)
        return words, len(words) == (area.end - start) // step

    def _unwound(self, trace: StackTrace, who: str, own: Area) -> Tuple[bool, List[Call]]:
        # (whether the end of the stack was reached, calls of the functions asked about)
        calls: List[Call] = []
        whole = False
        for number in range(min(len(trace), _MAX_FRAMES)):
            frame = trace[number]
            try:
                pc, sp = frame.pc, frame.sp
            except LookupError:
                break
            if not self._is_kernel(pc) or not self._is_kernel(sp):
                # A user's, or the kernel's own entry before it changes stacks.
                whole = True
                break
            name = base_name(frame.name)
            if name in DEAD_ENDS:
                # Nobody comes back to what called it.
                return True, calls
            if name in self._names:
                calls.append(Call(who, name, _place(frame, pc), frame.function_name is not None))
            # What is beyond the first frame of a stack are the registers of a user.
            whole |= 0 <= own.end - sp <= _NEAR_TOP
        return whole, calls

    def _searched(self, words: U64, who: str) -> List[Call]:
        found = []
        for position, name, where in self._functions.among(words):
            if name in DEAD_ENDS:
                break
            inlined = self._inlined(int(words[position]) - 1)
            names = [name] if inlined is None else inlined
            exact = inlined is not None
            found += [Call(who, one, where, exact) for one in names if one in self._names]
        return list(dict.fromkeys(found))

    def _inlined(self, address: int) -> Optional[List[str]]:
        # The function at an address and those that were put into it there;
        # drgn tells since version 0.0.33.
        try:
            places = self._machine.prog.source_location(address)
        except _ERRORS:
            return None
        return [base_name(name) for name in (place.name() for place in places) if name] or None

    def _is_kernel(self, address: int) -> bool:
        return bool(self._memory.is_kernel_address(np.array([address], np.uint64))[0])


def _place(frame: object, pc: int) -> str:
    try:
        symbol = frame.symbol()  # type: ignore[attr-defined]
    except LookupError:
        return hex(pc)
    return f"{symbol.name}+0x{pc - symbol.address:x}"


def _spell(task: Object) -> str:
    name = escape_ascii_string(task.comm.string_(), escape_backslash=True)
    return f"pid {int(task.pid)} ({name})"


def _stack_bytes(machine: Machine) -> int:
    # THREAD_SIZE: how large the stack of the first task is.
    for first, last in (
        ("__start_init_stack", "__end_init_stack"),
        ("__start_init_task", "__end_init_task"),
    ):
        try:
            size = machine.prog.symbol(last).address - machine.prog.symbol(first).address
        except LookupError:
            continue
        if 4096 <= size <= _MOST_STACK_BYTES and size & (size - 1) == 0:
            return size
    return _USUAL_STACK_BYTES
