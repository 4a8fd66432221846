# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Root and consequence
--------------------

One damaged word shows in many places. Of the findings on one slab the most
elementary is the root; counters of a node that are off because of a damaged
slab of that node follow from it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, List, Optional

from ..findings import Finding

# From what explains most to what explains least. A word that is no slab's
# makes everything else about the slab doubtful; a wrong list follows from a
# wrong count, and not the other way round.
_ORDER = (
    "active-overflow",
    "active-underflow",
    "type-conflict",
    "slab-mark-lost",
    "slab-cache-wrong",
    "slab-order-wrong",
    "slab-objects-wrong",
    "slab-base-wrong",
    "freelist-array",
    "freelist-index",
    "freelist-pointer",
    "freelist-cycle",
    "freelist-duplicate",
    "count-range",
    "claim-foreign",
    "claim-live",
    "claim-twice",
    "claim-node",
    "count-mismatch",
    "list-links",
    "list-broken",
    "list-twice",
    "slab-node-wrong",
    "list-wrong",
    "list-missing",
    "slab-frozen",
    "slab-in-transit",
    "container-limit",
    "container-count",
    "container-state",
    "redzone",
    "poison",
    "padding",
    "track",
    "unreadable",
    "node-list-length",
    "node-slabs",
    "node-objects",
    "node-free-objects",
)
_RANK = {code: rank for rank, code in enumerate(_ORDER)}


def settle(findings: Iterable[Finding]) -> List[Finding]:
    """
    Return the findings of one cache, numbered, each bound to its root.

    A finding whose :attr:`~drgn_slabtype.findings.Finding.because` is ``None``
    is a root.
    """
    ranked = sorted(findings, key=lambda finding: _RANK.get(finding.code, len(_ORDER)))
    by_slab: Dict[int, int] = {}
    by_node: Dict[Optional[int], int] = {}
    by_object: Dict[Optional[int], int] = {}
    settled: List[Finding] = []
    for number, finding in enumerate(ranked, 1):
        if finding.rule == "content":
            because = by_object.get(finding.object)
        else:
            because = _cause(finding, by_slab, by_node)
        settled.append(replace(finding, id=number, because=because))
        if because is None and not finding.moving:
            if finding.object is not None:
                by_object.setdefault(finding.object, number)
            # Overwritten contents explain nothing about the slab's bookkeeping.
            if finding.rule != "content":
                if finding.slab is not None:
                    by_slab.setdefault(finding.slab, number)
                by_node.setdefault(finding.node, number)
    return settled


def _cause(
    finding: Finding, by_slab: Dict[int, int], by_node: Dict[Optional[int], int]
) -> Optional[int]:
    if finding.slab is not None:
        return by_slab.get(finding.slab)
    if finding.rule == "count":
        return by_node.get(finding.node)
    return None


def renumber(groups: Iterable[List[Finding]]) -> List[Finding]:
    """Return the findings of many caches in one numbering, roots before consequences."""
    merged: List[Finding] = []
    for group in groups:
        shift = len(merged)
        merged += [
            replace(
                finding,
                id=finding.id + shift,
                because=None if finding.because is None else finding.because + shift,
            )
            for finding in group
        ]
    ordered = sorted(merged, key=lambda finding: finding.because is not None)
    place = {f.id: i for i, f in enumerate(ordered, 1)}
    return [
        replace(f, id=i, because=None if f.because is None else place[f.because])
        for i, f in enumerate(ordered, 1)
    ]
