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

from typing import TYPE_CHECKING, Collection, List, NamedTuple, Optional, Set, Tuple

import numpy as np
from drgn import Object, Program, StackTrace
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.sched import cpu_curr, idle_task

from .activities import DEAD_ENDS, base_name
from .architecture import Architecture, of_program
from .cpumemory import interrupt_stacks
from .memory import U8, U64
from .tasks import ERRORS, Area, Task, TaskList, spell_task

if TYPE_CHECKING:
    from . import Machine

_MAX_FRAMES = 512
_MOST_STACK_BYTES = 1 << 16
_EXCEPTION_STACK_BYTES = 1 << 13
_NEAR_TOP = 1024  # what lies between the first frame and the top of a stack: registers of the user
# CPU_ENTRY_AREA_PGD of x86-64.
_ENTRY_AREA = range(0xFFFFFE0000000000, 0xFFFFFE8000000000)


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


class Unwinder:
    """
    Reads and unwinds stacks.

    :param names: The functions that are asked about.
    :param tasks: Whose stacks are known.
    """

    def __init__(self, machine: Machine, names: Collection[str], tasks: TaskList) -> None:
        self.functions = Functions(machine, names)
        """Their code."""
        self._machine, self._memory = machine, machine.memory
        self._names = frozenset(names)
        self._tasks = tasks
        self._text = _core_text(machine)
        self._signed = of_program(machine.prog).is_signed

    def words(self, area: Area) -> Tuple[U64, bool]:
        """Return what can be read of a stack up to the first hole, and whether that is all."""
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
        if self._signed:
            kernel = words & np.uint64(1 << 55) != 0
            words = np.where(kernel, words | np.uint64(0xFFFF << 48), words)
        return words, len(words) == (area.end - start) // step

    def owner(self, trace: StackTrace) -> Optional[Task]:
        """Return whose stack a CPU is on, below interrupts and exceptions."""
        for number in range(min(len(trace), _MAX_FRAMES)):
            try:
                found = self._tasks.on_stack(trace[number].sp)
            except LookupError:
                return None
            if found is not None:
                return found
        return None

    def unwound(self, trace: StackTrace, who: str) -> Tuple[bool, List[Call]]:
        """Return whether the end of the stack was reached, and the calls on the way."""
        calls: List[Call] = []
        known = whole = False
        for number in range(min(len(trace), _MAX_FRAMES)):
            frame = trace[number]
            try:
                pc, sp = frame.pc, frame.sp
            except LookupError:
                break
            if not self.is_kernel(pc) or not self.is_kernel(sp):
                # A user's, or the kernel's own entry before it changes stacks.
                return whole or known or not number, calls
            # Without unwind data drgn follows frame pointers, which there may be none of:
            # beyond code without debug info nothing is certain.
            if frame.function_name is not None:
                known = True
            elif pc not in self._text:
                break
            name = base_name(frame.name)
            if name in DEAD_ENDS:
                # Nobody comes back to what called it.
                return True, calls
            if name in self._names:
                calls.append(Call(who, name, _place(frame, pc), frame.function_name is not None))
            # What is beyond the first frame of a stack are the registers of a user.
            home = self._tasks.on_stack(sp)
            whole |= known and home is not None and home.stack.end - sp <= _NEAR_TOP
        return whole, calls

    def searched(self, words: U64, who: str) -> List[Call]:
        """Return the calls that words of a stack may belong to, each once."""
        found = []
        for position, name, where in self.functions.among(words):
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
        except ERRORS:
            return None
        return [base_name(name) for name in (place.name() for place in places) if name] or None

    def is_kernel(self, address: int) -> bool:
        """Return whether an address is in the kernel's half."""
        return bool(self._memory.is_kernel_address(np.array([address], np.uint64))[0])


