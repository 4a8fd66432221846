# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Work in several processes
-------------------------

Processes forked from this one have all that it has read; each takes the next of some
tasks when it is done with one, and answers through a pipe. What one of them fails at,
or was killed over, is done by the process that asked, so that no answer is lost.
"""

from __future__ import annotations

import gc
import os
import pickle
import select
import signal
import struct
from contextlib import suppress
from typing import Callable, Dict, Iterator, List, NoReturn, Optional, Sequence, TypeVar

Task = TypeVar("Task")
Answer = TypeVar("Answer")

_NUMBER = struct.Struct("<I")
_HEAD = struct.Struct("<IQ")  # of an answer: which task's, and its bytes
_MOST = (1 << 16) // _NUMBER.size  # that a pipe holds before anybody reads it
_PIECE = 1 << 20


def processors() -> int:
    """Return how many processors this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on all systems
        return os.cpu_count() or 1


def worth_while(jobs: Optional[int], moves: bool, much: bool) -> int:
    """
    Return how many processes do some work: as many as were asked for.

    :param jobs: ``None``: one a processor, if it is much.
    :param moves: What moves is read by one process, in one moment.
    """
    if jobs is None:
        jobs = processors() if much else 1
    return 1 if moves else jobs


def spread(
    work: Callable[[Task], Answer],
    tasks: Sequence[Task],
    jobs: int,
    weights: Sequence[float] = (),
) -> Iterator[Answer]:
    """
    Yield what a function returns of each task, in the order of the tasks.

    :param work: What it returns can be pickled. An error is raised where its answer is due.
    :param jobs: How many processes work beside this one; with fewer than 2, this one does.
    :param weights: How much each task is: the greatest are begun first.
    """
    if jobs < 2 or len(tasks) < 2 or not hasattr(os, "fork"):
        yield from map(work, tasks)
        return
    order = sorted(range(len(tasks)), key=lambda at: -weights[at]) if weights else range(len(tasks))
    workers = _Workers(work, tasks, list(order)[:_MOST], min(jobs, len(tasks)))
    done: Dict[int, bytes] = {}
    try:
        for number, task in enumerate(tasks):
            while number not in done and workers.are_there:
                done.update(workers.wait())
            answer = done.pop(number, None)
            yield work(task) if answer is None else pickle.loads(answer)
    finally:
        workers.end()


class _Workers:
    # Processes that were forked, by the end of the pipe that each answers through.

    def __init__(
        self,
        work: Callable[[Task], Answer],
        tasks: Sequence[Task],
        order: List[int],
        count: int,
    ) -> None:
        self._processes: Dict[int, int] = {}
        self._heard: Dict[int, bytearray] = {}
        self._poll = select.poll()
        queue, end = os.pipe()
        os.write(end, b"".join(map(_NUMBER.pack, order)))
        os.close(end)
        try:
            for _ in range(count):
                self._start(lambda answers: _serve(work, tasks, queue, answers))
        except OSError:  # no more processes: those that there are do all of it
            pass
        finally:
            os.close(queue)

    def _start(self, serve: Callable[[int], None]) -> None:
        ours, theirs = os.pipe()
        try:
            process = os.fork()
        except OSError:
            os.close(ours)
            os.close(theirs)
            raise
        if not process:
            _be_worker(serve, theirs, [ours, *self._processes])
        os.close(theirs)
        self._processes[ours], self._heard[ours] = process, bytearray()
        self._poll.register(ours, select.POLLIN)

    @property
    def are_there(self) -> bool:
        # Whether any still works.
        return bool(self._processes)

    def wait(self) -> Dict[int, bytes]:
        # Answers that have come, at least one unless a process has ended.
        answers: Dict[int, bytes] = {}
        for end, _ in self._poll.poll():
            piece = os.read(end, _PIECE)
            if not piece:
                self._forget(end)
                continue
            heard = self._heard[end]
            heard += piece
            while len(heard) >= _HEAD.size:
                number, size = _HEAD.unpack_from(heard)
                if len(heard) < _HEAD.size + size:
                    break
                answers[number] = bytes(heard[_HEAD.size : _HEAD.size + size])
                del heard[: _HEAD.size + size]
        return answers

    def _forget(self, end: int) -> None:
        process = self._processes.pop(end)
        self._poll.unregister(end)
        os.close(end)
        with suppress(ChildProcessError):
            os.waitpid(process, 0)

    def end(self) -> None:
        # Whatever they are at.
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for end in list(self._processes):
            self._forget(end)


def _be_worker(serve: Callable[[int], None], theirs: int, others: Sequence[int]) -> NoReturn:
    # Nothing of whoever asked is ours to clean up, and signals are for them to answer.
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        for end in others:
            os.close(end)
        gc.freeze()  # what is shared stays so
        serve(theirs)
    finally:
        os._exit(0)


def _serve(work: Callable[[Task], Answer], tasks: Sequence[Task], queue: int, answers: int) -> None:
    while taken := os.read(queue, _NUMBER.size):
        (number,) = _NUMBER.unpack(taken)
        try:
            answer = pickle.dumps(work(tasks[number]), pickle.HIGHEST_PROTOCOL)
        except Exception:
            continue  # whoever waits for it does it, and meets the same
        rest = memoryview(_HEAD.pack(number, len(answer)) + answer)
        while rest:
            rest = rest[os.write(answers, rest) :]
