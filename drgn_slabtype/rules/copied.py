# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A copy of another
-----------------

A structure that was copied over another says what was right of the other: one cache has a
slab too many, one too few; lists, arrays and pointers that led to what was there lead to
what it is not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import replace
from operator import itemgetter
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..findings import Finding

_MANY = 4  # objects of one slab whose bytes are another cache's
_MOST_ENTRIES = 1 << 12  # of an array cache
_HEADER_BYTES = 16  # before its entries
_ENTRY_BYTES = 8
_COUNTS = {"node-slabs": "node-objects"}
"""How many slabs a node has, and what is wrong as well if one of them is another cache's."""
_OF_SLAB = frozenset({"list-missing", "page-tail-head", "slab-vector-wrong"})
_OF_CPUS = ("cpu slab", "cpu partial")
_LINKS = ("list-links", "list-broken")
LEADS = frozenset({"claim-foreign", "cache-wrong", "container-state", "slab-vector-wrong", *_LINKS})
"""What is said of who leads to what is no longer there."""

OF_CACHE = frozenset({"cache-wrong", "cache-list", "cache-destroyed"})
"""What all slabs of a cache can follow from, none of which was written to."""

Roots = Mapping[int, int]
"""The root of each finding."""


class Copy(NamedTuple):
    """A structure that is no longer what it was."""

    structures: Sequence[range]
    """Where it is, and where the one is that it was copied from, if that is known."""
    memory: range
    """Of the slab that it describes, if it is one."""
    caches: Sequence[str] = ()
    """Names of the caches that both are of, as far as they are known."""
    told: str = ""
    """What was copied; nothing, where it is not known what it is now."""


class _Places:
    # Findings by the addresses that they are about, and by what they lead to.

    def __init__(self, findings: Sequence[Finding]) -> None:
        self._findings = findings
        about: List[Tuple[int, int]] = []
        leads: List[Tuple[int, int]] = []
        for row, one in enumerate(findings):
            each = (one.slab, one.page, one.word, one.address, one.object, one.found)
            about += ((at, row) for at in each if isinstance(at, int))
            into = one.found if one.because is None and one.code in LEADS else None
            leads += ((at, row) for at in (one.slab, into) if isinstance(at, int))
        self._about, self._leads = sorted(about), sorted(leads)

    def concern(self, copy: Copy) -> List[Finding]:
        """Return the findings about a structure, or about what leads to it."""
        places = self._about if copy.told else self._leads
        rows: Set[int] = set()
        for some in (*copy.structures, copy.memory):
            first, last = (bisect_left(places, (at,)) for at in (some.start, some.stop))
            rows.update(row for _, row in places[first:last])
        return [self._findings[row] for row in sorted(rows)]


def of_copies(
    findings: Sequence[Finding], roots: Roots, copies: Sequence[Copy]
) -> Iterator[Tuple[int, int]]:
    """
    Yield pairs of findings, by :attr:`~drgn_slabtype.findings.Finding.id`, that have one root.

    :param copies: What was copied, as far as it is known.
    """
    if copies:
        yield from _of_structures(findings, roots, copies)
    yield from _transfers(findings, roots)
    yield from _run_on(findings, roots)


def _of_structures(
    findings: Sequence[Finding], roots: Roots, copies: Sequence[Copy]
) -> Iterator[Tuple[int, int]]:
    places = _Places(findings)
    beside: Dict[object, List[int]] = {}
    of_caches = {one.id for one in findings if one.code in OF_CACHE}
    for one in findings:
        if roots[one.id] in of_caches and one.id != roots[one.id]:
            continue  # what is wrong with a cache is no matter of one of its slabs
        if one.rule in ("count", "content"):
            beside.setdefault((one.rule, one.cache), []).append(roots[one.id])
        elif one.code == "container-count":
            beside.setdefault((one.cache, one.place), []).append(roots[one.id])
    for copy in copies:
        some = places.concern(copy)
        if not some:
            continue
        into = roots[_first(some, copy).id]
        yield from ((into, roots[one.id]) for one in some)
        keys: Set[object] = {("count", name) for name in copy.caches}
        if copy.told:
            keys |= {("count", one.cache) for one in some}
            # Bytes of free objects that were in an array to which nothing leads any more.
            if any(one.code == "container-state" for one in some):
                keys |= {("content", name) for name in copy.caches[:1]}
        # How long a chain must be is said by its first slab.
        keys |= {(one.cache, one.place) for one in some if one.place in _OF_CPUS}
        yield from ((into, one) for key in keys for one in beside.get(key, ()))


