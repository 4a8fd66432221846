# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Being stopped
-------------

For the time of a command, the first SIGINT, SIGTERM or SIGHUP, and the end of
the time it may take, make it end with what it has: they raise
:class:`Interrupted` where that does no harm, and are remembered until then
where it would. Numpy and destructors lose exceptions: until somebody has caught
it, every read of memory raises it again. The next signal does what it did
before the command.

Nothing here is in force while the package is used as a library: there Ctrl-C
raises Python's own :exc:`KeyboardInterrupt`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any, Dict, Iterable, Iterator, List, Optional

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TIME = "time"
"""The reason of a run that took as long as it may."""

# In seconds. The timeout program sends its signal twice, to the process and to its group.
_SAME = 0.1  # in which two signals are one
_PATIENCE = 0.2  # for Python to end by itself


class Interrupted(KeyboardInterrupt):
    """
    A run is to end with what it has so far.

    :param reason: Name of the signal, or ``time``.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def reason_of(stop: KeyboardInterrupt) -> str:
    """Return what stopped a run, for which that is then no news any more."""
    for interruptions in _active:
        interruptions.caught = True
    return stop.reason if isinstance(stop, Interrupted) else "SIGINT"


def spell_reason(reason: Optional[str]) -> str:
    """
    Return what stopped a check, in words.

    >>> spell_reason("time"), spell_reason("SIGTERM")
    ('stopped by time', 'interrupted by SIGTERM')

    :param reason: As a report has it.
    """
    told = {None: "interrupted", TIME: "stopped by time", "target": "the target went away"}
    return told.get(reason) or f"interrupted by {reason}"


class Interruptions:
    """
    What may stop a command.

    :param at_once: Whether the second signal ends the process, as at a shell;
        else it does what it did before, as at a prompt.
    """

    def __init__(self, at_once: bool) -> None:
        self.reason: Optional[str] = None
        """What has stopped the command; ``None`` if nothing has."""
        self.signal: Optional[int] = None
        """The signal among these reasons."""
        self.caught = False
        """Whether whoever runs the command knows."""
        self._at_once = at_once
        self._when = 0.0
        self._raising = False
        self._start = time.monotonic()
        self._previous: Dict[int, Any] = {}
        self._hook: Any = None
        self._pipe = (-1, -1)
        self._wakeup = -1

    # Installing ----------------------------------------------------------------

    def __enter__(self) -> Interruptions:
        # Handlers belong to the main thread. What is ignored stays ignored, as
        # under nohup, and what no Python code has set cannot be put back.
        if threading.current_thread() is not threading.main_thread() or _active:
            return self
        _active.append(self)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._lost
        for number in (*SIGNALS, signal.SIGALRM):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._previous[number] = signal.signal(number, self._arrived)
        if self._at_once:
            self._watch_from_outside()
        return self

    def __exit__(self, *exc: object) -> None:
        if self not in _active:
            return
        self._raising = False
        self._give_back(self._previous)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = self._hook
        if self._at_once:
            signal.set_wakeup_fd(self._wakeup)
            os.close(self._pipe[1])
        _active.remove(self)

    def limit(self, seconds: Optional[float]) -> None:
        """Stop the command so many seconds after it began."""
        if seconds is not None and self in _active:
            left = self._start + seconds - time.monotonic()
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6))

    def _give_back(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            signal.signal(number, self._previous[number])

    # Signals -------------------------------------------------------------------

    def _arrived(self, number: int, frame: Optional[FrameType]) -> None:
        if number != signal.SIGALRM:
            if self.signal is not None:
                self._second(number)
                return
            self.signal, self._when = number, time.monotonic()
        if self.reason is None:
            self.reason = TIME if number == signal.SIGALRM else signal.Signals(number).name
        self.poll()

    def poll(self) -> None:
        """Raise :class:`Interrupted` if the command is stopped and does not know yet."""
        if self.reason is not None and self._raising and not self.caught:
            raise Interrupted(self.reason)

    def _second(self, number: int) -> None:
        if time.monotonic() - self._when < _SAME:
            return
        if self._at_once:
            signal.signal(number, signal.SIG_DFL)
        else:
            self._give_back([number])
        signal.raise_signal(number)

    def _lost(self, unraisable: Any) -> None:
        # Raised in a destructor: nothing that people must see.
        if not isinstance(unraisable.exc_value, Interrupted):
            self._hook(unraisable)

    def _watch_from_outside(self) -> None:
        # Python tells its main thread of a signal when that comes back from C,
        # which it does not while a guest that hangs is waited for. A second
        # signal ends the process all the same.
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=_end_on_second, args=(self._pipe[0],), daemon=True).start()

    # Where they raise ----------------------------------------------------------

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Let them raise here, also those that came before."""
        before, self._raising = self._raising, True
        try:
            self.poll()
            yield
            self.poll()
        finally:
            self._raising = before


def _end_on_second(pipe: int) -> None:
    first: Optional[float] = None
    while data := os.read(pipe, 1):
        if data[0] not in SIGNALS:
            continue
        now = time.monotonic()
        if first is None:
            first = now
        elif now - first >= _SAME:
            time.sleep(_PATIENCE)
            os._exit(128 + data[0])
    os.close(pipe)


_active: List[Interruptions] = []  # at most one


def poll() -> None:
    """Raise :class:`Interrupted` if the command of the moment is stopped and does not know yet."""
    if _active:
        _active[0].poll()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let what stops the command of the moment raise :class:`Interrupted` here."""
    if _active:
        with _active[0].raising():
            yield
    else:
        yield


def repeat(number: Optional[int]) -> None:
    """Do now what a signal asked for that has stopped a command, Ctrl-C apart: end the session."""
    if number not in (None, signal.SIGINT):
        signal.raise_signal(number)
