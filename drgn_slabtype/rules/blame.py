# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Root and consequence
--------------------

One damaged word shows in many places. Of the findings on one slab the most
elementary is the root; counters of a node that are off because of a damaged
slab of that node, or of its lists, follow from it, and so do the slabs that can
no longer be reached over a broken list.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

import numpy as np

from ..findings import Finding
from ..ledger import Ledger, ListKind
from ..shapes import Value

# From what explains most to what explains least. A word that is no slab's
# makes everything else about the slab doubtful; a wrong list follows from a
# wrong count, and not the other way round.
_ORDER = (
    "cache-destroyed",
    "cache-wrong",
    "lock-wrong",
    "lock-kept",
    "active-overflow",
    "active-underflow",
    "type-conflict",
    "slab-mark-lost",
    # Whose last reference is gone has been given back, with whatever that writes over.
    "page-refcount",
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
    "container-state",
    "container-limit",
    "container-count",
    "claim-foreign",
    "claim-live",
    "claim-twice",
    "count-mismatch",
    "list-links",
    "list-broken",
    "list-twice",
    "slab-node-wrong",
    "claim-node",
    "slab-frozen",
    "list-wrong",
    "list-missing",
    "slab-in-transit",
    "page-tail-head",
    "page-tail-word",
    "slab-flags-wrong",
    "page-zone-wrong",
    "slab-vector-wrong",
    "redzone",
    "poison",
    "padding",
    "track",
    "shadow",
    "unreadable",
    "node-list-length",
    "node-slabs",
    "node-objects",
    "node-free-objects",
)
_RANK = {code: rank for rank, code in enumerate(_ORDER)}
# What a slab shows whose page was given back, and then used for something else.
_REMADE = frozenset(
    {
        "slab-mark-lost",
        "page-refcount",
        "slab-order-wrong",
        "slab-objects-wrong",
        "slab-base-wrong",
    }
)
_PAGE_BYTES = 64  # sizeof(struct page), in which the links of a slab are
_OF_CPUS = ("cpu slab", "cpu partial")
"""Where slabs of CPUs stand; a cache that leads to none of them has lost both."""
_NODE_LISTS = int(ListKind.PARTIAL | ListKind.FULL | ListKind.FREE)


def settle(findings: Iterable[Finding], ledger: Ledger) -> List[Finding]:
    """
    Return the findings of one cache, numbered, each bound to its root.

    A finding whose :attr:`~drgn_slabtype.findings.Finding.because` is ``None``
    is a root.
    """
    ranked = sorted(findings, key=lambda finding: _RANK.get(finding.code, len(_ORDER)))
    roots = _Roots(ledger)
    settled: List[Finding] = []
    for number, finding in enumerate(ranked, 1):
        because = roots.cause(finding)
        # What follows from work in progress is work in progress, and nothing else is.
        moving = finding.moving if because is None else settled[because - 1].moving
        settled.append(replace(finding, id=number, because=because, moving=moving))
        if because is None:
            roots.add(finding, number)
    return settled


