# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One reading of the machine
--------------------------

Everything that is read once for all caches; the rest is read cache by cache.
"""

from __future__ import annotations

from typing import List, Optional, Tuple

import numpy as np
from drgn import Program

from .allocators import open_allocator
from .findings import Finding
from .index import KnownBy, SlabIndex
from .ledger import Ledger
from .pages.scan import PageScan, Progress, scan
from .pagetype.detect import PageTypeLayout, page_type_layout
from .rules import judge


class Snapshot:
    """
    One reading of the machine: memory map, slab index, lists and CPUs.

    :param prog: A Linux kernel program.
    """

    def __init__(self, prog: Program, progress: Optional[Progress] = None) -> None:
        self.layout: PageTypeLayout = page_type_layout(prog)
        self.scan: PageScan = scan(prog, progress)
        self.index = SlabIndex(prog, self.scan.heads)
        self.allocator = open_allocator(prog)
        self.allocator.discover(self.index)

    def judge(self, number: int) -> Tuple[Ledger, List[Finding]]:
        """
        Read and judge one cache.

        :param number: Position in ``self.allocator.caches``.
        """
        ledger = self.allocator.collect(number, self.index)
        return ledger, judge(ledger, self.layout.encoding)

    def judge_strays(self) -> List[Finding]:
        """Return the pages marked as slab that belong to no cache."""
        index = self.index
        owner = self.allocator.ownership.cache
        stray = (owner < 0) & ((index.known_by & np.uint8(KnownBy.KFENCE)) == 0)
        pages, words, pointers = index.pages, index.words, index["slab_cache"]
        found = [
            Finding(
                "slab-mark-stray",
                f"page 0x{pages[row]:x} is marked as slab, but its cache pointer "
                f"0x{pointers[row]:x} leads to no slab cache",
                node=int(index.nids[row]),
                slab=int(pages[row]),
                found=f"0x{words[row]:08x}",
                id=number,
            )
            for number, row in enumerate(np.flatnonzero(stray).tolist(), 1)
        ]
        known = {finding.slab for finding in found} | set(pages.tolist())
        for pfn, word in self.scan.conflicts:
            page = int(memory_map_address(index, pfn))
            if page not in known:
                found.append(
                    Finding(
                        "type-conflict",
                        f"page 0x{page:x} (PFN {pfn}): page_type word 0x{word:08x}: "
                        f"{self.layout.encoding.explain(word)}",
                        page=page,
                        found=f"0x{word:08x}",
                        id=len(found) + 1,
                    )
                )
        return found


def memory_map_address(index: SlabIndex, pfn: int) -> int:
    """Return the ``struct page *`` of a page frame."""
    return index.vmemmap + pfn * index.page_bytes
