# SPDX-License-Identifier: LGPL-2.1-or-later
"""What scripts call: a run over many dumps, and what the runs in a folder have come to."""

from __future__ import annotations

from typing import Optional, Sequence, Union

from ..arguments import at_least, path_of, seconds_of, several
from .known import Cause
from .run import MAX_TIME, Options, Progress, Run
from .summary import Fleet, summarise


def judge_fleet(
    paths: Union[str, Sequence[str]],
    folder: str,
    *,
    symbols: Union[str, Sequence[str]] = (),
    default_symbols: bool = True,
    processes: Optional[int] = None,
    scheduler: Optional[str] = None,
    max_time: float = MAX_TIME,
    max_memory: Optional[int] = None,
    causes: Sequence[Cause] = (),
    by_kernel: bool = False,
    html: Optional[str] = None,
    progress: Optional[Progress] = None,
) -> Fleet:
    """
    Check all dumps and captures below some paths, and return them grouped by what is wrong.

    Each is checked by a process of its own; a run that was stopped goes on where it was.

    >>> fleet = judge_fleet(["vmcore.xz"], "results", processes=1)
    >>> fleet.totals.dumps, len(fleet.groups), fleet.exit_status
    (1, 0, 0)

    :param paths: Folders, dumps, captures, and reports of ``check`` in JSON; or one of them.
    :param folder: Where the results are kept; it is made if it is not there.
    :param symbols: Folders with debug info, in which the vmlinux of each dump is found by its
        build ID.
    :param default_symbols: Whether to look for debug info where drgn does.
    :param processes: How many dumps at a time; as many as there are processors if ``None``.
    :param scheduler: Address of a Dask scheduler, whose workers do it then.
    :param max_time: Seconds for each dump.
    :param max_memory: Bytes for each dump; 80 % of the machine's for all of them if ``None``.
    :param causes: Known causes that groups are compared with, as of :func:`read_causes`.
    :param by_kernel: Whether dumps of different kinds of kernels are in groups of their own.
    :param html: File that a page with all groups is written to.
    :param progress: Called whenever there is news, and now and then.
    :raises ArgumentError: if a number is too small, or a path is none.
    :raises TargetError: if there is nothing to judge, or nowhere to write to.
    """
    at_least("processes", processes, 1)
    at_least("max_memory", max_memory, 1)
    seconds_of("max_time", max_time)
    folder = path_of("folder", folder)
    folders = [path_of("symbols", one) for one in several(symbols)]
    below = [path_of("paths", one) for one in several(paths)]
    options = Options(folders, default_symbols, processes, scheduler, max_time, max_memory)
    run = Run(below, folder, options, progress)
    run.go()
    fleet = summarise(folder, causes, by_kernel)
    fleet.unread = run.unread
    return _shown(fleet, html)


def fleet_summary(
    folder: str,
    *,
    causes: Sequence[Cause] = (),
    by_kernel: bool = False,
    html: Optional[str] = None,
) -> Fleet:
    """
    Return what the runs in a folder have come to; nothing is checked or written.

    >>> _ = judge_fleet(["vmcore.xz"], "results", processes=1)
    >>> [(one.release, one.dumps) for one in fleet_summary("results").releases]
    [('6.1.176-slab-6_1-rfc3', 1)]

    :param folder: That :func:`judge_fleet` or the command ``fleet`` wrote to.
    :param causes: Known causes that groups are compared with, as of :func:`read_causes`.
    :param by_kernel: Whether dumps of different kinds of kernels are in groups of their own.
    :param html: File that a page with all groups is written to.
    :raises ArgumentError: if *folder* is no path.
    :raises TargetError: if there is nothing in the folder, no dump is known there, or the page
        cannot be written.
    """
    return _shown(summarise(path_of("folder", folder), causes, by_kernel), html)


def _shown(fleet: Fleet, html: Optional[str]) -> Fleet:
    if html:
        from ..report.html import fleet as page
        from ..report.output import write_text

        write_text("".join(page(fleet)), html)
    return fleet
