# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One reading of the machine
--------------------------

Everything that is read once for all caches; the rest is read cache by cache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import List, Optional, Tuple

import numpy as np
import numpy.typing as npt
from drgn import FaultError

from .allocators import open_allocator
from .findings import Finding
from .index import KnownBy, SlabIndex
from .ledger import Facts, Ledger, Slabs
from .machine import Machine
from .machine.memory import Bools
from .pagecheck import judge_memory
from .pages.scan import PageScan, Progress, scan
from .pagetype.detect import PageTypeLayout
from .rules import judge

# What memory that is not in the target can make look wrong.
_EXPLAINED_BY_HOLES = frozenset(
    {
        "claim-foreign",
        "container-state",
        "list-missing",
        "node-free-objects",
        "node-list-length",
        "node-objects",
        "node-slabs",
        "slab-in-transit",
    }
)


class Snapshot:
    """
    One reading of the machine: memory map, slab index, lists and CPUs.

    """

    def __init__(self, machine: Machine, progress: Optional[Progress] = None) -> None:
        self._machine = machine
        self.layout: PageTypeLayout = machine.layout
        self.scan: PageScan = scan(machine, progress)
        self.index = SlabIndex(machine, self.scan.heads)
        told = np.unique(self.index["slab_cache"]).tolist()
        self.allocator = open_allocator(machine, told)
        self.allocator.discover(self.index)

    def judge(self, number: int) -> Tuple[Ledger, List[Finding]]:
        """
        Read and judge one cache.

        :param number: Position in ``self.allocator.caches``.
        """
        caches = self.allocator.caches
        if not caches.rows.ok[number]:
            name, address = caches.names[number], int(caches.addresses[number])
            lost = Finding(
                "unreadable",
                f"{name}: struct kmem_cache at 0x{address:x} is not in the target",
                name,
            )
            return Ledger(Facts(name, address, 0, 1, 0), (), Slabs.empty()), [lost]
        ledger = self.allocator.collect(number, self.index)
        findings = judge(ledger, self.layout.encoding)
        lost_parts = self.allocator.unreadable(number)
        if lost_parts or self.scan.unreadable:
            findings = [self._doubt(finding) for finding in findings]
        name = caches.names[number]
        return ledger, findings + [
            Finding("unreadable", f"{name}: {part} is not in the target", name, id=-1 - at)
            for at, part in enumerate(lost_parts)
        ]

    def _doubt(self, finding: Finding) -> Finding:
        # A slab whose struct page, or a list whose head, is not in the target
        # is missing in every sum and on every list.
        if finding.code in _EXPLAINED_BY_HOLES:
            return replace(finding, code="not-judged")
        if finding.code in ("list-links", "list-broken") and isinstance(finding.found, int):
            try:
                self._machine.prog.read(finding.found, 1)
            except FaultError:
                return replace(finding, code="unreadable")
        return finding

    def judge_machine(self) -> List[Finding]:
        """
        Return what is wrong with the machine rather than with one cache.

        That is damage to the list of caches, pages marked as slab that belong
        to no cache, and words that no page can have.
        """
        found = self._judge_cache_list()
        index = self.index
        owner = self.allocator.ownership.cache
        stray = (owner < 0) & ((index.known_by & np.uint8(KnownBy.KFENCE)) == 0)
        pages, words, pointers = index.pages, index.words, index["slab_cache"]
        making = self._being_made(stray)
        rows = np.flatnonzero(stray)
        source = self._machine.memory
        there = source.gather(pointers[rows], 1).ok
        # A tail holds the way to its head where a slab has its cache.
        there |= ~source.is_kernel_address(pointers[rows]) | (pointers[rows] % 8 != 0)
        for row, in_target in zip(rows.tolist(), there.tolist()):
            what = "leads to no slab cache" if in_target else "is not in the target"
            found.append(
                Finding(
                    "slab-mark-stray" if in_target else "unreadable",
                    f"page 0x{pages[row]:x} is marked as slab, but its cache pointer "
                    f"0x{pointers[row]:x} {what}",
                    node=int(index.nids[row]),
                    slab=int(pages[row]),
                    found=f"0x{words[row]:08x}",
                    moving=bool(making[row]),
                    id=len(found) + 1,
                )
            )
        found += [
            Finding(
                suspect.code,
                suspect.message,
                cpu=suspect.cpu,
                place=suspect.place,
                found=suspect.found,
                moving=suspect.moving,
                address=suspect.address,
                activity=suspect.activity,
                id=len(found) + number,
            )
            for number, suspect in enumerate(self.allocator.elsewhere(), 1)
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
        if self.scan.unreadable:
            found.append(
                Finding(
                    "unreadable",
                    f"{self.scan.unreadable} of {self.scan.pages} struct pages are not in the "
                    "target; what slabs they head is not known",
                    expected=self.scan.pages,
                    found=self.scan.pages - self.scan.unreadable,
                    id=len(found) + 1,
                )
            )
        if not self._machine.memory.is_live:
            found += judge_memory(self._machine, self.index, self.scan.unreadable, found)
        return found

    def _being_made(self, stray: Bools) -> Bools:
        # A page gets its mark a moment before its cache pointer. Then it has
        # the users and the type of any other slab, no flag but that of a compound
        # page (PAGE_FLAGS_CHECK_AT_PREP), no object of it is in use, and where
        # the pointer will be is what the page allocator left there:
        # NULL for a mapping; in the links of a list poison, or in newer
        # kernels NULL, which says that the page is none of the reserves.
        index, fields = self.index, self._machine.page
        source, owned = self._machine.memory, self.allocator.ownership.cache >= 0
        cut = np.ascontiguousarray(index.raw[:, fields.refcount : fields.refcount + 4])
        users = cut.view(f"{source.byteorder}u4")[:, 0]
        pointers = index["slab_cache"]
        links = self._machine.structure("struct page").offset("mapping")
        if index.structure.offset("slab_cache") == links:
            fresh = stray & (pointers == 0)
        else:
            fresh = stray & ~source.is_kernel_address(pointers)
        fresh &= (users == _most_common(users[owned])) & (pointers % 8 == 0)
        fresh &= (index.flags & np.uint64(self._flags_of_users())) == 0
        # Before Linux 5.17, struct page has the members of both allocators.
        if self.layout.allocator == "SLUB":
            fresh &= (index["inuse"] == 0) & (index.words == _most_common(index.words[owned]))
        enough = np.count_nonzero(fresh) > len(self._machine.cpus)
        return np.zeros_like(fresh) if enough else fresh

    def _flags_of_users(self) -> int:
        # Those that a page of the page allocator's does not have.
        flags = self._machine.enumerators("pageflags")
        every = (1 << flags.get("__NR_PAGEFLAGS", 0)) - 1
        own = 1 << self.layout.head_flag
        if self.layout.slab_flag is not None:
            own |= 1 << self.layout.slab_flag
        return every & ~own

    def _judge_cache_list(self) -> List[Finding]:
        caches = self.allocator.caches
        found: List[Finding] = []
        if caches.lost is not None:
            at, member, expected, link, readable = caches.lost
            found.append(
                Finding(
                    "cache-list" if readable else "unreadable",
                    f"slab_caches: {member} of 0x{at:x} leads to 0x{link:x}",
                    place="slab_caches",
                    expected=expected,
                    found=link,
                    id=1,
                )
            )
        root = found[0].id if found else None
        # Behind a hole in the target the list may go on as it should.
        behind_hole = caches.lost is not None and not caches.lost.readable
        for number in np.flatnonzero(caches.unlisted & (not behind_hole)).tolist():
            name = caches.names[number]
            found.append(
                Finding(
                    "cache-list",
                    f"{name}: has slabs, but is not on slab_caches",
                    cache=name,
                    place="slab_caches",
                    found=int(caches.addresses[number]),
                    because=root,
                    id=len(found) + 1,
                )
            )
        return found


def _most_common(numbers: npt.NDArray[np.uint32]) -> int:
    values, times = np.unique(numbers, return_counts=True)
    return int(values[np.argmax(times)]) if len(values) else -1


def memory_map_address(index: SlabIndex, pfn: int) -> int:
    """Return the ``struct page *`` of a page frame."""
    return index.vmemmap + pfn * index.page_bytes
