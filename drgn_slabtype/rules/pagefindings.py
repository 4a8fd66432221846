# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found of pages, while they are judged."""

from __future__ import annotations

from typing import AbstractSet, Dict, List, Mapping, NamedTuple, Optional, Set

from ..codes import Measure
from ..findings import Finding
from ..pages.freememory import FreeMemory, Zone
from ..pagetype.encoding import Encoding

_UNDER_THE_LOCK = frozenset({"page-free-list", "page-free-buddies"})
"""What a block can show that is being put on a list or taken off it; what a page says of
its owner is gone before, and comes after."""
_ADDRESS = (1 << 64) - 1


class PageNames(NamedTuple):
    """What a rule needs to speak of pages."""

    vmemmap: int
    """``struct page *`` of page frame 0."""
    size: int
    """sizeof(struct page)."""

    def page(self, pfn: int) -> int:
        """Return the ``struct page *`` of a page frame, of 64 bits whatever a damaged link says."""
        return self.vmemmap + pfn * self.size & _ADDRESS


class PageFindings:
    """
    What was found of pages so far, each page accused once.

    :param told: Findings about pages that are known already: their id by
        ``struct page *``.
    :param known: Pages (``struct page *``) that are accused elsewhere.
    :param last_id: Numbers up to this one are taken.
    """

    def __init__(
        self,
        free: FreeMemory,
        encoding: Encoding,
        names: PageNames,
        told: Mapping[int, int],
        known: AbstractSet[int],
        last_id: int,
    ) -> None:
        self.free = free
        self.encoding = encoding
        self.names = names
        self.roots = dict(told)
        self.elsewhere = known
        self.next_id = last_id + 1
        self.found: List[Finding] = []
        self.doubted: Set[str] = set()
        """What of free pages is not understood, and so is not judged."""
        self.zones: Dict[int, int] = {}
        self.limits: Set[int] = set()
        """Positions of zones that do not lie where they say."""
        self.known = {pfn: row for row, pfn in enumerate(free.pfn.tolist())}

    def add(self, finding: Finding) -> None:
        """Keep a finding, unless its page is accused already."""
        if finding.page in self.elsewhere:
            return
        if finding.because is None and finding.page in self.roots:
            return
        if finding.page is not None:
            self.roots.setdefault(finding.page, finding.id)
        self.found.append(finding)
        self.next_id += 1

    def finding(
        self,
        code: str,
        pfn: int,
        what: str,
        zone: int = -1,
        because: Optional[int] = None,
        expected: Optional[str] = None,
        found: Optional[str] = None,
        measure: Optional[Measure] = None,
        member: Optional[str] = None,
    ) -> Finding:
        """
        Return a finding about a page, with the next number.

        :param zone: Position of its zone; -1 for none.
        :param member: That holds what is found; ``None`` if the code says which.
        """
        page = self.names.page(pfn)
        place: Optional[Zone] = self.free.zones[zone] if zone >= 0 else None
        if zone >= 0:
            self.zones.setdefault(zone, because or self.next_id)
        return Finding(
            code,
            f"page 0x{page:x} (PFN {pfn:#x}) {what}",
            node=None if place is None else place.node,
            page=page,
            place=None if place is None else f"zone {place.name}",
            expected=expected,
            found=found,
            because=because,
            # With the lock held, a CPU was stopped while it changed the lists.
            moving=code in _UNDER_THE_LOCK and self.locked(zone),
            id=self.next_id,
            measure=measure,
            member=member,
        )

    def locked(self, zone: int) -> bool:
        """Return whether a CPU held the lock of a zone, given by its position; -1 for none."""
        return zone >= 0 and self.free.zones[zone].locked

    def because(self, pfn: int) -> Optional[int]:
        """Return the finding that a page is accused by, if it is."""
        return self.roots.get(self.names.page(pfn))
