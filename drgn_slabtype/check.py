# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The check
---------

:func:`check` reads a whole kernel, judges it cache by cache and returns a
:class:`~drgn_slabtype.findings.Report`. It never stops at the first damage.
"""

from __future__ import annotations

from itertools import chain
from typing import Optional, Sequence

from drgn import IntegerLike, Object, Program
from drgn.helpers.common.format import escape_ascii_string

from .answers.what import word_of
from .blanks import blank_pages
from .confirm import Evidence
from .course import Course
from .errors import CorruptionError
from .files.hidden import zeroes_hidden
from .findings import Report
from .machine import is_dump, machine
from .pages.scan import Progress


def check(
    prog: Program,
    *,
    caches: Sequence[str] = (),
    addresses: Sequence[IntegerLike] = (),
    progress: Optional[Progress] = None,
    evidence: Optional[Evidence] = None,
) -> Report:
    """
    Check the slab allocator of a kernel.

    :param caches: Names of the caches to judge; all if empty.
    :param addresses: Addresses of slabs (``struct slab *``) or objects: only
        these slabs are judged, with the places of their caches that could hold
        their objects. Where anything speaks against one, it is judged with its
        whole cache.
    :param progress: Called as work goes on.
    :param evidence: What earlier checks of the same running kernel have seen, to
        which this one adds: a statement that they could not decide goes on.
    :raises LayoutError: if the kernel's layout is not understood.
    :raises TargetError: if a cache or address is not known.
    :raises UnsupportedError: if the kernel is a 32-bit one.
    :raises ValueError: if an address has more than 64 bits.
    :raises FaultError: if what all else hangs on is not in the target.

    Ctrl-C, and a target that goes away, end it with what there is so far: see
    :attr:`~drgn_slabtype.findings.Report.interrupted`.
    """
    kernel = machine(prog)
    course = Course(kernel)
    slabs = [word_of(address) for address in addresses]
    report = course.finish(caches, slabs, progress, evidence)
    whole = course.whole
    if whole is None or not _says(report) or report.interrupted or not is_dump(kernel):
        return report
    # What is said may rest on pages that the dumper left as zeroes.
    blank = blank_pages(whole, [*report.findings, *report.changing])
    if not blank:
        return report
    with zeroes_hidden(prog, chain.from_iterable(blank)):
        kernel.forget()
        report = Course(kernel).finish(caches, slabs, progress, evidence)
    kernel.forget()
    report.totals.zero_filled_pages += len(blank)
    return report


def _says(report: Report) -> bool:
    # Something that is damage, work in progress, or so much that it is not understood.
    codes = {finding.code for finding in report.unavailable}
    return bool(report.findings or report.changing) or "not-understood" in codes


def validate_slab_cache(slab_cache: Object) -> None:
    """
    Check one slab cache, and complain about the first damage.

    :param slab_cache: ``struct kmem_cache *``
    :raises CorruptionError: if anything in it is inconsistent.
    :raises TargetError: if there is no such cache.
    """
    name = escape_ascii_string(slab_cache.name.string_(), escape_backslash=True)
    for finding in check(slab_cache.prog_, caches=[name]).findings:
        raise CorruptionError(finding)
