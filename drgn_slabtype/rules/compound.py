# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Compound pages: each tail leads to its head.

Where most tails of a head disagree with it the head is at fault, else the
tails are. The page allocator makes and unmakes a compound page tail by tail; a
slab has all of its tails as long as it is one.
"""

from __future__ import annotations

from typing import Callable, Dict, Iterator, List, NamedTuple, Optional

from ..codes import WORD, Measure
from ..findings import Finding
from ..machine.activities import COMPOUND
from ..pages.compound import NO_HEAD, NO_PAGE, Compounds, Head
from ..records import plural
from .pagefindings import PageNames

CacheOf = Callable[[int], Optional[str]]
"""Returns the cache of a slab, by its ``struct page *``; ``None`` for a page of no cache."""


_PAGES = Measure("count", "pages")
_GIGANTIC = 1 << 11  # pages; larger ones are put together from several blocks


class _Tail(NamedTuple):
    pfn: int
    behind: int
    leads: int
    word: int


def judge_compounds(
    found: Compounds, names: PageNames, cache_of: CacheOf, cpus: int
) -> List[Finding]:
    """
    Return what is wrong with compound pages.

    :param cpus: How many there are: each can have stopped while it makes or
        unmakes one compound page.
    """
    groups = _groups(found)
    judge = _Judge(found, names, cache_of)
    unfinished = {head for head, tails in groups.items() if judge.can_be_unfinished(head, tails)}
    if len(unfinished) > cpus:
        unfinished = set()
    findings: List[Finding] = []
    for head, tails in sorted(groups.items()):
        findings += judge.group(head, tails, head in unfinished)
    return findings


def _groups(found: Compounds) -> Dict[int, List[_Tail]]:
    # Pages by the head they have to do with; one that has to do with none, by itself.
    groups: Dict[int, List[_Tail]] = {pfn: [] for pfn in found.wrong if pfn in found.heads}
    for row in zip(*(column.tolist() for column in found.loose)):
        tail = _Tail(*row)
        head = tail.behind if tail.behind >= 0 else tail.leads
        own = found.heads.get(tail.pfn)
        if tail.behind < 0 and own is not None and own.marked:
            # It heads others, and is no tail.
            head = tail.pfn
        groups.setdefault(head if head >= 0 else tail.pfn, []).append(tail)
    return groups


class _Judge:
    def __init__(self, found: Compounds, names: PageNames, cache_of: CacheOf) -> None:
        self.heads, self.names, self.cache_of = found.heads, names, cache_of

    def can_be_unfinished(self, pfn: int, tails: List[_Tail]) -> bool:
        # Pages that lead nowhere or elsewhere are never left so, nor is a page that
        # somebody uses. Tails are made from the first on, and unmade from the first
        # or the last on; until then the order may be anything, also one that reaches over
        # compound pages of others.
        head = self.heads.get(pfn)
        if head is not None and not head.marked and pfn % _GIGANTIC:
            # Of those that the page allocator makes, the head comes first.
            return False
        if head is None or head.typed or head.used or head.refcount not in (0, 1):
            return False
        if any(
            tail.leads not in (NO_HEAD, pfn) and not self._is_of_another(tail) for tail in tails
        ):
            return False
        if any(tail.behind == tail.leads or tail.pfn == pfn for tail in tails):
            return False
        behind = [tail.pfn for tail in tails if tail.behind == pfn]
        at_an_end = not behind or pfn + 1 in behind or pfn + head.pages - 1 in behind
        return at_an_end and (not behind or behind[-1] - behind[0] == len(behind) - 1)

    def _is_of_another(self, tail: _Tail) -> bool:
        other = self.heads.get(tail.leads)
        if other is None or not other.marked:
            return False
        return tail.behind < tail.leads < tail.pfn < tail.leads + other.pages

    def group(self, pfn: int, tails: List[_Tail], unfinished: bool) -> Iterator[Finding]:
        head = self.heads.get(pfn)
        if head is None:
            for tail in tails:
                yield self._tail(tail, tail.pfn, False)
            return
        if any(tail.pfn == pfn for tail in tails):
            what = f"is the head of {_leading(len(tails) - 1, 'that ')} to it, and is itself a tail"
            yield self._head(pfn, what, False, None, head.order)
            return
        behind = [tail for tail in tails if tail.behind == pfn]
        beyond = [tail for tail in tails if tail.behind != pfn]
        if not head.marked and len(beyond) == 1:
            yield self._tail(beyond[0], pfn, unfinished)
        elif not head.marked and beyond:
            what = f"is no head, and {len(beyond)} pages from PFN {beyond[0].pfn:#x} on lead to it"
            yield self._head(pfn, what, unfinished, 0, len(beyond))
        elif head.pages == 1 or not tails:
            led = _leading(len(tails)) if tails else "none leads"
            what = f"is marked as the head of a compound page of order {head.order}; {led} to it"
            yield self._head(pfn, what, unfinished, None, head.order)
        elif self._is_at_fault(head, len(behind)) or len(beyond) > head.pages - 1:
            count = head.pages - 1 - len(behind) + len(beyond)
            what = f"is a head of order {head.order}, but {_leading(count)} to it"
            yield self._head(pfn, what, unfinished, head.pages - 1, count)
        else:
            for tail in tails:
                yield self._tail(tail, pfn, unfinished)

    def _is_at_fault(self, head: Head, lost: int) -> bool:
        # Of a head and its only tail, one that nothing else speaks for.
        tails = head.pages - 1
        return 2 * lost > tails and (lost > 1 or (lost == tails and not head.typed))

    def _head(
        self, pfn: int, what: str, unfinished: bool, expected: Optional[int], count: int
    ) -> Finding:
        return self._finding(pfn, pfn, what, unfinished, expected, count)

    def _tail(self, tail: _Tail, pfn: int, unfinished: bool) -> Finding:
        head, word = self.heads.get(pfn), f"0x{tail.word:x}"
        if tail.behind < 0 or head is None:
            led = "what is no page"
            if tail.leads >= 0 and head is not None:
                heads = f"{plural(head.pages, 'page')} and not this one"
                led = f"PFN {tail.leads:#x}, which heads {heads if head.marked else 'no pages'}"
            what = f"is a tail and leads to {led}"
            return self._finding(tail.pfn, pfn, what, unfinished, None, word)
        if tail.leads == tail.behind:
            now = "and is marked as a head itself"
        elif tail.leads == NO_HEAD:
            now = "and leads to no head"
        elif tail.leads == NO_PAGE:
            now = f"and leads to what is no page (0x{tail.word:x})"
        else:
            now = f"and leads to PFN {tail.leads:#x}"
        what = f"is tail {tail.pfn - pfn} of {self._called(pfn, head)} {now}"
        return self._finding(tail.pfn, pfn, what, unfinished, f"PFN {pfn:#x}", word)

    def _called(self, pfn: int, head: Head) -> str:
        cache = self.cache_of(self.names.page(pfn))
        if cache is not None:
            return f"slab 0x{self.names.page(pfn):x} of {cache}"
        return f"the compound page of order {head.order} at PFN {pfn:#x}"

    def _finding(
        self,
        pfn: int,
        head: int,
        what: str,
        unfinished: bool,
        expected: object,
        found: object,
    ) -> Finding:
        page, slab = self.names.page(pfn), self.names.page(head)
        cache = self.cache_of(slab)
        if self.cache_of(page) is not None:
            # What makes it a tail is a link or a pointer of its own.
            slab, head, cache = page, pfn, self.cache_of(page)
        return Finding(
            "page-tail-head",
            f"page 0x{page:x} (PFN {pfn:#x}) {what}",
            cache=cache,
            slab=None if cache is None else slab,
            page=None if cache is not None and pfn == head else page,
            expected=expected if isinstance(expected, (int, str)) else None,
            found=found if isinstance(found, (int, str)) else None,
            measure=WORD if isinstance(found, str) else _PAGES,
            moving=unfinished,
            activity=COMPOUND,
        )


def _leading(number: int, relative: str = "") -> str:
    return f"{plural(number, 'page')} {relative}{'leads' if number == 1 else 'lead'}"
