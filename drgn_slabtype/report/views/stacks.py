# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people see of call traces, kinds of objects, call sites and cgroups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Iterable, List, Optional, Sequence

from ...signature import from_caller
from . import Column, View

if TYPE_CHECKING:
    from ...answers.likeness import Kind
    from ...answers.owners import Owner
    from ...answers.sites import Site
    from ...answers.stacks import Stack

_FRAMES = 4  # that stand in one line


def ranges(numbers: Sequence[int]) -> str:
    """
    Return ascending numbers with runs of them in short.

    >>> ranges([0, 1, 2, 5])
    '0-2,5'
    """
    runs: List[List[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _age(stack: Stack) -> Optional[str]:
    if stack.youngest is None:
        return None
    return "/".join(f"{age:.0f}" for age in (stack.youngest, stack.average, stack.oldest))


def _pids(stack: Stack) -> str:
    more = stack.processes - len(stack.pids)
    return ",".join(map(str, stack.pids)) + (f" and {more} more" if more else "")


def _trace(stack: Stack) -> Optional[str]:
    frames: Iterable[Optional[str]] = stack.stack or (stack.caller,)
    return " < ".join(from_caller([frame for frame in frames if frame])[:_FRAMES])


def stacks(seconds: bool) -> View:
    """
    Return what is told of call traces.

    :param seconds: Whether ages are in seconds.
    """
    return View(
        Column("count"),
        Column("bytes"),
        Column("cache"),
        Column(f"age in {'s' if seconds else 'jiffies'}", "youngest average oldest", _age, less=1),
        Column("CPUs", "cpus", lambda stack: ranges(stack.cpus), less=3),
        Column("PIDs", "pids processes", _pids, less=2),
        Column("by", "caller stack", _trace),
    )


def _words(kind: Kind) -> str:
    return ", ".join(f"{word.symbol} at {word.offset}" for word in kind.words) or "-"


KIND = View(
    Column("count"),
    Column("bytes"),
    Column("example"),
    Column("words", cell=_words),
)


def _where(site: Site) -> str:
    module = f" [{site.module}]" if site.module else ""
    return f"{site.file}:{site.line}{module}"


SITE = View(
    Column("bytes"),
    Column("calls"),
    Column("function"),
    Column("at", "file line module", _where),
)


def _path(owner: Owner) -> str:
    if owner.path is None:
        return "a cgroup that is not in the target"
    return owner.path + (" (removed)" if owner.dying else "")


OWNER = View(
    Column("objects"),
    Column("bytes"),
    Column("cgroup", "path dying", _path),
    Column("mem_cgroup", "memcg", proper=True),
)
