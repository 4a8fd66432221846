# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Words of spinlocks
------------------

What the word of an ``arch_spinlock_t`` says, for each format that 64-bit
kernels have. The format follows from the type and the architecture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, Tuple

import numpy as np
import numpy.typing as npt
from drgn import Architecture, Type, TypeKind, sizeof

from ..distinct import among

if TYPE_CHECKING:
    from . import Machine

Bools = npt.NDArray[np.bool_]
I64 = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]

_MANY_CPUS = 1 << 14  # CONFIG_NR_CPUS from which the tail takes bits of the pending byte
_LOCK_TOKEN = 0x8000  # paca->lock_token


class Words(NamedTuple):
    """What words of spinlocks say."""

    held: Bools
    wrong: Bools
    """Which no spinlock of the format can hold."""
    cpu: I64
    """CPU that holds the lock; -1 where the word does not tell."""
    waiter: I64
    """CPU that queued last; -1 if none did, or the word does not tell."""


Read = Callable[[U64, I64], Words]
"""Reads words, given the numbers of all possible CPUs."""


class SpinFormat(NamedTuple):
    """One format of spinlock words."""

    name: str
    read: Read


def spin_format(machine: Machine, type: Type) -> SpinFormat:
    """
    Return how the words of a machine's spinlocks are read.

    :param type: ``arch_spinlock_t``, with members.
    """
    while type.kind == TypeKind.TYPEDEF:
        type = type.type
    compound = type.kind in (TypeKind.STRUCT, TypeKind.UNION)
    platform = machine.prog.platform
    arch = platform.arch if platform is not None else Architecture.UNKNOWN
    if sizeof(type) != 4 or not compound:
        return _UNKNOWN
    if type.tag == "qspinlock":
        # Since Linux kernel commit 9f61521c7a28 ("powerpc/qspinlock: powerpc
        # qspinlock implementation") (in v6.2), a format of its own, which has
        # no pending bit.
        if type.has_member("reserved"):
            return _PPC_QUEUED
        queued = _QUEUED_MANY if _most_cpus(machine) >= _MANY_CPUS else _QUEUED
        # Since Linux kernel commit ab83647fadae ("riscv: Add qspinlock
        # support") (in v6.13), RISC-V decides at boot which it is.
        return _either(queued, _TICKET) if arch == Architecture.RISCV64 else queued
    if (type.has_member("owner") and type.has_member("next")) or type.has_member("counter"):
        # Generic ticket locks are an atomic_t: owner below, next above.
        return _TICKET
    if type.has_member("slock"):
        return _PPC_TOKEN if arch == Architecture.PPC64 and _is_smp(machine) else _ALONE
    if type.has_member("lock") and arch == Architecture.S390X:
        return _S390
    return _UNKNOWN


def _is_smp(machine: Machine) -> bool:
    # Without CONFIG_SMP a lock of CONFIG_DEBUG_SPINLOCK is another structure of that member.
    return len(machine.cpus) > 1 or "__per_cpu_offset" in machine.prog


def _most_cpus(machine: Machine) -> int:
    # CONFIG_NR_CPUS, or somewhat more.
    try:
        return int(machine.prog["__per_cpu_offset"].type_.length or 0)
    except (AttributeError, LookupError):
        pass
    try:
        return 8 * sizeof(machine.prog.type("struct cpumask"))
    except LookupError:
        return 0


def _one_of(numbers: U64, cpus: I64) -> Bools:
    return among(numbers, cpus.astype(np.uint64))


def _field(words: U64, shift: int, width: int) -> U64:
    return (words >> np.uint64(shift)) & np.uint64((1 << width) - 1)


def _tail(words: U64, index: Tuple[int, int], cpu: Tuple[int, int], cpus: I64) -> Tuple[Bools, I64]:
    # (wrong, CPU) of a tail that holds CPU + 1 and, above 0, which of its nodes.
    at, number = _field(words, *index), _field(words, *cpu)
    there = number != 0
    wrong = there & ~_one_of(number - np.uint64(1), cpus)
    wrong |= ~there & (at != 0)
    return wrong, np.where(there, number, 0).astype(np.int64) - 1