class _Roots:
    def __init__(self, ledger: Ledger) -> None:
        memberships = ledger.memberships
        on_node = memberships.take((memberships.kind & _NODE_LISTS) != 0)
        self._pages, self._owners = on_node.page, on_node.owner
        # A damaged cache, through which nothing of it can be seen as it is.
        self._cache: Optional[int] = None
        self._by_slab: Dict[int, int] = {}
        self._by_node: Dict[int, int] = {}
        # Work in progress: it explains no more than what can be in flight.
        self._moving: Dict[int, int] = {}
        self._in_flight = max(ledger.facts.in_flight, 1)
        self._objects = int(ledger.slabs.objects.max(initial=1))
        self._by_object: Dict[int, int] = {}
        # Broken lists, by node (None for those of a CPU) and kind.
        self._lists: Dict[Tuple[Optional[int], Optional[str]], int] = {}
        # Entries that are not what they were: each has left out one object, whose
        # bytes still are those of a free one; a damaged container any number.
        self._left_out: List[int] = []
        self._emptied: Optional[int] = None
        self._damaged: Optional[int] = None  # one that no work in progress has left so
        # Damaged containers, by their name with their owner.
        self._places: Dict[Value, int] = {}

    def cause(self, finding: Finding) -> Optional[int]:
        # That a lock is held follows from nothing but that somebody took it.
        if finding.code == "lock-kept":
            return None
        if self._cache is not None:
            return self._cache
        if finding.rule == "content":
            return self._of_object(finding)
        if finding.slab is not None:
            found = self._by_slab.get(finding.slab)
            of_cpus = finding.code == "list-twice" and _is_of_cpus(finding)
            if found is None and (of_cpus or finding.code in ("list-missing", "slab-in-transit")):
                kinds = str(finding.expected).split(" or ")
                keys = [(node, kind) for kind in kinds for node in (finding.node, None)]
                found = next((self._lists[key] for key in keys if key in self._lists), None)
            return self._from_container(finding) if found is None else found
        if finding.rule == "count" and finding.node is not None:
            found = self._by_node.get(finding.node)
            if found is None and self._can_be_in_flight(finding):
                found = self._moving.get(finding.node)
            return found
        return self._from_container(finding)

    def _of_object(self, finding: Finding) -> Optional[int]:
        if finding.object is None:
            return None
        found = self._by_object.get(finding.object)
        # Free by its bytes, and recorded nowhere.
        if found is None and finding.moving:
            found = self._left_out.pop(0) if self._left_out else self._emptied
        elif found is None and finding.turned:
            found = self._damaged
        if found is not None:
            self._by_object[finding.object] = found
        return found

    def _from_container(self, finding: Finding) -> Optional[int]:
        # What is recorded in a damaged container, alone or beside another place.
        if finding.rule != "claim":
            return None
        places = (finding.place, finding.expected)
        return next((self._places[place] for place in places if place in self._places), None)

    def _can_be_in_flight(self, finding: Finding) -> bool:
        if not isinstance(finding.expected, int) or not isinstance(finding.found, int):
            return False
        if finding.found < 0:
            # Nothing in flight counts below zero.
            return False
        each = 1 if finding.code in ("node-slabs", "node-list-length") else self._objects
        return abs(finding.expected - finding.found) <= each * self._in_flight

    def add(self, finding: Finding, number: int) -> None:
        if finding.code == "cache-wrong":
            self._cache = number
        if finding.object is not None:
            self._by_object.setdefault(finding.object, number)
        if finding.rule == "claim":
            self._left_out.append(number)
            # An array that counts more than it holds: what lies behind that is stale.
            if finding.code == "claim-foreign" and finding.found == 0 and finding.place:
                self._places.setdefault(finding.place, number)
        elif finding.rule == "container":
            self._emptied = self._emptied or number
            if not finding.moving:
                self._damaged = self._damaged or number
        # Overwritten contents explain nothing about the slab's bookkeeping, nor does a lock.
        if finding.rule == "content" or finding.code in ("lock-wrong", "lock-kept"):
            return
        if finding.slab is not None:
            self._by_slab.setdefault(finding.slab, number)
        if finding.rule == "container" and finding.slab is None and finding.place is not None:
            self._places.setdefault(finding.place, number)
            if finding.cpu is not None and finding.place in _OF_CPUS:
                self._places.setdefault(f"cpu freelist of CPU {finding.cpu}", number)
        if finding.code == "list-twice" and _is_of_cpus(finding):
            # Where two chains run together, the rest of one of them is on no list.
            for kind in str(finding.expected).split(" or "):
                self._lists.setdefault((None, kind), number)
        # A cache that has lost its per-CPU memory has lost it for all CPUs.
        of_cpus = finding.rule == "container" and finding.node is None and finding.slab is None
        of_cpus |= finding.rule == "container" and finding.cpu is not None
        if finding.code in ("list-links", "list-broken") or of_cpus:
            node = None if of_cpus else finding.node
            lost = of_cpus and finding.cpu is None
            for place in _OF_CPUS if lost else (finding.place,):
                self._lists.setdefault((node, place), number)
        for node in self._nodes(finding):
            (self._moving if finding.moving else self._by_node).setdefault(node, number)

    def _nodes(self, finding: Finding) -> Set[int]:
        # The node of the slab, and those whose lists it stands on: a slab on
        # a list of another node is missing in one sum and too many in the other.
        nodes = set() if finding.node is None else {finding.node}
        if finding.slab is not None:
            at = np.flatnonzero(self._pages == np.uint64(finding.slab))
            nodes.update(self._owners[at].tolist())
        return nodes


