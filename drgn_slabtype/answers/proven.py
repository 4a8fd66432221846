# SPDX-License-Identifier: LGPL-2.1-or-later
"""
What is proven
--------------

Of what rules say of caches and of the machine: what is left when work in progress
has met its witnesses and what is not understood is told as that; and the caches
that are damaged.
"""

from __future__ import annotations

from itertools import chain
from typing import List, NamedTuple, Sequence, Set, Tuple

import numpy as np

from ..blanks import blank_pages
from ..codes import CATALOGUE
from ..files.hidden import zeroes_hidden
from ..findings import CacheResult, Finding
from ..ledger import Ledger
from ..machine import Machine, is_dump
from ..machine.witness import witnesses
from ..reading import Reading
from ..rules.blame import join, renumber
from ..rules.doubt import doubt
from ..rules.excuses import settle
from ..strays import judge_machine, judge_pages_of
from .counts import count_objects

_JUDGED = ("findings", "changing")  # lists of a report with what may be damage


class Told(NamedTuple):
    """What rules say of one cache."""

    result: CacheResult
    findings: List[Finding]


def proven(
    kernel: Machine, groups: Sequence[List[Finding]], results: Sequence[CacheResult], whole: bool
) -> List[Finding]:
    """
    Return what is wrong, with what follows from it.

    :param groups: What is said of each cache, and of the machine.
    :param results: Of the caches.
    :param whole: Whether these are all.
    """
    return doubt(witnessed(kernel, groups), results, whole=whole)


def witnessed(kernel: Machine, groups: Sequence[List[Finding]]) -> List[Finding]:
    """Return what is said, each excuse with its witness or turned down."""
    found = renumber(join(groups))
    return settle(found, kernel.layout.allocator, lambda work: witnesses(kernel).of(work))


def shelf(finding: Finding) -> str:
    """Return the name of the list of a report that a finding stands in."""
    rule = CATALOGUE[finding.code].rule
    # What is missing does not come back by waiting.
    if finding.moving and rule != "unavailable":
        return "changing"
    shelves = {"note": "notes", "unavailable": "unavailable"}
    return shelves.get(rule, "findings")


class Verdict(NamedTuple):
    """Caches by what is proven of them, each as ``struct kmem_cache *``."""

    damaged: Set[int]
    """Findings name them, or are about what is theirs."""
    undecided: Set[int]
    """Work in progress, or what is missing, explains what contradicts itself in them."""


def judge_caches(reading: Reading, told: Sequence[Told], whole: bool) -> Verdict:
    """
    Return which caches are damaged, and which may be.

    :param reading: Of the whole of a machine that does not move.
    :param told: What :meth:`Reading.judge` says of each cache that is asked about.
    :param whole: Whether these are all: then what is wrong with the machine counts, too.
    """
    kernel = reading.machine
    found = _found(reading, told, whole)
    if is_dump(kernel) and _is_said(found):
        # It may rest on pages that the dumper left as zeroes.
        blank = blank_pages(reading, [one for one in found if shelf(one) in _JUDGED])
        if blank:
            wanted = {one.result.address for one in told}
            with zeroes_hidden(kernel.prog, chain.from_iterable(blank)):
                kernel.forget()
                reading = Reading(kernel)
                again = enumerate(reading.allocator.caches.addresses.tolist())
                some = [tell(reading, at)[1] for at, one in again if whole or one in wanted]
                found = _found(reading, some, whole)
            kernel.forget()
    damaged = _theirs(reading, [one for one in found if shelf(one) == "findings"])
    open_ = _theirs(reading, [one for one in found if shelf(one) in ("changing", "unavailable")])
    return Verdict(damaged, open_ - damaged)


def tell(reading: Reading, number: int) -> Tuple[Ledger, Told]:
    """
    Return the ledger of a cache, and what rules say of it.

    :param number: Position in ``reading.allocator.caches``.
    """
    ledger, findings = reading.judge(number)
    return ledger, Told(count_objects(ledger), findings)


def _found(reading: Reading, told: Sequence[Told], whole: bool) -> List[Finding]:
    groups = [one.findings for one in told]
    if whole:
        groups = [list(reading.machine.damage), *groups, judge_machine(reading)]
    else:
        addresses = reading.allocator.caches.addresses.tolist()
        wanted = {one.result.address for one in told}
        numbers = [at for at, address in enumerate(addresses) if address in wanted]
        groups = [*groups, judge_pages_of(reading, numbers)]
    groups = [group for group in groups if group]
    return proven(reading.machine, groups, [one.result for one in told], whole)


def _is_said(found: Sequence[Finding]) -> bool:
    return any(shelf(one) in _JUDGED or one.code == "not-understood" for one in found)


def _theirs(reading: Reading, findings: Sequence[Finding]) -> Set[int]:
    caches = reading.allocator.caches
    starts, size = caches.addresses, np.uint64(reading.machine.structure("struct kmem_cache").size)
    owner = reading.allocator.ownership.cache
    named = {finding.cache for finding in findings}
    wrong = np.array([name in named for name in caches.names], np.bool_)
    for finding in findings:
        for page in (finding.slab, finding.page):
            if page is not None:
                row = int(reading.index.rows_of_pages(np.array([page], np.uint64))[0])
                if row >= 0 and owner[row] >= 0:
                    wrong[owner[row]] = True
        if finding.address is not None:
            wrong |= np.uint64(finding.address) - starts < size
    return set(starts[wrong].tolist())
