# SPDX-License-Identifier: LGPL-2.1-or-later
"""Functions run in processes of their own, several at a time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import time
import traceback
from multiprocessing.connection import Connection, wait
from typing import Callable, Dict, Iterator, Optional, Sequence, Tuple, TypeVar

T = TypeVar("T")
Answer = Tuple[Optional[T], str]
"""What a function returned, or ``None`` and what went wrong."""

_PROCESSOR_SECONDS = 200  # however many others the machine has to serve
_SECONDS = 3600  # by the clock, of what waits for nothing


class _Run:
    # One function in a forked process.
    def __init__(self, work: Callable[[], T]) -> None:
        context = multiprocessing.get_context("fork")
        self.end, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_child, args=(work, theirs))
        self.process.start()
        theirs.close()
        self.until = time.monotonic() + _SECONDS

    def answer(self) -> Answer[T]:
        try:
            good, answer = self.end.recv()
        except EOFError:
            good, answer = False, ""
        self.process.join()
        if not good and not answer:
            busy = self.process.exitcode == -signal.SIGXCPU
            answer = (
                f"no answer in {_PROCESSOR_SECONDS} s of the processor"
                if busy
                else "the check died"
            )
        return (answer, "") if good else (None, str(answer))

    def stop(self) -> Answer[T]:
        self.process.kill()
        self.process.join()
        return None, f"no answer in {_SECONDS} s"


def apart(works: Sequence[Callable[[], T]], jobs: int) -> Iterator[Answer[T]]:
    """
    Run each function in a process forked for it, and yield what they return, in order.

    :param jobs: How many run at a time.
    """
    running: Dict[int, _Run] = {}
    done: Dict[int, Answer[T]] = {}
    begun = told = 0
    try:
        while told < len(works):
            while begun < len(works) and len(running) < jobs:
                running[begun] = _Run(works[begun])
                begun += 1
            ready = wait([run.end for run in running.values()], 1)
            for number, run in list(running.items()):
                if run.end in ready:
                    done[number] = run.answer()
                elif time.monotonic() > run.until:
                    done[number] = run.stop()
                else:
                    continue
                del running[number]
            while told in done:
                yield done.pop(told)
                told += 1
    finally:
        for run in running.values():
            run.stop()


def _child(work: Callable[[], T], theirs: Connection) -> None:
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CPU, (_PROCESSOR_SECONDS, _PROCESSOR_SECONDS + 5))
    try:
        theirs.send((True, work()))
    except Exception:
        theirs.send((False, traceback.format_exc()))
    theirs.close()
    os._exit(0)  # nothing of the parent is ours to clean up