class Stacks:
    """
    The calls that are under way in some functions.

    :param names: The functions that are asked about.
    """

    def __init__(self, machine: Machine, names: Collection[str]) -> None:
        self.calls: List[Call] = []
        self.gaps: List[str] = []
        """What could not be seen, in words."""
        self._machine = machine
        self._tasks = TaskList(machine)
        self._unwinder = Unwinder(machine, names, self._tasks)
        if not len(self._unwinder.functions):
            self.gaps.append("the functions of the allocators have no symbols here")
            return
        self.gaps += self._tasks.gaps
        running = self._running()
        self._sleeping(running)

    # CPUs ------------------------------------------------------------------------

    def _running(self) -> Set[int]:
        # Returns the tasks that were.
        prog, running = self._machine.prog, set()
        try:
            online = set(for_each_online_cpu(prog))
        except ERRORS:
            online = set(self._machine.cpus.tolist())
        for cpu in self._machine.cpus.tolist():
            try:
                task = cpu_curr(prog, cpu)
                idle = int(task.value_()) == int(idle_task(prog, cpu).value_())
            except ERRORS:
                self.gaps.append(f"what CPU {cpu} runs is not known")
                continue
            if not task or (idle and cpu not in online):
                continue
            running.add(int(task.value_()))
            try:
                trace = self._trace(cpu, task)
                # A CPU that changes tasks is still on the stack of the former,
                # and the other one has not begun to run.
                owner = self._unwinder.owner(trace)
                if owner is not None and owner.address not in running:
                    running.discard(int(task.value_()))
                    running.add(owner.address)
                    task = owner.object
                owner = owner or self._tasks.find(int(task.value_()))
                own = None if owner is None else owner.stack
                self._cpu(cpu, trace, own, f"CPU {cpu}, {spell_task(task)}")
            except ERRORS as error:
                what = str(error).partition("\n")[0] or type(error).__name__
                self.gaps.append(f"the stack of CPU {cpu} cannot be followed: {what}")
        return running

    def _trace(self, cpu: int, task: Object) -> StackTrace:
        pause = self._machine.pause
        registers = None if pause is None else pause.of(self._machine, cpu)
        return _stack_trace(self._machine.prog, task if registers is None else registers)

    def _cpu(self, cpu: int, trace: StackTrace, own: Optional[Area], who: str) -> None:
        architecture = of_program(self._machine.prog)
        if runs_user(architecture, trace[0]):
            return
        whole, calls = self._unwinder.unwound(trace, who)
        self.calls += calls
        if whole:
            return
        pointer = trace[0].sp
        areas = self._areas(cpu, pointer, own)
        if areas is None and trace[0].name in architecture.entries:
            areas = []  # the stack pointer is still the user's
        if areas is None:
            self.gaps.append(f"CPU {cpu} is on a stack at 0x{pointer:x} that is not known")
            areas = []
        parts = [np.array([trace[0].pc], np.uint64)]
        for area in areas:
            words, readable = self._unwinder.words(area)
            parts.append(words)
            if not readable and area.start not in _ENTRY_AREA:
                self.gaps.append(f"a stack of CPU {cpu} at 0x{area.start:x} is not in the target")
        known = set(calls)
        found = self._unwinder.searched(np.concatenate(parts), who)
        self.calls += [call for call in found if call not in known]

    def _areas(self, cpu: int, pointer: int, own: Optional[Area]) -> Optional[List[Area]]:
        # The parts of stacks that may be in use, from the innermost outward.
        if own is None:
            return None
        if pointer == own.end:
            return []  # on the first instruction of the kernel: nothing is there yet
        if own.start <= pointer < own.end:
            return [Area(pointer, own.end)]
        for stack in interrupt_stacks(self._machine, cpu):
            if stack.start <= pointer < stack.end:
                return [Area(pointer, stack.end), own]
        if pointer in _ENTRY_AREA:
            return [Area(pointer, pointer + _EXCEPTION_STACK_BYTES), own]
        return None

    # Tasks -----------------------------------------------------------------------

    def _sleeping(self, running: Set[int]) -> None:
        lost = 0
        for task in self._tasks:
            if task.address in running:
                continue
            if task.saved is None:
                lost += not task.idle
                continue
            words, readable = self._unwinder.words(Area(task.saved, task.stack.end))
            lost += not readable
            if self._unwinder.functions.among(words):
                self._task(task, words)
        if lost:
            self.gaps.append(f"the stacks of {lost} tasks are not in the target")

    def _task(self, task: Task, words: U64) -> None:
        who = spell_task(task.object)
        try:
            trace = _stack_trace(self._machine.prog, task.object)
            whole, calls = self._unwinder.unwound(trace, who)
        except ERRORS:
            whole, calls = False, []
        self.calls += calls if whole else self._unwinder.searched(words, who)


def runs_user(architecture: Architecture, frame: object) -> bool:
    """
    Return whether a CPU runs a user's program, as a register says.

    :param frame: The first of its stack trace.
    """
    register, bit = architecture.user_state
    if not register:
        return False
    try:
        return bool(frame.registers()[register] & bit)  # type: ignore[attr-defined]
    except LookupError:
        return False


def _place(frame: object, pc: int) -> str:
    try:
        symbol = frame.symbol()  # type: ignore[attr-defined]
    except LookupError:
        return hex(pc)
    return f"{symbol.name}+0x{pc - symbol.address:x}"


def _core_text(machine: Machine) -> range:
    # The kernel's own code, of which its debug info knows everything.
    try:
        return range(machine.prog.symbol("_stext").address, machine.prog.symbol("_etext").address)
    except LookupError:
        return range(0)


def _stack_trace(prog: Program, task: Object) -> StackTrace:
    try:
        return prog.stack_trace(task)
    except ERRORS:
        raise
    except Exception as error:
        # libkdumpfile's have no class of their own: of a dump without notes of CPUs.
        raise LookupError(str(error)) from None
