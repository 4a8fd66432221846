# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Free pages of CPUs
------------------

Each CPU keeps some free pages of each zone for itself, on lists by order and
migrate type. Nothing in their struct pages says so; only the lists tell.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Dict, Iterator, List, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError, Object, Program
from drgn.helpers.linux.cpumask import for_each_possible_cpu
from drgn.helpers.linux.mmzone import NODE_DATA
from drgn.helpers.linux.nodemask import for_each_online_node
from drgn.helpers.linux.percpu import per_cpu_ptr

from ..memory import U64, memory
from ..pagetype.sources import enumerators
from .scan import page_fields

I64 = npt.NDArray[np.int64]

_COSTLY_ORDER = 3  # lists of larger blocks are for huge pages only


def pages_on_lists(prog: Program, pfns: U64, links: U64) -> Dict[int, I64]:
    """
    Return which of some pages stand on a list of a CPU.

    :param pfns: Pages that may, by page frame number.
    :param links: The ``lru.next`` of each.
    :return: For each order the first page frame numbers of the blocks that do.
    """
    fields = page_fields(prog)
    first = np.uint64(prog["vmemmap"].value_() + fields.compound)
    size = np.uint64(fields.size)
    after = dict(zip(pfns.tolist(), ((links - first) // size).tolist()))
    found: Dict[int, List[int]] = defaultdict(list)
    for link, order in _lists(prog):
        pfn = (link - int(first)) // fields.size
        # What has been visited is taken out, so that no list goes on for ever.
        while pfn in after:
            found[order].append(pfn)
            pfn = after.pop(pfn)
    return {order: np.array(blocks, np.int64) for order, blocks in found.items()}


def _lists(prog: Program) -> Iterator[Tuple[int, int]]:
    # The first link of each list, and the order of its blocks.
    types = enumerators(prog, "migratetype").get("MIGRATE_PCPTYPES", 3)
    word = memory(prog).word
    cpus = list(for_each_possible_cpu(prog))
    for pages in _per_cpu_pages(prog):
        for cpu in cpus:
            lists = per_cpu_ptr(pages, cpu).lists
            count = lists.type_.length or 0
            try:
                raw = prog.read(lists.address_ or 0, count * 2 * word.itemsize)
            except FaultError:
                continue
            for number, link in enumerate(np.frombuffer(raw, word)[::2].tolist()):
                yield link, _order(number, types, count)


def _order(number: int, types: int, count: int) -> int:
    # Since Linux kernel commit 44042b449872 ("mm/page_alloc: allow high-order
    # pages to be stored on the per-cpu lists") (in v5.14), lists are by order
    # and migrate type; the last ones hold huge pages.
    order = number // types
    if order <= _COSTLY_ORDER or count <= types:
        return order
    return 9


def _per_cpu_pages(prog: Program) -> Iterator[Object]:
    # struct per_cpu_pages __percpu * of each zone that has pages.
    for nid in for_each_online_node(prog):
        for zone in NODE_DATA(prog, nid).node_zones:
            if not zone.spanned_pages:
                continue
            # Since Linux kernel commit 28f836b6777b ("mm/page_alloc: split per
            # cpu page lists and zone stats") (in v5.14), it is a pointer to
            # the lists themselves.
            try:
                yield zone.per_cpu_pageset
            except AttributeError:
                yield zone.pageset.pcp.address_of_()
