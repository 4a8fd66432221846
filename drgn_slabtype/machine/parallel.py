# SPDX-License-Identifier: LGPL-2.1-or-later
"""Reading in several processes, counted as if this one had read it all."""

from __future__ import annotations

import os
from typing import Callable, Iterator, Optional, Sequence, Tuple

from ..workers import Answer, Task, spread
from .memory import Memory
from .reads import Spent


def spread_reads(
    memory: Memory, work: Callable[[Task], Answer], tasks: Sequence[Task], jobs: int
) -> Iterator[Answer]:
    """
    Yield what a function that reads memory returns of each task, in the order of the tasks.

    :param work: What it returns can be pickled. An error is raised where its answer is due.
    :param jobs: How many processes work beside this one; with fewer than 2, this one does.
    """
    here = os.getpid()

    def counted(task: Task) -> Tuple[Answer, Optional[Spent]]:
        before = memory.spent
        answer = work(task)
        return answer, None if os.getpid() == here else memory.spent.since(before)

    for answer, spent in spread(counted, tasks, jobs):
        if spent is not None:
            memory.count(spent)
        yield answer
