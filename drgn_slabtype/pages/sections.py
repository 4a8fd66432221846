# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Sections of memory
------------------

Physical memory comes in sections (SPARSEMEM), each of which can be taken
offline. The struct pages of an offline section exist and mean nothing.
"""

from __future__ import annotations

from typing import List, Tuple

import numpy as np
from drgn import Program, TypeKind

from ..columns import read_rows, structure
from ..memory import U64, Bools, memory
from .scan import page_ranges


def pages_per_section(prog: Program) -> int:
    """Return how many pages a section has; 1 without SPARSEMEM."""
    try:
        return 1 << (int(prog["SECTION_SIZE_BITS"]) - memory(prog).page_shift)
    except LookupError:
        return 1


def online_ranges(prog: Program) -> List[Tuple[int, int]]:
    """
    Return the ranges [start, end) of page frame numbers whose pages are online.

    These are the pages that ``pfn_to_online_page()`` finds, but for device
    memory that shares a section with ordinary memory.
    """
    ranges = page_ranges(prog)
    per_section = pages_per_section(prog)
    if per_section == 1 or not ranges:
        return ranges
    first = np.concatenate(
        [np.arange(start // per_section, -(-end // per_section)) for start, end in ranges]
    )
    sections = np.unique(first)
    online = dict(zip(sections.tolist(), _online(prog, sections.astype(np.uint64)).tolist()))
    pieces: List[Tuple[int, int]] = []
    for start, end in ranges:
        for number in range(start // per_section, -(-end // per_section)):
            low, high = max(start, number * per_section), min(end, (number + 1) * per_section)
            if not online[number]:
                continue
            if pieces and pieces[-1][1] == low:
                pieces[-1] = (pieces[-1][0], high)
            else:
                pieces.append((low, high))
    return pieces


def _online(prog: Program, sections: U64) -> Bools:
    rows = read_rows(prog, "struct mem_section", section_addresses(prog, sections))
    try:
        bit = int(prog["SECTION_IS_ONLINE_BIT"])
    except LookupError:
        bit = 2  # a macro before "mm/sparse: introduce enum" (in v5.12)
    return (rows["section_mem_map"] >> np.uint64(bit)) & np.uint64(1) != 0


def section_addresses(prog: Program, sections: U64) -> U64:
    """Return the ``struct mem_section *`` of each section number, bad ones for missing roots."""
    source, size = memory(prog), np.uint64(structure(prog, "struct mem_section").size)
    table = prog["mem_section"]
    per_root = np.uint64(prog["SECTIONS_PER_ROOT"].value_())
    root, index = sections // per_root, sections % per_root
    if table.type_.unaliased_kind() == TypeKind.ARRAY:
        # Without SPARSEMEM_EXTREME the sections are the variable itself.
        assert table.address_ is not None
        return np.uint64(table.address_) + sections * size
    slots = np.uint64(table.value_()) + root * np.uint64(source.word_size)
    roots = source.gather(slots, source.word_size).bytes.view(source.word)[:, 0]
    return roots.astype(np.uint64) + index * size
