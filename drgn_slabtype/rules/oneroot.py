# SPDX-License-Identifier: LGPL-2.1-or-later
"""
One writer, one root
--------------------

A stray write mostly covers more than a word: a structure that is cleared, text that
runs on. What is said of words side by side is said of one damage; so is what is said
of one struct page from different sides, and of a cache that the list of caches has lost.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

from ..findings import Finding
from .copied import Copy, of_copies, surplus, tell
from .overrun import FEWEST_PAGES, PageOf, of_overruns

_GAP = 16  # bytes from one damaged word to the next: a word may be right by chance
_STRETCH_BYTES = 4096  # that one write may run over
_FEWEST_VECTORS = 3  # in one page that have not been damaged each by itself
_FEWEST_CPUS = 3  # that have not been damaged each by itself
_MANY = 4  # roots that are not damaged one by one so near each other
_CACHE_BYTES = 256  # of struct kmem_cache that are not of its nodes
_NODE_BYTES = 128  # of a structure of a node, but for what debugging adds
_NODE_WORDS = range(0, _NODE_BYTES, 4)
_HEAD = 32  # bytes that an array begins with before its entries
_TAILS = 8  # pages of the largest slabs that there usually are
_LINKS = ("list-links", "list-broken")
_OF_PAGE = (
    "page-tail-head page-tail-type page-tail-word page-free-type page-zone-wrong slab-mark-stray "
    "type-conflict"
).split()
_OF_STRUCT_PAGE = frozenset(
    "slab-mark-lost slab-cache-wrong slab-flags-wrong slab-order-wrong page-refcount".split()
)
_APART = frozenset({"content", "note", "unavailable"})
"""Rules about contents, where every object is a place of its own, and what is no damage."""
_NOT_STRUCTURES = _APART | {"claim"}
_EXPLAINS_LINKS = frozenset({"page-free-type", "list-wrong"})
_OVERWRITTEN = frozenset(
    "type-conflict slab-mark-lost slab-cache-wrong slab-order-wrong page-tail-head "
    "page-zone-wrong list-links".split()
)
"""What is said of struct pages that others than their owners have written to."""
_MADE_OTHERWISE = _OF_STRUCT_PAGE | {"slab-objects-wrong"}
_OF_ONE = frozenset({"cache-wrong", "slab-vector-wrong"})
"""Pointers to what belongs to one cache or slab alone."""
_LOCKS = frozenset({"lock-wrong", "lock-kept"})
"""Nothing that a lock guards follows from it; it follows from what was written beside it."""
_BESIDE_LOCK = 64  # bytes from a lock to what was overwritten with it: a line of memory


def one_root(
    findings: Sequence[Finding],
    page_of: PageOf,
    page_bytes: int,
    lost: Sequence[range] = (),
    copies: Sequence[Copy] = (),
    touching: Iterable[Sequence[int]] = (),
    inside: Iterable[Tuple[int, int]] = (),
) -> List[Finding]:
    """
    Return the findings, of those that one write explains the first alone as a root.

    :param findings: Numbered, with their roots.
    :param page_bytes: Of a struct page.
    :param lost: The memory of the cache that the list of caches leads to and that is none, and
        of those that slabs name.
    :param copies: Structures that are no longer what they were.
    :param touching: Ids of findings whose damage is in one piece.
    :param inside: Id of what is said of overwritten contents, and of what leads into them.
    """
    # What moves, and what a running kernel has not confirmed, is left as it is.
    here = [one for one in findings if not (one.moving or one.rule in _APART or one.code in _LOCKS)]
    still = [one for one in findings if not one.moving]
    follows: Dict[int, int] = {}
    pairs = (
        *_side_by_side(here, page_of, page_bytes),
        *_of_cpus(here),
        *_of_pages(here, page_of, page_bytes),
        *_of_lost(here, page_of),
    )
    for into, one in pairs:
        _bind(follows, into, one)
    for into, one in _of_stretches(still, follows):
        _bind(follows, into, one)
    for into, one in _of_damaged(here, page_of, page_bytes):
        _bind(follows, into, one)
    for into, one in (
        *_of_locks(still),
        *_of_caches(still, lost),
        *_of_same(here, page_of, page_bytes),
        *_of_tails(here, page_bytes),
        *_of_joined(here, page_of),
        *_of_nodes(here),
        *_of_neighbours(here, page_bytes),
    ):
        _bind(follows, into, one)
    for into, one in (*_of_missing_slabs(here, follows), *_of_zones(here)):
        _bind(follows, into, one)
    roots = {one.id: _root(follows, one.because or one.id) for one in still}
    for into, one in of_copies(still, roots, copies):
        _bind(follows, into, one)
    for into, one in _around_structures(findings, follows):
        _bind(follows, into, one)
    roots = {one.id: _root(follows, one.because or one.id) for one in still}
    for into, one in of_overruns(still, roots, page_of, page_bytes, copies):
        _bind(follows, into, one)
    for into, one in _of_pieces(still, touching):
        _bind(follows, into, one)
    alone = {one.id for one in still if one.because is None}
    for into, one in inside:
        if one in alone and one not in follows:
            _bind(follows, into, one)
    return tell([_bound(one, follows) for one in findings], copies)


def _bind(follows: Dict[int, int], into: int, one: int) -> None:
    into, one = _root(follows, into), _root(follows, one)
    if into != one:
        follows[one] = into


def _root(follows: Dict[int, int], one: int) -> int:
    while one in follows:
        one = follows[one]
    return one


def _bound(one: Finding, follows: Dict[int, int]) -> Finding:
    root = _root(follows, one.id if one.because is None else one.because)
    return one if root in (one.id, one.because) else replace(one, because=root)


def _of_pieces(
    findings: Sequence[Finding], touching: Iterable[Sequence[int]]
) -> Iterator[Tuple[int, int]]:
    # What bookkeeping says comes first, then what contents say.
    known = {one.id: one for one in findings if one.code not in _LOCKS}
    for ids in touching:
        roots = {known[id].because or id for id in ids if id in known}
        some = sorted(roots & known.keys(), key=lambda id: (known[id].rule == "content", id))
        yield from ((some[0], one) for one in some[1:])


def _side_by_side(
    findings: Sequence[Finding], page_of: PageOf, page_bytes: int
) -> Iterator[Tuple[int, int]]:
    # What follows from a root counts as a word of its damage. Words of one struct page are
    # side by side, wherever they are in it.
    places = [(_word(one), one.because or one.id) for one in findings]
    worded = sorted((at, root) for at, root in places if at is not None)
    for (before, into), (word, one) in zip(worded, worded[1:]):
        page = page_of(word) or 0
        if word - before <= _GAP or page <= before <= word < page + page_bytes:
            yield min(into, one), max(into, one)


def _word(one: Finding) -> Optional[int]:
    # Of a list that does not close, the head is known.
    return one.address if one.word is None and one.code == "list-broken" else one.word


def _of_stretches(
    findings: Sequence[Finding], follows: Dict[int, int]
) -> Iterator[Tuple[int, int]]:
    # Structures that lie in one page, whatever is right in them by chance. Slabs are not
    # damaged together because their struct pages lie so, unless somebody wrote there, nor
    # are entries of one array that many frees have made.
    pages: Dict[int, Set[int]] = {}
    for one in findings:
        at, root = _word(one), _root(follows, one.because or one.id)
        if (
            at is not None
            and one.rule not in _NOT_STRUCTURES
            and (one.slab is None or one.code in _OF_STRUCT_PAGE)
        ):
            pages.setdefault(at // _STRETCH_BYTES, set()).add(root)
    for roots in pages.values():
        if len(roots) >= _MANY:
            yield from ((min(roots), one) for one in roots - {min(roots)})


def _of_locks(findings: Sequence[Finding]) -> Iterator[Tuple[int, int]]:
    # Words of the structure that a lock lies in, overwritten with it.
    words = [
        (at, one.because or one.id)
        for one in findings
        for at in (_word(one),)
        if at is not None and one.rule not in _NOT_STRUCTURES and one.code not in _LOCKS
    ]
    for one in findings:
        if one.code == "lock-wrong" and one.because is None and one.word is not None:
            near = [(abs(at - one.word), root) for at, root in words]
            apart, root = min(near, default=(_BESIDE_LOCK, 0))
            if apart < _BESIDE_LOCK:
                yield root, one.id


def _of_cpus(findings: Sequence[Finding]) -> Iterator[Tuple[int, int]]:
    # What CPUs have of a cache is found through one pointer of it.
    places: Dict[Tuple[Optional[str], str, str], Dict[int, int]] = {}
    for one in findings:
        if one.rule == "container" and one.cpu is not None and one.because is None:
            place = (one.place or "").partition(" of CPU ")[0]
            places.setdefault((one.cache, one.code, place), {}).setdefault(one.cpu, one.id)
    for cpus in places.values():
        if len(cpus) >= _FEWEST_CPUS:
            first = min(cpus.values())
            yield from ((first, one) for one in cpus.values() if one != first)


def _of_pages(
    findings: Sequence[Finding], page_of: PageOf, page_bytes: int
) -> Iterator[Tuple[int, int]]:
    # A list that leads to what is no slab any more, and what else is said of that page.
    gone: Dict[int, int] = {}
    for one in findings:
        if one.code in _LINKS and one.because is None and isinstance(one.found, int):
            page = page_of(one.found) if one.page is None else one.page
            if page is not None:
                gone.setdefault(page, one.id)
    for one in findings:
        if one.because is not None:
            continue
        at: Optional[int] = None
        if one.code in _OF_PAGE or one.code == "list-wrong":
            at = one.slab if one.page is None else one.page
        elif one.code == "claim-foreign" and isinstance(one.found, int):
            at = page_of(one.found)
        run = range(at, at + one.pages * page_bytes, page_bytes) if at is not None else ()
        roots = (_of_head(page, gone, page_bytes) for page in run)
        root = next((found for found in roots if found is not None), None)
        if root is not None:
            # That somebody gave the page back, put the slab on another list, or ran over all
            # of these pages, explains that the list ends there.
            explains = one.code in _EXPLAINS_LINKS or one.pages >= FEWEST_PAGES
            yield (one.id, root) if explains else (root, one.id)


def _of_lost(findings: Sequence[Finding], page_of: PageOf) -> Iterator[Tuple[int, int]]:
    # Entries and vectors that lead into one page, which is no slab of their cache any more; and
    # tables, to a cache that the list of caches has lost.
    pages: Dict[Tuple[str, Optional[str], int], List[int]] = {}
    caches = {one.found: one.id for one in findings if one.code == "cache-list"}
    words = [(one.word, one.id) for one in findings if one.code == "cache-wrong" and one.word]
    for one in findings:
        if one.because is not None or not isinstance(one.found, int):
            continue
        if one.code == "machine-wrong":
            # Or to one whose size is not what it was.
            inside = (id for word, id in words if 0 <= word - one.found < _CACHE_BYTES)
            into = caches.get(one.found, next(inside, None))
            if into is not None:
                yield into, one.id
        vector = one.code == "slab-vector-wrong"
        if vector or (one.code == "claim-foreign" and one.slab is None):
            page = page_of(one.found)
            if page is not None:
                of = None if vector else one.cache
                pages.setdefault((one.code, of, page), []).append(one.id)
    for (code, _, _), ids in pages.items():
        # Vectors of slabs of all caches lie in few pages.
        if code == "claim-foreign" or len(ids) >= _FEWEST_VECTORS:
            yield from ((ids[0], one) for one in ids[1:])


def _of_damaged(
    findings: Sequence[Finding], page_of: PageOf, page_bytes: int
) -> Iterator[Tuple[int, int]]:
    # How long a vector must be follows from how many objects the cache says a slab has,
    # and what there is where it lies from what the slab there says of itself.
    caches: Dict[Optional[str], int] = {}
    slabs: Dict[int, int] = {}
    for one in findings:
        if one.because is None and one.code == "cache-wrong":
            caches[one.cache] = one.id
        elif one.because is None and one.code in _MADE_OTHERWISE and one.slab is not None:
            slabs.setdefault(one.slab, one.id)
        elif one.because is None and one.code in _OVERWRITTEN and one.page is not None:
            slabs.setdefault(one.page, one.id)
    for one in findings:
        if one.code == "cache-destroyed" and one.because is None and one.cache in caches:
            # Nobody who destroys a cache clears what else it says of itself.
            yield caches[one.cache], one.id
        if one.code == "slab-vector-wrong" and one.because is None:
            root = caches.get(one.cache)
            if root is None and isinstance(one.found, int):
                root = _of_head(page_of(one.found), slabs, page_bytes)
            if root is not None:
                yield root, one.id
        if one.code == "claim-foreign" and one.because is None and isinstance(one.found, int):
            # A slab that says that it has fewer pages holds what is in the others no more.
            root = _of_head(page_of(one.found), slabs, page_bytes)
            if root is not None:
                yield root, one.id


def _of_head(page: Optional[int], heads: Mapping[int, int], page_bytes: int) -> Optional[int]:
    # What is known of the compound page that a page may be of, by its head.
    if page is None:
        return None
    before = (page - number * page_bytes for number in range(_TAILS))
    return next((heads[head] for head in before if head in heads), None)


def _of_caches(findings: Sequence[Finding], lost: Sequence[range]) -> Iterator[Tuple[int, int]]:
    # Of the other lists that the same caches are on, their neighbours tell; and what lies in
    # the same page as they do was overwritten with them.
    of_list = next((one.id for one in findings if one.code == "cache-list"), None)
    if of_list is None:
        return
    pages = {memory.start // _STRETCH_BYTES for memory in lost}
    for one in findings:
        if one.because is not None or not (one.code == "cache-wrong" or one.rule == "content"):
            continue
        leads = one.rule != "content" and isinstance(one.found, int)
        beside = one.word is not None and one.word // _STRETCH_BYTES in pages
        if beside or (leads and any(one.found in memory for memory in lost)):
            yield of_list, one.id


def _of_same(
    findings: Sequence[Finding], page_of: PageOf, page_bytes: int
) -> Iterator[Tuple[int, int]]:
    # Two that lead to what only one can have, as one does that was copied, of slabs with all
    # that names their cache; and the slab that a CPU's freelist leads to, which is not the
    # CPU's any more.
    first: Dict[Tuple[str, Optional[str], int], int] = {}
    missing = _by_slab(findings, "list-missing")
    for one in findings:
        page = page_of(one.found) if isinstance(one.found, int) else None
        if one.because is not None or page is None or not isinstance(one.found, int):
            continue
        if one.code in _OF_ONE:
            of = one.cache if one.slab is not None else None
            into = first.setdefault((one.code, of, one.found), one.id)
            if into != one.id:
                yield into, one.id
        elif one.code == "freelist-pointer" and one.cpu is not None:
            lost = _of_head(page, missing, page_bytes)
            if lost is not None:
                yield one.id, lost


def _by_slab(findings: Sequence[Finding], *codes: str) -> Dict[int, int]:
    return {
        one.slab: one.id
        for one in findings
        if one.because is None and one.code in codes and one.slab is not None
    }


def _of_tails(findings: Sequence[Finding], page_bytes: int) -> Iterator[Tuple[int, int]]:
    # A tail that has become another head contradicts the slab that it is of.
    heads = _by_slab(findings, "slab-order-wrong", "slab-vector-wrong")
    for one in findings:
        if one.because is None and one.code == "slab-order-wrong" and one.slab is not None:
            into = _of_head(one.slab - page_bytes, heads, page_bytes)
            if into is not None:
                yield min(into, one.id), max(into, one.id)


def _of_joined(findings: Sequence[Finding], page_of: PageOf) -> Iterator[Tuple[int, int]]:
    # Two lists that were made one: the last slab of one and the first of the other lead to
    # each other.
    leads: Dict[Tuple[Optional[int], Optional[int]], int] = {}
    for one in findings:
        if one.because is None and one.code == "list-links" and isinstance(one.found, int):
            into = leads.get((page_of(one.found), one.slab))
            if into is not None:
                yield into, one.id
            leads.setdefault((one.slab, page_of(one.found)), one.id)


def _of_nodes(findings: Sequence[Finding]) -> Iterator[Tuple[int, int]]:
    # Words of the node that a cache has, and what is read through a pointer that is another's.
    nodes: Dict[Tuple[str, int], Tuple[int, int]] = {}
    leads: Dict[int, int] = {}
    some = [one for one in findings if one.because is None and one.word is not None]
    # What is read in a structure of the allocator's that a place calls free.
    live = {one.object: one.id for one in findings if one.code == "claim-live"}
    for one in some:
        if one.code == "container-state" and isinstance(one.found, int):
            leads.setdefault(one.found, one.id)
    for one in some:
        at = one.word or 0
        if one.rule in ("container", "list") and one.node is not None and one.cache is not None:
            into, first = nodes.setdefault((one.cache, one.node), (one.id, at))
            if into != one.id and abs(at - first) < _NODE_BYTES and one.slab is None:
                yield into, one.id
            freed = next((live[at - back] for back in _NODE_WORDS if at - back in live), one.id)
            if freed != one.id:
                yield freed, one.id
        before = (leads.get(at - back) for back in range(0, _HEAD, 4))
        into = next((root for root in before if root is not None), one.id)
        if one.code == "container-state" and into != one.id:
            yield into, one.id


def _of_missing_slabs(
    findings: Sequence[Finding], follows: Dict[int, int]
) -> Iterator[Tuple[int, int]]:
    # A slab whose page says that it is elsewhere is missing where it is, and so is one whose
    # page says nothing of a slab any more: if no more are missing than pages are so.
    pages: Dict[Optional[str], Dict[int, int]] = {}
    short = []
    for one in findings:
        if one.because is not None:
            continue
        of_slab = one.cache is not None and one.code != "page-zone-wrong"
        if one.code == "node-slabs" and surplus(one) < 0:
            short.append(one)
        elif (one.code in _OF_PAGE and not of_slab) or one.code == "slab-vector-wrong":
            of = None if one.code == "slab-vector-wrong" else one.cache
            roots, root = pages.setdefault(of, {}), _root(follows, one.id)
            roots[root] = max(roots.get(root, 0), one.pages)
    missing = -sum(map(surplus, short))
    for one in short:
        own = pages.get(one.cache, {})
        some, most = (own, -surplus(one)) if own else (pages.get(None, {}), missing)
        if len(some) == 1 and most <= max(some.values()):
            yield min(some), one.id


def _of_zones(findings: Sequence[Finding]) -> Iterator[Tuple[int, int]]:
    # A free block whose page says that it is of another zone is missing in its own.
    pages = {one.expected: one for one in findings if one.code == "page-zone-wrong"}
    for one in findings:
        own = pages.get(f"{one.place} of node {one.node}")
        if own is not None and one.code == "page-free-count" and 0 < surplus(one) <= own.pages:
            yield own.id, one.id


def _of_neighbours(findings: Sequence[Finding], page_bytes: int) -> Iterator[Tuple[int, int]]:
    # Struct pages side by side that others than their owners have written to.
    runs: List[Tuple[int, int, int]] = []
    for one in findings:
        linked = one.code != "list-links" or one.page is not None
        at = one.slab if one.page is None else one.page
        if one.because is None and one.code in _OVERWRITTEN and linked and at is not None:
            runs.append((at, at + one.pages * page_bytes, one.id))
    end, into = 0, 0
    for first, last, id in sorted(runs):
        beside = first <= end
        if beside:
            yield min(into, id), max(into, id)
        end, into = max(end, last), min(into, id) if beside else id


def _around_structures(
    findings: Sequence[Finding], follows: Dict[int, int]
) -> Iterator[Tuple[int, int]]:
    # Red zones around structures of the allocator's own that the same write ran over.
    words: Dict[int, List[Tuple[int, int]]] = {}
    for one in findings:
        at = _word(one)
        if at is not None and one.rule not in _APART and not one.moving:
            root = _root(follows, one.because or one.id)
            words.setdefault(at // _STRETCH_BYTES, []).append((at, root))
    for one in findings:
        if one.code in _OF_ONE and one.because is None and isinstance(one.found, int):
            # A vector, or an order of objects, that lies where many structures were run over.
            near = words.get(one.found // _STRETCH_BYTES, [])
            if len(near) >= _MANY and not one.moving:
                yield near[0][1], one.id
        if one.because is not None or one.word is None or one.moving:
            continue
        if one.code == "freelist-pointer" and one.id not in follows:
            # A free object between structures of the allocator's that were run over.
            near = words.get(one.word // _STRETCH_BYTES, [])
            around = {root for at, root in near if abs(at - one.word) <= _NODE_BYTES} - {one.id}
            if len(near) >= _MANY and around:
                yield min(around), one.id
        if one.rule != "content":
            continue
        end = max((part.address + part.size for part in one.ranges), default=one.word)
        for at, root in words.get(one.word // _STRETCH_BYTES, ()):
            if -_GAP <= at - end <= _GAP or -_GAP <= one.word - at - _GAP <= _GAP:
                yield root, one.id
                break