def _is_of_cpus(finding: Finding) -> bool:
    # Whether the slab belongs to a CPU; in whatever way, if only CPUs lead to it.
    kinds = str(finding.expected).split(" or ")
    if len(kinds) > 1:
        kinds += str(finding.place).split(" or ")
    return set(kinds) <= set(_OF_CPUS)


def join(groups: Iterable[List[Finding]]) -> List[List[Finding]]:
    """
    Return the findings with those of several caches on one slab in one group.

    A slab that two caches hold shows in both. Of the two roots the one that
    explains more stays, and the other one follows from it.
    """
    joined: List[List[Finding]] = []
    homes: Dict[int, int] = {}
    groups = list(groups)
    remade = sorted({page for group in groups for page in _remade(group)})
    for group in groups:
        roots = {f.slab for f in group if f.because is None and f.slab is not None}
        roots |= {page for f in group for page in [_leads_to(f, remade)] if page is not None}
        into = sorted({homes[slab] for slab in roots if slab in homes})
        if into:
            joined[into[0]] = _merge([*(joined[at] for at in into), group])
            for at in into[1:]:
                joined[at] = []
            homes = {slab: into[0] if at in into else at for slab, at in homes.items()}
        else:
            into = [len(joined)]
            joined.append(group)
        homes.update(dict.fromkeys(roots, into[0]))
    return [_follow_links(group) for group in joined if group]


def _follow_links(group: List[Finding]) -> List[Finding]:
    # What a list leads to that is no longer one of its slabs explains that it ends there.
    ids: Dict[int, int] = {}
    for finding in group:
        if finding.code in _REMADE and finding.slab is not None:
            ids.setdefault(finding.slab, finding.because or finding.id)
    follows, remade = {}, sorted(ids)
    for finding in group:
        leads_to = _leads_to(finding, remade)
        if leads_to is not None:
            follows[finding.id] = ids[leads_to]
    return (
        [
            replace(finding, because=follows.get(finding.id, follows.get(because, because or None)))
            for finding in group
            for because in (finding.because or 0,)
        ]
        if follows
        else group
    )


def _remade(group: Iterable[Finding]) -> Set[int]:
    # Slabs whose struct page somebody else has written to.
    return {f.slab for f in group if f.code in _REMADE and f.slab is not None}


def _leads_to(finding: Finding, slabs: Sequence[int]) -> Optional[int]:
    # The slab, of some in ascending order, that a list goes on with, in which the links are
    # no longer those of the list.
    if finding.because is not None or finding.code not in ("list-links", "list-broken"):
        return None
    at = finding.found if isinstance(finding.found, int) else 0
    row = bisect_right(slabs, at) - 1
    return slabs[row] if row >= 0 and at < slabs[row] + _PAGE_BYTES else None


def _merge(groups: List[List[Finding]]) -> List[Finding]:
    merged = renumber(groups)
    ranked = sorted(
        (f for f in merged if f.because is None), key=lambda f: _RANK.get(f.code, len(_ORDER))
    )
    first: Dict[Optional[int], int] = {}
    follows: Dict[Optional[int], int] = {}
    for finding in ranked:
        root = first.setdefault(finding.slab, finding.id)
        if finding.slab is not None and root != finding.id:
            follows[finding.id] = root
    return [
        replace(finding, because=follows.get(finding.id, follows.get(because, because)))
        for finding in merged
        for because in (finding.because,)
    ]


def renumber(groups: Iterable[List[Finding]]) -> List[Finding]:
    """Return the findings of many caches in one numbering, roots before consequences."""
    # Groups may have lost members: ids are told apart by their group alone.
    merged = [(number, finding) for number, group in enumerate(groups) for finding in group]
    merged.sort(key=lambda entry: entry[1].because is not None)
    ids = {(number, finding.id): i for i, (number, finding) in enumerate(merged, 1)}
    return [
        replace(
            finding,
            id=i,
            because=None if finding.because is None else ids[number, finding.because],
        )
        for i, (number, finding) in enumerate(merged, 1)
    ]


def undecided(found: Sequence[Finding]) -> List[Finding]:
    """
    Return the findings of a machine, less those that follow from what is not in the target.

    :param found: As :func:`renumber` returns them.
    """
    left = {one.id for one in found if one.code in ("not-judged", "unreadable")}
    told = []
    for one in found:
        if one.because in left and one.code not in ("not-judged", "unreadable"):
            one = one.told_as("not-judged")
            left.add(one.id)
        told.append(one)
    return told
