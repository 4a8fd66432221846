# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The check
---------

:func:`check` reads a whole kernel, judges it cache by cache and returns a
:class:`~drgn_slabtype.findings.Report`. It never stops at the first damage.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain
from typing import Optional, Sequence, Union

from drgn import IntegerLike, Program

from .arguments import CacheLike, addresses_of, at_least, cache_of, program_for, several
from .blanks import blank_pages
from .confirm import Evidence
from .course import Course
from .errors import CorruptionError
from .files.hidden import zeroes_hidden
from .findings import Report
from .machine import is_dump, machine
from .pages.scan import Progress

_LOOKS = 4  # for pages of zeroes: behind some there are others


def check(
    prog: Program,
    *,
    caches: Union[CacheLike, Sequence[CacheLike]] = (),
    addresses: Union[IntegerLike, Sequence[IntegerLike]] = (),
    progress: Optional[Progress] = None,
    evidence: Optional[Evidence] = None,
    jobs: Optional[int] = 1,
) -> Report:
    """
    Check the slab allocator of a kernel.

    >>> report = check(prog, caches=["dentry", "kmalloc-*"])
    >>> report.outcome.value
    'consistent'
    >>> [finding.message for finding in report.findings]
    []

    :param caches: The caches to judge, by name, pattern (``kmalloc-*``) or ``struct
        kmem_cache *``; all if empty.
    :param addresses: Addresses of slabs (``struct slab *``) or objects: only
        these slabs are judged, with the places of their caches that could hold
        their objects. Where anything speaks against one, it is judged with its
        whole cache.
    :param progress: Called as work goes on.
    :param evidence: What earlier checks of the same running kernel have seen, to
        which this one adds: a statement that they could not decide goes on.
    :param jobs: How many processes judge caches, forked from this one; with 1, this one
        does, and of a target that moves. ``None``: one a processor, if there are so many
        slabs that it is worth while. The report is the same, but for what it cost.
    :raises LayoutError: if the kernel's layout is not understood.
    :raises ArgumentError: if there is no such cache, or an address is in no slab.
    :raises UnsupportedError: if the kernel is a 32-bit one.
    :raises FaultError: if what all else hangs on is not in the target.

    Ctrl-C, and a target that goes away, end it with what there is so far: see
    :attr:`Report.interrupted`.
    """
    kernel = machine(prog)
    if jobs is not None:
        at_least("jobs", jobs, 1)
    course = Course(kernel, jobs)
    slabs = addresses_of(addresses)
    wanted = [cache_of(cache) for cache in several(caches)]
    report = course.finish(wanted, slabs, progress, evidence)
    # What is said may rest on pages that the dumper left as zeroes, some behind others.
    zeroes = 0
    with ExitStack() as hidden:
        for _ in range(_LOOKS):
            whole = course.whole
            if whole is None or not _says(report) or report.interrupted or not is_dump(kernel):
                break
            blank = blank_pages(whole, [*report.findings, *report.changing])
            if not blank:
                break
            zeroes += len(blank)
            hidden.enter_context(zeroes_hidden(prog, chain.from_iterable(blank)))
            kernel.forget()
            course = Course(kernel, jobs)
            report = course.finish(wanted, slabs, progress, evidence)
    if zeroes:
        kernel.forget()
        report.totals.zero_filled_pages += zeroes
    return report


def _says(report: Report) -> bool:
    # Something that is damage, work in progress, or so much that it is not understood.
    codes = {finding.code for finding in report.unavailable}
    return bool(report.findings or report.changing) or "not-understood" in codes


def validate_slab_cache(slab_cache: CacheLike, *, prog: Optional[Program] = None) -> None:
    """
    Check one slab cache, and complain about the first damage.

    >>> validate_slab_cache(find_slab_cache("dentry"))

    :param slab_cache: ``struct kmem_cache *``, or the name or address of one.
    :param prog: Needed for a name or an address, unless drgn has a default program.
    :raises CorruptionError: if anything in it is inconsistent.
    :raises ArgumentError: if there is no such cache.
    """
    for finding in check(program_for(slab_cache, prog), caches=[slab_cache]).findings:
        raise CorruptionError(finding)
