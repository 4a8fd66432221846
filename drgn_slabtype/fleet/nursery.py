# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Processes that judge
--------------------

``python -m drgn_slabtype.fleet.nursery`` reads jobs, a line each, and answers each
with a line. What a dump may do to a process, it does to one that is forked for it:
this one watches that it does not take too long or too much memory, and that it
lives; it has imported everything, so that forking is all it costs.

It ends when its input does, and so does the process that it watches.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import select
import signal
import socket
import tempfile
import time
from typing import BinaryIO, Callable, Optional

from .work import Job, Verdict, judge

_LOOK = 0.1  # seconds between two looks at memory
_GRACE = 5.0, 0.1  # seconds, and share of its time, that a process has to end by itself
_PR_SET_PDEATHSIG = 1
_TAIL = 200  # characters of what a process that died had to say

Work = Callable[[Job], Verdict]


def serve(commands: BinaryIO, answers: BinaryIO, work: Work = judge) -> None:
    """
    Do jobs, one after the other, until there are no more.

    :param work: What is done for each, in a process of its own.
    """
    gc.freeze()  # what is there now is shared by all processes to come
    while line := commands.readline():
        verdict = _Ward(Job.from_json(line.decode()), work).verdict(commands)
        if verdict is None:
            return
        answers.write(verdict.to_json().encode() + b"\n")
        answers.flush()


class _Ward:
    # A process that does one job.

    def __init__(self, job: Job, work: Work) -> None:
        self._job = job
        self._started = time.monotonic()
        self._peak = 0
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._end, theirs = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.close(self._end)
            _work(job, work, theirs, self._said.fileno())
        os.close(theirs)

    def verdict(self, commands: BinaryIO) -> Optional[Verdict]:
        """Return what it came to; ``None`` if nobody waits for it any more."""
        data, limit, wanted = b"", None, True
        with open(self._end, "rb", buffering=0) as end:
            while wanted:
                ready, _, _ = select.select([end, commands], [], [], _LOOK)
                if end in ready:
                    piece = end.read(1 << 16) or b""
                    data += piece
                    if not piece:
                        break
                elif commands in ready:
                    wanted = False
                limit = limit or self._exceeded()
                if limit is not None or not wanted:
                    os.kill(self._pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._pid, 0)
        if not wanted:
            return None
        verdict = self._answer(data, status, limit)
        verdict.memory = max(self._peak, usage.ru_maxrss << 10)
        verdict.worker = f"{socket.gethostname()}:{self._pid}"
        return verdict

    def _exceeded(self) -> Optional[str]:
        job = self._job
        resident = _resident(self._pid)
        self._peak = max(self._peak, resident)
        if job.max_memory is not None and resident > job.max_memory:
            return "memory"
        if job.max_time is not None:
            grace, share = _GRACE
            latest = job.max_time + max(grace, share * job.max_time)
            if time.monotonic() - self._started > latest:
                return "time"
        return None

    def _answer(self, data: bytes, status: int, limit: Optional[str]) -> Verdict:
        if limit is None:
            with contextlib.suppress(ValueError):
                return Verdict.from_json(data.decode())
        seconds = round(time.monotonic() - self._started, 3)
        verdict = Verdict(self._job.number, limit=limit or "died", seconds=seconds)
        if limit == "time":
            verdict.why = f"killed: not done after {self._job.max_time:g} s"
        elif limit == "memory":
            verdict.why = f"killed: it took more than {(self._job.max_memory or 0) >> 20} MiB"
        else:
            verdict.why = f"its process died: {_how(status)}{self._last_words()}"
        return verdict

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f": {last.strip()[:_TAIL]}" if last else ""


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        with contextlib.suppress(ValueError):
            return signal.Signals(number).name
        return f"signal {number}"
    return f"exit status {os.WEXITSTATUS(status)}"


def _resident(pid: int) -> int:
    # Bytes that are no file's: what is mapped of a dump can be dropped at any time.
    sizes = 0
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith(("RssAnon:", "RssShmem:")):
                sizes += int(line.split()[1]) << 10
    return sizes


def _work(job: Job, work: Work, end: int, errors: int) -> None:
    # In the process that was forked; it does not come back.
    status = 1
    try:
        # It must not outlive who watches it, and is the first to go when memory is short.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        for number, mode in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
            os.dup2(os.open(os.devnull, mode), number)
        os.dup2(errors, 2)
        text = work(job).to_json().encode()
        while text:
            text = text[os.write(end, text) :]
        status = 0
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(2, f"{type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(status)


def main(work: Work = judge) -> None:
    """Serve whoever started this process, over its standard input and output."""
    commands, answers = os.dup(0), os.dup(1)
    # What some library prints must not be taken for an answer.
    os.dup2(2, 1)
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(open(commands, "rb", buffering=0))
        target = stack.enter_context(open(answers, "wb"))
        stack.enter_context(contextlib.suppress(BrokenPipeError))
        serve(source, target, work)


if __name__ == "__main__":
    main()
