# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which addresses are those of tasks, which tasks there are, and where their stacks lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
from drgn import FaultError, Object
from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import idle_task

from .architecture import of_program
from .memory import U64, Bools
from .shuffled import is_shuffled

if TYPE_CHECKING:
    from . import Machine

ERRORS = (
    AttributeError,
    FaultError,
    LookupError,
    NotImplementedError,  # of an architecture that they do not know
    OverflowError,
    TypeError,
    ValueError,
)
"""What drgn's helpers raise on what a kernel does not have, or that is not as it should be."""

_PID_MAX_LIMIT = 1 << 22
_MAX_TASKS = 1 << 16
_USUAL_STACK_BYTES = 1 << 14
_MOST_STACK_BYTES = 1 << 16


class Tasks:
    """
    Tells tasks from everything else that a pointer can lead to.

    A task is known by its kernel stack and its PID. Where its memory is not in
    the target, a pointer that can be one to a task counts as one.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._known: Dict[int, bool] = {}
        said = (machine.manifest or {}).get("lock_owners")
        # A capture keeps no tasks, but knows which owners of locks were some.
        self._said = None if said is None else {int(owner) for owner in said}
        self._architecture = of_program(machine.prog)

    def are(self, addresses: U64) -> Bools:
        """
        Return which addresses are those of tasks.

        :param addresses: ``struct task_struct *``: shape (n,).
        """
        addresses = self._architecture.untagged(np.asarray(addresses, np.uint64))
        unique, which = np.unique(addresses, return_inverse=True)
        known = self._machine.is_live
        asked = np.array(
            [known or address not in self._known for address in unique.tolist()], np.bool_
        )
        for address, is_one in zip(unique[asked].tolist(), self._ask(unique[asked]).tolist()):
            self._known[address] = is_one
        told = np.array([self._known[address] for address in unique.tolist()], np.bool_)
        return told[which.reshape(-1)]

    def owners(self) -> List[int]:
        """Return the addresses that were asked about and are tasks."""
        return sorted(address for address, is_one in self._known.items() if is_one)

    def _ask(self, addresses: U64) -> Bools:
        memory = self._machine.memory
        plausible = memory.is_kernel_address(addresses)
        plausible &= addresses % np.uint64(memory.word_size) == 0
        if self._machine.manifest is not None:
            if self._said is None:
                return plausible
            return plausible & np.isin(addresses, np.array(sorted(self._said), np.uint64))
        if is_shuffled(self._machine):
            return plausible
        try:
            rows = self._machine.rows("struct task_struct", addresses)
            stack, pid = rows["stack"], rows["pid"]
        except LookupError:
            return plausible
        real = memory.is_kernel_address(stack) & (stack % np.uint64(memory.page_size) == 0)
        real &= pid < _PID_MAX_LIMIT
        return plausible & (real | ~rows.ok)


class Area(NamedTuple):
    """Memory of a stack."""

    start: int
    end: int


class Task(NamedTuple):
    """A task and its stack."""

    object: Object
    """``struct task_struct *``"""
    address: int
    stack: Area
    saved: Optional[int]
    """Stack pointer with which it goes on, unless it runs; ``None`` if that is not in its stack."""
    idle: bool
    """Whether it is what a CPU does that has nothing to do."""


class TaskList:
    """Every task of a machine that stands still."""

    def __init__(self, machine: Machine) -> None:
        self.gaps: List[str] = []
        """What could not be found, in words."""
        self._machine = machine
        self._size = stack_bytes(machine)
        self._tasks: List[Task] = []
        self._read()
        # Stacks are aligned to their size.
        self._by_stack = {task.stack.start: task for task in self._tasks}

    def __iter__(self) -> Iterator[Task]:
        return iter(self._tasks)

    def on_stack(self, address: int) -> Optional[Task]:
        """Return the task whose stack an address is in."""
        return self._by_stack.get(address & ~(self._size - 1))

    def find(self, address: int) -> Optional[Task]:
        """Return the task at an address."""
        return next((task for task in self._tasks if task.address == address), None)

    def _read(self) -> None:
        if is_shuffled(self._machine):
            self.gaps.append("the debug info is wrong about tasks (RANDSTRUCT)")
            return
        objects: List[Object] = []
        for cpu in self._machine.cpus.tolist():
            try:
                objects.append(idle_task(self._machine.prog, cpu))
            except ERRORS:
                continue  # a CPU that never came up has none
        idle = len(objects)
        try:
            for task in for_each_task(self._machine.prog):
                if len(objects) >= _MAX_TASKS:
                    self.gaps.append(f"there are more than {_MAX_TASKS} tasks")
                    break
                objects.append(task)
        except ERRORS:
            self.gaps.append("the list of tasks cannot be followed")
        saved = of_program(self._machine.prog).saved_stack
        if not saved:
            self.gaps.append("where this architecture keeps the stacks of tasks is not known")
            return
        addresses = np.array([int(task.value_()) for task in objects], np.uint64)
        addresses = self._machine.memory.tags.removed(addresses)
        try:
            starts, pointers = self._member(addresses, "stack"), self._member(addresses, saved)
        except LookupError:
            self.gaps.append("where tasks keep their stacks is not known")
            return
        rows = zip(objects, addresses.tolist(), *starts, *pointers)
        for number, (task, address, start, known, pointer, also_known) in enumerate(rows):
            # A task that is gone has no stack.
            if known and not start:
                continue
            stack = Area(int(start), int(start) + self._size)
            inside = known and also_known and stack.start <= pointer < stack.end
            self._tasks.append(
                Task(task, address, stack, int(pointer) if inside else None, number < idle)
            )

    def _member(self, addresses: U64, path: str) -> Tuple[List[int], List[bool]]:
        memory = self._machine.memory
        offset = self._machine.structure("struct task_struct").offset(path)
        gathered = memory.gather(addresses + np.uint64(offset), memory.word_size)
        values = gathered.bytes.view(memory.word)[:, 0].astype(np.uint64)
        return values.tolist(), gathered.ok.tolist()


def stack_bytes(machine: Machine) -> int:
    """Return THREAD_SIZE: how large the stack of a task is, in bytes."""
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


def spell_task(task: Object) -> str:
    """
    Return how a task is named in reports.

    :param task: ``struct task_struct *``
    """
    from . import machine

    if is_shuffled(machine(task.prog_)):
        return "a task"
    name = escape_ascii_string(task.comm.string_(), escape_backslash=True)
    return f"pid {int(task.pid)} ({name})"
