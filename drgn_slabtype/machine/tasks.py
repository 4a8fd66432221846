# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which addresses are those of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List

import numpy as np
from drgn import Architecture

from .memory import U64, Bools

if TYPE_CHECKING:
    from . import Machine

_PID_MAX_LIMIT = 1 << 22
_TAG = np.uint64(0xFF << 56)
_TAGGED_HALF = np.uint64(1 << 55)


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
        platform = machine.prog.platform
        self._tagged = platform is not None and platform.arch == Architecture.AARCH64

    def are(self, addresses: U64) -> Bools:
        """
        Return which addresses are those of tasks.

        :param addresses: ``struct task_struct *``: shape (n,).
        """
        addresses = self._untagged(np.asarray(addresses, np.uint64))
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

    def _untagged(self, addresses: U64) -> U64:
        # KASAN's tag modes give each pointer a tag in its top byte.
        if not self._tagged:
            return addresses
        return np.where(addresses & _TAGGED_HALF != 0, addresses | _TAG, addresses)

    def _ask(self, addresses: U64) -> Bools:
        memory = self._machine.memory
        plausible = memory.is_kernel_address(addresses)
        plausible &= addresses % np.uint64(memory.word_size) == 0
        if self._machine.manifest is not None:
            if self._said is None:
                return plausible
            return plausible & np.isin(addresses, np.array(sorted(self._said), np.uint64))
        try:
            rows = self._machine.rows("struct task_struct", addresses)
            stack, pid = rows["stack"], rows["pid"]
        except LookupError:
            return plausible
        real = memory.is_kernel_address(stack) & (stack % np.uint64(memory.page_size) == 0)
        real &= pid < _PID_MAX_LIMIT
        return plausible & (real | ~rows.ok)
