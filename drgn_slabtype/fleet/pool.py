# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where the work is done: in slots of this machine, or by the workers of a cluster."""

from __future__ import annotations

import os
import select
from collections import Counter, deque
from typing import Any, Deque, Dict, Iterator, List, Optional, Sequence, Tuple

from .. import __version__
from ..errors import TargetError
from .slot import PROGRAM, TRIES, Slot, SlotDiedError, gave_up, judge_here
from .work import Job, Verdict

Done = Tuple[Job, Verdict]


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))


def locally(
    jobs: Sequence[Job], processes: int, program: Sequence[str] = PROGRAM
) -> Iterator[Optional[Done]]:
    """
    Do jobs on this machine, and yield each with its verdict as it is done.

    Nothing listens anywhere: processes are spoken to over pipes.

    :param processes: How many dumps are judged at a time.
    :return: Iterator; ``None`` whenever some time has passed without news.
    """
    waiting: Deque[Job] = deque(jobs)
    tries: Counter[int] = Counter()
    slots: List[Slot] = []
    threads = max(processors() // processes, 1)
    try:
        while waiting or any(slot.job for slot in slots):
            while waiting and len(slots) < processes:
                slots.append(Slot(threads, program))
            for slot in slots:
                if slot.job is None and waiting:
                    slot.give(waiting.popleft())
            ready, _, _ = select.select([slot for slot in slots if slot.job], [], [], 1.0)
            if not ready:
                yield None
            for slot in ready:
                job = slot.job
                assert job is not None
                try:
                    verdict = slot.take()
                except SlotDiedError as error:
                    slots.remove(slot)
                    slot.close()
                    tries[job.number] += 1
                    if tries[job.number] < TRIES:
                        waiting.appendleft(job)
                        continue
                    verdict = gave_up(job, str(error))
                if verdict is not None:
                    yield job, verdict
    finally:
        for slot in slots:
            slot.close()


def on_cluster(jobs: Sequence[Job], address: str) -> Iterator[Optional[Done]]:
    """
    Have the workers of a Dask scheduler do jobs, and yield each with its verdict as it is done.

    A job whose worker dies is given to another one by the scheduler.

    :param address: Of the scheduler, such as ``tcp://10.0.0.1:8786``.
    :raises TargetError: if the scheduler cannot be reached, or goes away.
    """
    try:
        import distributed
    except ImportError:
        raise TargetError(
            "--scheduler needs dask.distributed: pip install 'drgn-slabtype[fleet]'"
        ) from None
    try:
        # A client that cannot even begin leaves a mess.
        distributed.comm.get_address_host_port(address)
        client = distributed.Client(address, set_as_default=False, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        raise TargetError(f"no scheduler at {address}: {' '.join(str(error).split())}") from None
    try:
        yield from _asked(client, distributed, jobs, address)
    finally:
        client.close()


def _asked(
    client: Any, distributed: Any, jobs: Sequence[Job], address: str
) -> Iterator[Optional[Done]]:
    by_future: Dict[Any, Job] = {
        client.submit(judge_here, job.to_json(), pure=False): job for job in jobs
    }
    try:
        pending = distributed.as_completed(by_future, loop=client.loop)
        while not pending.is_empty():
            yield None
            future = next(pending)
            job = by_future.pop(future)
            yield job, _verdict(future, job, address)
    finally:
        client.cancel(list(by_future))


def _verdict(future: Any, job: Job, address: str) -> Verdict:
    from distributed.scheduler import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise TargetError(f"the scheduler at {address} went away")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return gave_up(job, "its workers died")
    if error is not None:
        told = f"{type(error).__name__}: {error}"
        raise TargetError(f"the workers at {address} cannot do the work: {told}") from None
    verdict = Verdict.from_json(future.result())
    if verdict.version != __version__:
        other = f"worker {verdict.worker} has drgn-slabtype {verdict.version}"
        raise TargetError(f"{other}, and this is {__version__}")
    return verdict
