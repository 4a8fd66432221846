# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Locks
-----

Whether a lock was held in the moment that is looked at. What the lock guards
may then be halfway between two states.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from drgn import Object, sizeof

from . import machine
from .columns import Rows

Bools = npt.NDArray[np.bool_]


def is_held(lock: Object) -> bool:
    """
    Return whether one lock is held; no, if it cannot be read.

    :param lock: ``spinlock_t`` or ``raw_spinlock_t``.
    """
    if not sizeof(lock):
        return False
    where = np.array([lock.address_], np.uint64)
    return bool(held(machine(lock.prog_).rows(lock.type_.type_name(), where))[0])


def held(rows: Rows, lock: str = "") -> Bools:
    """
    Return in which rows a lock is held.

    :param lock: Path of a ``spinlock_t`` or ``raw_spinlock_t``; empty if the
        rows are such locks themselves.
    :return: Shape (n,). Without CONFIG_SMP none is: there is nothing to tell it.
    :raises LookupError: if the type of the lock is none of these.
    """
    structure, inside = rows.structure, f"{lock}." if lock else ""
    # With CONFIG_PREEMPT_RT, a spinlock_t is an rt_mutex, which has an owner;
    # bit 0 of the pointer says that somebody waits. The mutex was struct
    # rt_mutex before Linux kernel commit 830e6acc8a1c ("locking/rtmutex: Split
    # out the inner parts of 'struct rtmutex'") (in v5.15).
    owner = f"{inside}lock.owner"
    if structure.has(owner):
        sleeping: Bools = rows[owner] & ~np.uint64(1) != 0
        return sleeping
    raw = f"{inside}rlock.raw_lock"
    if not structure.has(raw):
        raw = f"{inside}raw_lock"
    if structure.size_of(raw) < 4:
        return np.zeros(len(rows), np.bool_)
    start = structure.offset(raw)
    cut = np.ascontiguousarray(rows.raw[:, start : start + 4])
    words = cut.view(f"{structure.byteorder}u4")[:, 0]
    # A queued spinlock is 0 when free; a ticket lock's halves are equal.
    spinning: Bools = words & np.uint32(0xFFFF) != words >> np.uint32(16)
    return spinning
