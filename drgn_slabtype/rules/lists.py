# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists close, and a slab stands where its state asks it to stand."""

from __future__ import annotations

from typing import Iterator

import numpy as np

from ..arguments import named
from ..codes import ADDRESS
from ..findings import Finding
from ..ledger import Bools, Ledger, ListKind
from ..machine.activities import SLUB_SHRINK

NO_LIST = "no list"
"""Where a slab stands that is on none."""
_CONTRADICTION = "nowhere"
_CPU_LISTS = int(ListKind.CPU_SLAB | ListKind.CPU_PARTIAL)


def judge_lists(ledger: Ledger) -> Iterator[Finding]:
    """Yield damaged lists, then slabs that stand on the wrong one, on none or on two."""
    yield from _judge_breaks(ledger)
    yield from _judge_foreign(ledger)
    yield from _judge_members(ledger)


def _judge_breaks(ledger: Ledger) -> Iterator[Finding]:
    name = ledger.facts.name
    pages = set(ledger.slabs.page.tolist()) if ledger.breaks else set()
    for broken in ledger.breaks:
        slab = broken.at if broken.at in pages else None
        page = broken.at if broken.of_page and slab is None else None
        thing = "slab" if slab is not None else "page" if page is not None else "list head"
        should = "" if broken.expected is None else f", not {named(broken.expected)}"
        yield Finding(
            "list-broken" if thing == "list head" else "list-links",
            f"{name} node {broken.owner} {_spell(broken.kind)} list: {broken.member} of {thing} "
            f"0x{broken.at:x} is {named(broken.found)}{should}",
            cache=name,
            node=broken.owner,
            slab=slab,
            page=page,
            place=_spell(broken.kind),
            expected=broken.expected,
            found=broken.found,
            moving=broken.busy,
            activity=broken.activity,
            address=broken.at if thing == "list head" else None,
            word=broken.word,
            member=broken.member,
        )


def _judge_foreign(ledger: Ledger) -> Iterator[Finding]:
    # Slabs of another cache, whose own ledger misses them.
    members, name = ledger.memberships, ledger.facts.name
    for at in (members.slab < 0).nonzero()[0].tolist():
        page, owner = int(members.page[at]), int(members.owner[at])
        on_cpu = bool(members.kind[at] & _CPU_LISTS)
        kind = _spell(int(members.kind[at]))
        yield Finding(
            "list-wrong",
            f"{name} {'CPU' if on_cpu else 'node'} {owner} {kind}: slab 0x{page:x} is one of "
            "another cache",
            cache=name,
            node=None if on_cpu else owner,
            cpu=owner if on_cpu else None,
            slab=page,
            place=kind,
            found=page,
            measure=ADDRESS,
        )


def _judge_members(ledger: Ledger) -> Iterator[Finding]:
    slabs, members, name = ledger.slabs, ledger.memberships, ledger.facts.name
    if not len(slabs):
        return
    mine = members.take(members.slab >= 0)
    times = np.bincount(mine.slab, minlength=len(slabs))
    stands = np.zeros(len(slabs), np.int64)
    if times.max() > 1:
        np.bitwise_or.at(stands, mine.slab, mine.kind)
    else:
        stands[mine.slab] = mine.kind
    owner = np.full(len(slabs), -1, np.int64)
    owner[mine.slab] = mine.owner
    stands[times == 0] = ListKind.NOWHERE
    judged = ~slabs.excused
    nowhere = times == 0
    wrong = judged & (times < 2) & ((stands & slabs.allowed) == 0)
    # Where freelist and list agree with each other, the marks are to blame.
    fits = np.where(slabs.fits == -1, slabs.allowed, slabs.fits)
    marks = wrong & ((stands & fits) != 0) & ~(nowhere & slabs.transit)
    misses = wrong & nowhere & ~marks
    wrong &= ~nowhere & ~marks
    on_node = (stands & (ListKind.PARTIAL | ListKind.FULL | ListKind.FREE)) != 0
    foreign = judged & (times == 1) & on_node & (owner != slabs.nid)
    # A slab whose own state is that of one on its way is nobody's for a moment;
    # more of them than can be on their way at once are lost.
    on_the_way = misses & slabs.transit
    most = ledger.facts.in_flight
    if not _can_be_on_the_way(ledger, on_the_way) or not ledger.lists_known:
        on_the_way[:] = False
    # Under its lock a list loses and takes as many, or all that a cache is shrunk by.
    shrunk = None
    if np.count_nonzero((wrong | misses | foreign | (judged & (times > 1))) & slabs.busy) > most:
        shrunk = SLUB_SHRINK
    for code, hits in (
        ("list-twice", judged & (times > 1)),
        ("list-wrong", wrong),
        ("slab-frozen", marks),
        ("slab-in-transit", on_the_way),
        ("list-missing", misses & ~on_the_way & ledger.lists_known),
        ("slab-node-wrong", foreign & ~wrong & ~marks),
    ):
        for slab in hits.nonzero()[0].tolist():
            page, on = int(slabs.page[slab]), _spell(int(stands[slab]))
            should = _spell(int(slabs.allowed[slab])) if slabs.allowed[slab] else _CONTRADICTION
            expected, found = should, on
            if code == "slab-node-wrong":
                expected, found = f"node {slabs.nid[slab]}", f"node {owner[slab]}"
            elif code == "list-twice":
                found = f"{times[slab]} times on {on}"
            by = "by its marks" if code == "slab-frozen" else _fullness(ledger, slab)
            yield Finding(
                code,
                f"{name} slab 0x{page:x}: {by} {_belongs(expected, found)}",
                cache=name,
                node=int(slabs.nid[slab]),
                slab=page,
                place=on,
                expected=expected,
                found=found,
                moving=bool(on_the_way[slab] or slabs.busy[slab]),
                activity=None if on_the_way[slab] else shrunk,
            )


def _belongs(expected: str, found: str) -> str:
    if expected == _CONTRADICTION:
        return f"it belongs nowhere, for its marks contradict its freelist; it is on {found}"
    if expected == NO_LIST:
        return f"it belongs on no list, and is on {found}"
    where = "it is on no list" if found == NO_LIST else f"not on {found}"
    return f"it belongs on {expected}{' and ' if found == NO_LIST else ', '}{where}"


def _can_be_on_the_way(ledger: Ledger, slabs: Bools) -> bool:
    # One for each CPU, or those that it empties into a sheaf, which has no room
    # for more objects than that.
    facts, table = ledger.facts, ledger.slabs
    free = (table.objects - table.counted)[slabs]
    few = np.count_nonzero(slabs) <= facts.in_flight
    return bool(few or np.maximum(free, 1).sum() <= facts.refill)


def _fullness(ledger: Ledger, slab: int) -> str:
    slabs = ledger.slabs
    return f"with {slabs.counted[slab]} of {slabs.objects[slab]} objects in use"


def _spell(kinds: int) -> str:
    names = [(kind.name or "").lower().replace("_", " ") for kind in ListKind if kinds & kind]
    return " or ".join(names).replace("nowhere", NO_LIST) or NO_LIST
