# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What a check costs the machine that it runs on
----------------------------------------------

Memory of this process, as the kernel counts it, and its place among others.
"""

from __future__ import annotations

import contextlib
import os
from typing import Dict, List, Optional, Tuple

_NICE = 10


class Peak:
    """The most memory that this process has from now on, beyond what it has now."""

    def __init__(self) -> None:
        self._before, self._highest = _opened or _sizes()
        self._others: Dict[int, int] = {}

    @property
    def bytes(self) -> Optional[int]:
        """Return it; ``None`` if the process was larger before, or nothing tells."""
        _, highest = _sizes()
        if highest <= self._highest:
            return None
        return highest - self._before + sum(self._others.values())

    def add(self, process: int, size: int) -> None:
        """Count the memory of another process, as far as :func:`grown` has told, with it."""
        self._others[process] = max(size, self._others.get(process, 0))


def grown() -> int:
    """Return the most memory in bytes that this process has had since it first asked."""
    before, highest = _sizes()
    if _first.get(os.getpid()) is None:
        _first[os.getpid()] = before
    return max(highest - _first[os.getpid()], 0)


_first: Dict[int, int] = {}


_opened: List[int] = []


def opened() -> None:
    """
    Count memory from now on, for the one target that this process is there for.

    The process's peak begins anew, which is not for a library to do.
    """
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    _opened[:] = _sizes()


def _sizes() -> Tuple[int, int]:
    # Resident memory in bytes: now, and at its highest; zeroes where /proc is not there.
    sizes = {"VmRSS": 0, "VmHWM": 0}
    with contextlib.suppress(OSError, ValueError), open("/proc/self/status") as file:
        for line in file:
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) << 10
    return sizes["VmRSS"], sizes["VmHWM"]


def step_back() -> None:
    """Let other processes go first, as one does on a machine that others use."""
    with contextlib.suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, 0) < _NICE:
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
