# SPDX-License-Identifier: LGPL-2.1-or-later
"""
A copy of another
-----------------

A ``struct page`` or an array cache that was copied over another says what was right
of the other: one cache has a slab too many, one too few; lists, arrays and pointers
that led to what was there lead to what it is not.
"""

from __future__ import annotations

from typing import (
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from ..findings import Finding

_MANY = 4  # objects of one slab whose bytes are another cache's
_MOST_ENTRIES = 1 << 12  # of an array cache
_HEADER_BYTES = 16  # before its entries
_ENTRY_BYTES = 8
_COUNTS = {"node-slabs": "node-objects"}
"""How many slabs a node has, and what is wrong as well if one of them is another cache's."""
_OF_STRUCT_PAGE = frozenset(
    "slab-mark-lost slab-cache-wrong slab-order-wrong slab-objects-wrong slab-base-wrong".split()
)
"""Of slabs that are made otherwise than their cache makes them."""
_OF_SLAB = frozenset({"list-missing", "page-tail-head", "slab-vector-wrong"})
_OF_CPUS = ("cpu slab", "cpu partial")
_LEADS = frozenset({"claim-foreign", "cache-wrong", "container-state", "slab-vector-wrong"})
_LINKS = ("list-links", "list-broken")

PageOf = Callable[[int], Optional[int]]
"""Returns the struct page that an address lies in, or that describes it; ``None`` for none."""
Roots = Mapping[int, int]
"""The root of each finding."""


def of_copies(
    findings: Sequence[Finding], roots: Roots, page_of: PageOf, head_of: PageOf
) -> Iterator[Tuple[int, int]]:
    """
    Yield pairs of findings, by :attr:`~drgn_slabtype.findings.Finding.id`, that have one root.

    :param page_of: For the memory map: the struct page that an address lies in.
    :param head_of: The same of the head, if that is a page of several.
    """
    yield from _to_other_slabs(findings, roots, page_of, head_of)
    yield from _transfers(findings, roots)
    yield from _alike(findings, roots, page_of)
    yield from _run_on(findings, roots)


def _to_other_slabs(
    findings: Sequence[Finding], roots: Roots, page_of: PageOf, head_of: PageOf
) -> Iterator[Tuple[int, int]]:
    # What leads to a slab that is no longer what it was; and the freelist of the slab that
    # another one is a copy of, with what is said of that one.
    remade: Dict[int, int] = {}
    pages: Dict[int, int] = {}
    others: Dict[int, int] = {}
    for one in findings:
        if one.slab is None:
            continue
        if one.code in _OF_STRUCT_PAGE:
            remade.setdefault(one.slab, roots[one.id])
        own = one.word is not None and page_of(one.word) == one.slab
        leads = _in_slab(one, head_of) if one.code == "freelist-pointer" and own else None
        if leads not in (None, one.slab):
            pages.setdefault(one.slab, roots[one.id])
        if one.rule == "list":
            others.setdefault(one.slab, roots[one.id])
    for one in findings:
        if not isinstance(one.found, int):
            continue
        into: Optional[int] = None
        if one.because is None and one.code in _LEADS:
            into = remade.get(head_of(one.found) or 0)
        elif one.because is None and one.code in _LINKS:
            into = pages.get(page_of(one.found) or 0)
        elif one.slab in pages and one.code == "freelist-pointer":
            lost = others.get(_in_slab(one, head_of) or 0)
            if lost is not None:
                yield roots[one.id], lost
        if into is not None:
            yield into, roots[one.id]


def _in_slab(one: Finding, head_of: PageOf) -> Optional[int]:
    return head_of(one.found) if isinstance(one.found, int) else None


class _Balance(NamedTuple):
    # How many slabs of a node are there that were not counted.
    root: int
    cache: Optional[str]
    more: int


def _transfers(findings: Sequence[Finding], roots: Roots) -> Iterator[Tuple[int, int]]:
    # A slab that names another cache is one too many there, and one too few at home.
    both: Set[Tuple[str, Optional[str], Optional[int], bool]] = set()
    for one in findings:
        if one.code in _COUNTS.values() and _more(one):
            both.add((one.code, one.cache, one.node, _more(one) > 0))
    nodes: Dict[Optional[int], List[_Balance]] = {}
    for one in findings:
        more = _more(one)
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


def _more(one: Finding) -> int:
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


def _alike(findings: Sequence[Finding], roots: Roots, page_of: PageOf) -> Iterator[Tuple[int, int]]:
    # One vector that two slabs have, of which one is damaged otherwise; one array of two nodes.
    vectors: Dict[int, int] = {}
    arrays: Dict[int, int] = {}
    for one in findings:
        if not isinstance(one.found, int) or page_of(one.found) is None:
            continue
        if one.code == "slab-vector-wrong" and one.because is not None:
            vectors.setdefault(one.found, roots[one.id])
        elif one.code == "container-state" and one.node is not None and one.cpu is None:
            into = arrays.setdefault(one.found, roots[one.id])
            if into != roots[one.id]:
                yield min(into, roots[one.id]), max(into, roots[one.id])
    for one in findings:
        known = vectors.get(one.found) if isinstance(one.found, int) else None
        if known is not None and one.code == "slab-vector-wrong" and one.because is None:
            yield known, one.id


def _run_on(findings: Sequence[Finding], roots: Roots) -> Iterator[Tuple[int, int]]:
    # Who writes a longer array than fits runs over what lies behind it.
    arrays = [
        (one.word, one)
        for one in findings
        if one.code == "container-state" and one.member == "limit" and one.word is not None
    ]
    for at, one in arrays:
        limit = one.found if isinstance(one.found, int) and one.found <= _MOST_ENTRIES else 0
        end = at + _HEADER_BYTES + limit * _ENTRY_BYTES
        for word, other in arrays:
            if at < word <= end and one.cpu == other.cpu:
                yield roots[one.id], roots[other.id]
