# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The kernel's clock
------------------

``jiffies``, and how many of them are a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple

from drgn import FaultError

if TYPE_CHECKING:
    from . import Machine
    from .memory import U64, Bools

_HIGHEST_HZ = 1200  # of any architecture
_BEFORE_WRAP = 300  # seconds after boot at which the low half of jiffies wraps
_AHEAD = 3600  # seconds: how far in the future a timer may lie that is still one


class Clock(NamedTuple):
    """The moment at which a machine is looked at."""

    jiffies: int
    """``jiffies_64``"""
    hz: Optional[int]
    """Jiffies of a second; ``None`` if the target does not tell."""

    def ago(self, jiffies: int) -> Optional[int]:
        """
        Return how many jiffies ago a moment was, below zero if it is to come.

        :return: ``None`` if it is before the boot, or too far ahead to be a moment.
        """
        first, last = self._bounds()
        return self.jiffies - jiffies if first <= jiffies <= last else None

    def are_moments(self, jiffies: U64) -> Bools:
        """Return of which numbers :meth:`ago` knows how long ago they were."""
        first, last = self._bounds()
        found: Bools = (jiffies >= first) & (jiffies <= last)
        return found

    def _bounds(self) -> Tuple[int, int]:
        # INITIAL_JIFFIES: the low half of jiffies wraps soon, for all to see.
        hz = self.hz or _HIGHEST_HZ
        return (1 << 32) - _BEFORE_WRAP * hz, min(self.jiffies + _AHEAD * hz, (1 << 64) - 1)

    def jiffies_at(self, nanoseconds: U64) -> Optional[U64]:
        """Return what ``jiffies_64`` was at moments that are so long after the boot."""
        if self.hz is None:
            return None
        per_jiffy, boot = 10**9 // self.hz, (1 << 32) - _BEFORE_WRAP * self.hz
        moments: U64 = nanoseconds // nanoseconds.dtype.type(per_jiffy)
        return moments + nanoseconds.dtype.type(boot)

    def since(self, nanoseconds: int) -> Optional[float]:
        """Return how many seconds ago a moment was that is so long after the boot."""
        if self.hz is None:
            return None
        up = self.jiffies - (1 << 32) + _BEFORE_WRAP * self.hz
        return max(up / self.hz - nanoseconds / 10**9, 0.0)

    def seconds(self, jiffies: int) -> Optional[float]:
        """Return a number of jiffies in seconds, if it is known how long one is."""
        return None if self.hz is None else jiffies / self.hz


def clock(machine: Machine) -> Optional[Clock]:
    """
    Return what the clock of a machine says.

    :return: ``None`` if it is not in the target, or is overwritten: no moment after the boot.
    """
    try:
        now = Clock(int(machine.prog["jiffies_64"]), machine.fact(_hz))
    except (FaultError, LookupError):
        return None
    return now if now.ago(now.jiffies) is not None else None


def _hz(machine: Machine) -> Optional[int]:
    # No variable has CONFIG_HZ; the clock source that counts jiffies says how
    # many nanoseconds one has (TICK_NSEC), shifted.
    try:
        source = machine.prog["clocksource_jiffies"]
        nanoseconds = int(source.mult) >> int(source.shift)
    except (AttributeError, FaultError, LookupError, ValueError):
        return None
    hz = round(10**9 / nanoseconds) if nanoseconds else 0
    return hz if 0 < hz <= _HIGHEST_HZ else None
