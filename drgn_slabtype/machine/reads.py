# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reads of a program's memory, counted, and bounded in time."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import Iterator, NamedTuple, Optional

from drgn import Program

from ..signals import TIME, Interrupted, poll


class Spent(NamedTuple):
    """What reading has cost."""

    reads: int
    bytes: int

    def since(self, before: Spent) -> Spent:
        """Return what was spent after an earlier moment."""
        return Spent(self.reads - before.reads, self.bytes - before.bytes)


class Reads:
    """
    Reads of one program.

    :param prog: Of any kind.
    """

    def __init__(self, prog: Program) -> None:
        self.prog = prog
        self._reads = self._bytes = 0
        self._deadline: Optional[float] = None

    def read_once(self, address: int, size: int, physical: bool = False) -> bytes:
        """
        Read *size* bytes at an address, and count it.

        :raises FaultError: if they are not in the target.
        :raises Interrupted: if the time is up, or a signal came.
        """
        poll()
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise Interrupted(TIME)
        self._reads += 1
        data = self.prog.read(address, size, physical)
        self._bytes += size
        return data

    @property
    def spent(self) -> Spent:
        """What reading has cost so far."""
        return Spent(self._reads, self._bytes)

    def count(self, spent: Spent) -> None:
        """Count what another process has read for this one."""
        self._reads, self._bytes = self._reads + spent.reads, self._bytes + spent.bytes

    @contextmanager
    def until(self, deadline: Optional[float]) -> Iterator[None]:
        """
        Bound how long memory is read.

        :param deadline: Of :func:`time.monotonic`: reads after it raise
            :class:`~drgn_slabtype.signals.Interrupted`.
        """
        before, self._deadline = self._deadline, deadline
        try:
            yield
        finally:
            self._deadline = before
