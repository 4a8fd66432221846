# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Locks
-----

Whether a lock was held in the moment that is looked at, and by whom. What the
lock guards may then be halfway between two states.

Most words are no lock's: each kind is read by its own format, and a word that
no lock of the kind can hold is neither free nor held, but wrong.
"""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt
from drgn import Object

from . import Machine, machine
from .columns import Rows
from .spinwords import spin_format
from .tasks import Tasks

Bools = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

# SPINLOCK_MAGIC, and what owner_cpu holds while nobody has the lock.
_MAGIC = np.uint64(0xDEAD4EAD)
_NO_CPU = np.uint64(0xFFFFFFFF)
# RT_MUTEX_HAS_WAITERS: somebody waits, whether or not there is an owner.
_HAS_WAITERS = np.uint64(1)


class WrongWord(NamedTuple):
    """A member of a lock that holds what no such lock can hold."""

    member: str
    """Path in the structure that was read."""
    address: int
    """Where it is."""
    found: int
    """What it holds."""

    def __str__(self) -> str:
        return f"{self.member} at 0x{self.address:x} is 0x{self.found:x}, which no lock can hold"


class LockStates:
    """
    The states of one lock in many structures, as columns.

    A row that could not be read is free.
    """

    def __init__(self, rows: Rows, stands_still: bool = True) -> None:
        count = len(rows)
        self.stands_still = stands_still
        """Whether the target does not change while it is looked at."""
        self.held: Bools = np.zeros(count, np.bool_)
        """Which locks somebody holds; none that is wrong."""
        self.wrong: Bools = np.zeros(count, np.bool_)
        """Which locks hold something that no lock of their kind can hold."""
        self.cpu: I64 = np.full(count, -1, np.int64)
        """CPU that holds the lock, where it tells; else -1."""
        self.waiter: I64 = np.full(count, -1, np.int64)
        """CPU that came last and waits for it, where it tells; else -1."""
        self.task: U64 = np.zeros(count, np.uint64)
        """``struct task_struct *`` that holds the lock, where it tells; else 0."""
        self.addresses: U64 = rows.addresses
        """Where the structures with the locks are."""
        self._rows = rows
        self._accused: List[Tuple[str, Bools]] = []

    def holder(self, row: int) -> str:
        """Return who holds the lock of a row, in words; empty if it does not tell."""
        if self.task[row]:
            return f"the task at 0x{self.task[row]:x}"
        return f"CPU {self.cpu[row]}" if self.cpu[row] >= 0 else ""

    def accuse(self, member: str, wrong: Bools) -> None:
        """Say in which rows a member holds something impossible."""
        wrong = wrong & self._rows.ok
        if wrong.any():
            self._accused.append((member, wrong))
            self.wrong |= wrong
            self.held &= ~wrong

    def wrong_word(self, row: int) -> Optional[WrongWord]:
        """Return the member of one row that is wrong, the first if there are several."""
        rows = self._rows
        for member, wrong in self._accused:
            if wrong[row]:
                at = int(rows.addresses[row]) + rows.structure.offset(member)
                return WrongWord(member, at, int(rows.integer(member)[row]))
        return None


class Locks:
    """
    How the locks of one machine are read: ``machine.fact(Locks)``.

    """

    def __init__(self, machine: Machine) -> None:
        self.tasks = Tasks(machine)
        """Who may own a lock."""
        self._machine = machine
        self._cpus = machine.cpus

    def states(self, rows: Rows, lock: str = "") -> LockStates:
        """
        Return the states of a lock in many structures.

        :param lock: Path of a ``spinlock_t``, ``raw_spinlock_t``,
            ``local_lock_t`` or ``local_trylock_t``; empty if the rows are such
            locks themselves.
        :raises LookupError: if the type of the lock is none of these.
        """
        structure, inside = rows.structure, f"{lock}." if lock else ""
        states = LockStates(rows, not self._machine.is_live)
        # With CONFIG_PREEMPT_RT, a spinlock_t (and with it a local lock) is an
        # rt_mutex. The mutex was struct rt_mutex before Linux kernel commit
        # 830e6acc8a1c ("locking/rtmutex: Split out the inner parts of 'struct
        # rtmutex'") (in v5.15).
        if structure.has(f"{inside}lock.owner"):
            if structure.has(f"{inside}lock.wait_lock"):
                self._raw(rows, f"{inside}lock.wait_lock.", states)
            self._sleeping(rows, f"{inside}lock.owner", states)
        elif structure.has(f"{inside}rlock.raw_lock"):
            self._raw(rows, f"{inside}rlock.", states)
        elif structure.has(f"{inside}raw_lock"):
            self._raw(rows, inside, states)
        else:
            self._local(rows, lock, states)
        return states

    def _sleeping(self, rows: Rows, member: str, states: LockStates) -> None:
        owner = rows[member] & ~_HAS_WAITERS
        there = owner != 0
        # The lock of the waiters is another one, and says nothing about this.
        states.held[:] = there & ~states.wrong
        states.cpu[:] = states.waiter[:] = -1
        states.task[:] = owner
        states.accuse(member, there & ~self.tasks.are(owner))

    def _raw(self, rows: Rows, inside: str, states: LockStates) -> None:
        structure, word = rows.structure, f"{inside}raw_lock"
        # Without CONFIG_SMP and CONFIG_DEBUG_SPINLOCK it has no members.
        if structure.size_of(word):
            read = self._machine.fact(spin_format, structure.type_of(word)).read
            words = rows.integer(word)
            found = read(words, self._cpus)
            states.held[:], states.cpu[:], states.waiter[:] = found.held, found.cpu, found.waiter
            states.accuse(word, found.wrong)
        if structure.has(f"{inside}magic"):
            self._debugged(rows, inside, states)

    def _debugged(self, rows: Rows, inside: str, states: LockStates) -> None:
        # CONFIG_DEBUG_SPINLOCK: who has taken the lock enters first its CPU,
        # then its task, and who gives it back clears first its task; in
        # between the word alone says that the lock is held.
        member, owner = f"{inside}owner_cpu", rows[f"{inside}owner"]
        cpu, free = rows[member], ~states.held
        states.accuse(f"{inside}magic", rows[f"{inside}magic"] != _MAGIC)
        nobody = cpu == _NO_CPU
        unknown = ~np.isin(cpu, self._cpus.astype(np.uint64)) & ~nobody
        unowned = owner == np.uint64((1 << 8 * self._machine.memory.word_size) - 1)
        states.accuse(member, unknown | (free & ~nobody) | (nobody & ~unowned & ~free))
        states.accuse(f"{inside}owner", ~unowned & (free | ~self.tasks.are(owner)))
        known = states.held & ~nobody
        states.cpu[known] = cpu[known].astype(np.int64)
        states.task[known & ~unowned] = owner[known & ~unowned]

    def _local(self, rows: Rows, lock: str, states: LockStates) -> None:
        # A local lock of a CPU is no word but the promise not to be preempted.
        # With lockdep it has an owner, and one that can be tried says whether
        # it is taken: since Linux kernel commit 0aaddfb06882 ("locking/local_lock:
        # Introduce localtry_lock_t") (in v6.15), in "llock" and "acquired"
        # until 6.17.
        structure, inside = rows.structure, f"{lock}." if lock else ""
        owner = next(
            (one for one in (f"{inside}owner", f"{inside}llock.owner") if structure.has(one)), None
        )
        if structure.has(f"{inside}acquired"):
            taken = rows.integer(f"{inside}acquired")
            states.held[:] = taken != 0
            states.accuse(f"{inside}acquired", taken > 1)
        elif owner is not None:
            states.held[:] = rows[owner] != 0
        elif lock and structure.size_of(lock):
            raise LookupError(f"{lock}: {structure.type_of(lock).type_name()} is no known lock")
        elif not lock and structure.size:
            raise LookupError(f"{structure.type.type_name()} is no known lock")
        if owner is not None:
            task = rows[owner]
            there = task != 0
            states.task[:] = task
            states.accuse(owner, there & (~states.held | ~self.tasks.are(task)))


def lock_states(machine: Machine, rows: Rows, lock: str = "") -> LockStates:
    """
    Return the states of a lock in many structures; see :meth:`Locks.states`.

    :raises LookupError: if the type of the lock is none that is known.
    """
    return machine.fact(Locks).states(rows, lock)


def lock_state(lock: Object) -> LockStates:
    """
    Return the state of one lock, as columns of one row; free, if it cannot be read.

    :param lock: ``spinlock_t`` or ``raw_spinlock_t``.
    :raises LookupError: if its type is none of these.
    """
    of, where = machine(lock.prog_), np.array([lock.address_], np.uint64)
    return lock_states(of, of.rows(lock.type_.type_name(), where))