def _queued(many: bool) -> Read:
    # include/asm-generic/qspinlock_types.h: the locked byte, a pending bit, and
    # the tail, which has two bits for one of four nested contexts.
    index, cpu = ((9, 2), (11, 21)) if many else ((16, 2), (18, 14))

    def read(words: U64, cpus: I64) -> Words:
        locked = _field(words, 0, 8)
        # 3: with paravirtual locks, a waiter sleeps and has to be woken.
        wrong = (locked > np.uint64(3)) | (locked == np.uint64(2))
        if not many:
            wrong |= _field(words, 9, 7) != 0
        bad, waiter = _tail(words, index, cpu, cpus)
        wrong |= bad
        return _words(locked != 0, wrong, None, waiter)

    return read


def _ticket(words: U64, cpus: I64) -> Words:
    # Each CPU can wait once.
    ahead = (_field(words, 16, 16) - _field(words, 0, 16)) & np.uint64(0xFFFF)
    return _words(ahead != 0, ahead > np.uint64(len(cpus)), None, None)


def _ppc_queued(words: U64, cpus: I64) -> Words:
    # Locked bit, holder's CPU, "a vCPU was seen preempted", "must queue", and CPU + 1 of
    # the tail.
    held = _field(words, 0, 1) != 0
    owner = _field(words, 1, 14)
    bad, waiter = _tail(words, (0, 0), (17, 15), cpus)
    wrong = bad | np.where(held, ~_one_of(owner, cpus), owner != 0)
    return _words(held, wrong, owner.astype(np.int64), waiter)


def _ppc_token(words: U64, cpus: I64) -> Words:
    # Eight bytes of the holder's paca begin with a constant and its number.
    held, owner = words != 0, _field(words, 0, 16)
    wrong = held & ((_field(words, 16, 16) != _LOCK_TOKEN) | ~_one_of(owner, cpus))
    return _words(held, wrong, owner.astype(np.int64), None)


def _s390(words: U64, cpus: I64) -> Words:
    # Since Linux kernel commit b96f7d881ad9 ("s390/spinlock: introduce spinlock
    # wait queueing") (in v4.15): CPU + 1 of the holder, how often the lock was
    # stolen from the queue, and its tail.
    owner = _field(words, 0, 16)
    held = owner != 0
    bad, waiter = _tail(words, (18, 2), (20, 12), cpus)
    wrong = bad | (held & ~_one_of(owner - np.uint64(1), cpus))
    return _words(held, wrong, owner.astype(np.int64) - 1, waiter)


def _alone(words: U64, cpus: I64) -> Words:
    # CONFIG_DEBUG_SPINLOCK without CONFIG_SMP: 1 is free.
    return _words(words == 0, words > np.uint64(1), None, None)


def _unknown(words: U64, cpus: I64) -> Words:
    return _words(words != 0, np.zeros(len(words), np.bool_), None, None)


def _words(held: Bools, wrong: Bools, cpu: Optional[I64], waiter: Optional[I64]) -> Words:
    # Nobody holds what is wrong.
    nobody = np.full(len(held), -1, np.int64)
    held = held & ~wrong
    holder = nobody if cpu is None else np.where(held, cpu, nobody)
    last = nobody if waiter is None else np.where(wrong, nobody, waiter)
    return Words(held, wrong, holder, last)


_QUEUED = SpinFormat("queued", _queued(many=False))
_QUEUED_MANY = SpinFormat("queued, 16K CPUs or more", _queued(many=True))
_TICKET = SpinFormat("ticket", _ticket)
_PPC_QUEUED = SpinFormat("ppc64 queued", _ppc_queued)
_PPC_TOKEN = SpinFormat("ppc64 token", _ppc_token)
_S390 = SpinFormat("s390x", _s390)
_ALONE = SpinFormat("one CPU", _alone)
_UNKNOWN = SpinFormat("unknown", _unknown)


def _either(one: SpinFormat, other: SpinFormat) -> SpinFormat:
    def read(words: U64, cpus: I64) -> Words:
        first, second = one.read(words, cpus), other.read(words, cpus)
        wrong = first.wrong & second.wrong
        held = (first.held | first.wrong) & (second.held | second.wrong)
        return _words(held, wrong, None, None)

    return SpinFormat(f"{one.name} or {other.name}", read)