def tell(findings: Sequence[Finding], copies: Sequence[Copy]) -> List[Finding]:
    """Return the findings, those that have a copy for their cause with what was copied."""
    told: Dict[int, str] = {}
    named = [copy for copy in copies if copy.told]
    places = _Places([one for one in findings if not one.moving] if named else [])
    for copy in named:
        some = places.concern(copy)
        if some:
            first = _first(some, copy)
            told.setdefault(first.because or first.id, copy.told)
    return [
        replace(one, message=f"{one.message}; {told[one.id]}") if one.id in told else one
        for one in findings
    ]


def _first(some: Sequence[Finding], copy: Copy) -> Finding:
    # What is said of the copy itself, rather than of what leads to it.
    here = copy.structures[0]

    def order(one: Finding) -> Tuple[bool, bool, int]:
        # A range is searched step by step for what is no number.
        word, slab = (at is None or at not in here for at in (one.word, one.slab))
        return word, slab, one.id

    return min(some, key=order)


class _Balance(NamedTuple):
    # How many slabs of a node are there that were not counted.
    root: int
    cache: Optional[str]
    more: int


def _transfers(findings: Sequence[Finding], roots: Roots) -> Iterator[Tuple[int, int]]:
    # A slab that names another cache is one too many there, and one too few at home.
    both: Set[Tuple[str, Optional[str], Optional[int], bool]] = set()
    for one in findings:
        if one.code in _COUNTS.values() and surplus(one):
            both.add((one.code, one.cache, one.node, surplus(one) > 0))
    nodes: Dict[Optional[int], List[_Balance]] = {}
    for one in findings:
        more = surplus(one)
        beside = _COUNTS.get(one.code)
        if beside is not None and more and (beside, one.cache, one.node, more > 0) in both:
            nodes.setdefault(one.node, []).append(_Balance(roots[one.id], one.cache, more))
    for some in nodes.values():
        short = [one for one in some if one.more < 0]
        for over in (one for one in some if one.more > 0):
            match = next((one for one in short if one.more == -over.more), None)
            if match is None:
                continue
            short.remove(match)
            yield over.root, match.root
            strange = _strange(findings, roots, over.cache, match.cache)
            yield from ((over.root, one) for one in strange)


def surplus(one: Finding) -> int:
    """Return how many more there are than a counter says."""
    if isinstance(one.expected, int) and isinstance(one.found, int):
        return one.expected - one.found
    return 0


def _strange(
    findings: Sequence[Finding], roots: Roots, cache: Optional[str], home: Optional[str]
) -> Iterator[int]:
    # What is said of a slab that the cache has too many, of its list and its objects.
    contents: Dict[int, Set[int]] = {}
    missing: Set[int] = set()
    for one in findings:
        # A CPU of the cache that has lost it still leads to it.
        leads = one.code in ("list-wrong", "list-broken") and one.place in _OF_CPUS
        if leads and one.cache == home and one.slab in (None, one.found):
            yield roots[one.id]
        if one.cache != cache or one.slab is None:
            continue
        if one.rule == "content":
            contents.setdefault(one.slab, set()).add(roots[one.id])
        elif one.code in _OF_SLAB:
            missing.add(one.slab)
            contents.setdefault(one.slab, set()).add(roots[one.id])
    strange = [slab for slab in contents if len(contents[slab]) >= _MANY or slab in missing]
    # Of several slabs nobody can say which of them is the other cache's.
    if len(strange) == 1:
        yield from sorted(contents[strange[0]])


def _run_on(findings: Sequence[Finding], roots: Roots) -> Iterator[Tuple[int, int]]:
    # Who writes a longer array than fits runs over what lies behind it.
    some = [one for one in findings if one.code == "container-state" and one.member == "limit"]
    arrays = [(one.word, one) for one in some if one.word is not None]
    arrays.sort(key=itemgetter(0))
    words = [word for word, _ in arrays]
    for at, one in arrays:
        limit = one.found if isinstance(one.found, int) and one.found <= _MOST_ENTRIES else 0
        end = at + _HEADER_BYTES + limit * _ENTRY_BYTES
        for _, other in arrays[bisect_right(words, at) : bisect_right(words, end)]:
            if one.cpu == other.cpu:
                yield roots[one.id], roots[other.id]
