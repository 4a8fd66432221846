# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Judging pages
-------------

Brings together what :mod:`drgn_slabtype.rules.pages` judges: free memory, typed
pages, and the kernel's own count of slab pages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, List, Sequence

import numpy as np
from drgn import FaultError
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.nodemask import for_each_online_node

from .errors import LayoutError
from .findings import Finding
from .index import KnownBy, SlabIndex
from .machine import Machine
from .pages.freememory import FreeMemory, free_memory
from .pages.vmstat import SlabPages, slab_page_counts
from .rules.pagefindings import PageNames
from .rules.pages import judge_pages, judge_vmstat


def judge_memory(
    machine: Machine, index: SlabIndex, unreadable: int, found: Sequence[Finding]
) -> List[Finding]:
    """
    Return what is wrong with free memory, typed pages and their counts.

    Not for a target that moves: free memory changes faster than it can be read
    twice.

    :param unreadable: Struct pages that are not in the target.
    :param found: What is known already about the machine; numbering goes on
        after it, and what it explains is bound to it.
    """
    start = max((one.id for one in found), default=0)
    if unreadable:
        return [_not_judged(f"{unreadable} struct pages are not in the target", start + 1)]
    if machine.memory_map.damage:
        # The kinds of page blocks hang on the sections.
        return [_not_judged("mem_section is damaged or not in the target", start + 1)]
    told = {page: one.id for one in found for page in (one.page, one.slab) if page is not None}
    try:
        free = free_memory(machine)
    except FaultError as e:
        return [_not_judged(str(e), start + 1, "unreadable")]
    except (AttributeError, LookupError) as e:
        return [_not_judged(f"{type(e).__name__}: {e}", start + 1)]
    encoding = machine.layout.encoding
    # A slab that lost its mark is the business of its cache.
    lost = ~index.marked | encoding.conflict(index.words)
    known = {int(page) for page in index.pages[lost]}
    names = PageNames(index.vmemmap, index.page_bytes)
    judged = judge_pages(free, encoding, names, told, known, start)
    try:
        nodes = list(_slab_pages(machine, index, free))
    except (AttributeError, FaultError, LayoutError, LookupError):
        return judged
    start += len(judged)
    return judged + [replace(one, id=start + n) for n, one in enumerate(judge_vmstat(nodes), 1)]


def _not_judged(why: str, id: int, code: str = "not-judged") -> Finding:
    return Finding(code, f"free memory was not judged: {why}", id=id)


def _slab_pages(machine: Machine, index: SlabIndex, free: FreeMemory) -> Iterator[SlabPages]:
    counts = slab_page_counts(machine)
    cpus = sum(1 for _ in for_each_possible_cpu(machine.prog))
    counted = index.marked & ((index.known_by & np.uint8(KnownBy.KFENCE)) == 0)
    pages = (index.spans >> np.uint64(machine.prog["PAGE_SHIFT"].value_())).astype(np.int64)
    typed = "large_kmalloc" in machine.layout.encoding.types
    for nid, count in zip(for_each_online_node(machine.prog), counts):
        here = pages[counted & (index.nids == nid)]
        large, largest = free.large.get(nid, (0, 0))
        # Each CPU can have stopped in one allocation.
        most = max(largest, int(here.max()) if len(here) else 1)
        yield SlabPages(nid, count, int(here.sum()), large if typed else None, cpus * most)
