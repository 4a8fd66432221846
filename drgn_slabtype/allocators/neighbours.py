# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The list that one slab stands on
--------------------------------

For a reading that is about one slab: its links and those of the slabs beside it
tell where it stands, without the list being walked from its head.
"""

from __future__ import annotations

from typing import List, Mapping, NamedTuple, Optional, Sequence, Set

import numpy as np
from drgn import FaultError

from ..index import SlabIndex
from ..ledger import U64
from .lists import ListHead

_STEPS = 32  # slabs that are looked at to each side


class Stand(NamedTuple):
    """Where one slab stands."""

    listed: bool
    """Whether its links lead to neighbours that lead back."""
    torn: bool
    """Whether they do so on one side only, or lead to two different heads."""
    head: Optional[ListHead]
    """The head that they lead to, if it is near enough."""
    neighbours: U64
    """``struct slab *`` of the slabs beside it, those ahead first."""


class _Side(NamedTuple):
    pages: List[int]
    sound: bool
    head: Optional[ListHead]


def find_stand(index: SlabIndex, row: int, heads: Sequence[ListHead]) -> Stand:
    """
    Return where a slab stands, by its own links.

    :param row: Of the index.
    :param heads: Heads of the lists of its cache.
    """
    by_address = {head.address: head for head in heads}
    ahead, behind = (
        _follow(index, row, by_address, member, back)
        for member, back in (("next", "prev"), ("prev", "next"))
    )
    found = [side.head for side in (ahead, behind) if side.head is not None]
    listed = ahead.sound and behind.sound
    torn = ahead.sound != behind.sound or (len(found) == 2 and found[0] != found[1])
    pages = np.array([*ahead.pages, *behind.pages], np.uint64)
    return Stand(listed, torn, found[0] if found else None, pages)


def leads_back(index: SlabIndex, head: ListHead) -> bool:
    """Return whether what stands at both ends of a list that is not empty leads to its head."""
    machine, links = index.machine, [head.next, head.prev]
    offset = index.structure.offset("slab_list")
    if not all(index.is_page((link - offset) & 0xFFFFFFFFFFFFFFFF) for link in links):
        return False
    try:
        back = machine.memory.read_word(head.next + machine.memory.word_size)
        return back == machine.memory.read_word(head.prev) == head.address
    except FaultError:
        return False


def _follow(
    index: SlabIndex, row: int, heads: Mapping[int, ListHead], member: str, back: str
) -> _Side:
    offset = index.structure.offset("slab_list")
    prog, source = index.machine.prog, index.machine.memory
    place = {"next": 0, "prev": 1}
    at = int(index.pages[row]) + offset
    link = int(index[f"slab_list.{member}"][row])
    pages: List[int] = []
    seen: Set[int] = {at}
    for _ in range(_STEPS):
        head = heads.get(link)
        if head is not None:
            return _Side(pages, getattr(head, back) == at, head)
        page = (link - offset) & 0xFFFFFFFFFFFFFFFF
        if link in seen or not index.is_page(page):
            return _Side(pages, False, None)
        try:
            links = np.frombuffer(prog.read(link, 2 * source.word_size), source.word).tolist()
        except FaultError:
            return _Side(pages, False, None)
        if links[place[back]] != at:
            return _Side(pages, False, None)
        seen.add(link)
        pages.append(page)
        at, link = link, links[place[member]]
    return _Side(pages, True, None)
