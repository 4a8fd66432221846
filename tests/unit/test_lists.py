# SPDX-License-Identifier: LGPL-2.1-or-later
"""Lists of slabs: one damaged link costs nothing, and is named."""

from __future__ import annotations

from random import Random
from types import SimpleNamespace
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import pytest
from drgn import FaultError
from hypothesis import given
from hypothesis import strategies as st

from drgn_slabtype.allocators.lists import ListHead, SlabLists, Walked
from drgn_slabtype.index import KnownBy
from drgn_slabtype.ledger import U8, U64, Bools, Break, ListKind

VMEMMAP = 0xFFFFEA0000000000
HEADS = 0xFFFF888000100000
LINK = 16  # offset of slab_list in struct slab
GARBAGE = 0x6B6B6B6B6B6B6B6B


def page(number: int) -> int:
    return VMEMMAP + 64 * number


def link(number: int) -> int:
    return page(number) + LINK


class FakeIndex:
    """As much of a slab index as walking lists needs."""

    def __init__(self, known: List[int], links: Dict[int, Dict[str, int]]) -> None:
        self.structure = self
        self.known = list(known)
        self.links = links
        self.known_by = np.full(len(known), KnownBy.MARK, np.uint8)
        self.layout = SimpleNamespace(allocator="SLUB")
        self.machine = SimpleNamespace(
            memory=SimpleNamespace(
                is_kernel_address=lambda at: at >= np.uint64(0xFFFF800000000000),
                read_word=self._read_word,
                word_size=8,
            )
        )

    def _read_word(self, address: int) -> int:
        number, offset = divmod(address - VMEMMAP, 64)
        if number not in self.links or offset not in (LINK, LINK + 8):
            raise FaultError("not there", address)
        return self.links[number]["next" if offset == LINK else "prev"]

    @property
    def pages(self) -> U64:
        return np.array([page(number) for number in self.known], np.uint64)

    @property
    def stale(self) -> Bools:
        return np.zeros(len(self.known), np.bool_)

    def offset(self, path: str) -> int:
        return {"slab_list": LINK, "slab_list.next": LINK, "slab_list.prev": LINK + 8}[path]

    def __getitem__(self, path: str) -> U64:
        member = path.split(".")[1]
        return np.array([self.links[number][member] for number in self.known], np.uint64)

    def is_memory_map(self, pages: U64) -> Bools:
        offset = pages - np.uint64(VMEMMAP)
        return (offset % np.uint64(64) == 0) & (offset < np.uint64(1 << 30))

    def peek(self, pages: U64) -> U8:
        numbers = ((pages - np.uint64(VMEMMAP)) // np.uint64(64)).tolist()
        rows = [self.links[n] for n in numbers if n in self.links]
        words = np.array([[row["next"], row["prev"]] for row in rows], np.uint64)
        return words.reshape(-1, 2).view(np.uint8)

    def column(self, raw: U8, path: str) -> U64:
        words: U64 = raw.view(np.uint64)
        return words[:, ["next", "prev"].index(path.split(".")[1])]

    def add(self, pages: U64, known_by: KnownBy) -> None:
        self.known += ((pages - np.uint64(VMEMMAP)) // np.uint64(64)).tolist()
        self.known_by = np.append(self.known_by, np.uint8(known_by))


class Lists:
    """Some lists in memory; list i is headed at HEADS + 64 * i."""

    def __init__(self, *members: List[int]) -> None:
        self.members = members
        self.links: Dict[int, Dict[str, int]] = {}
        self.heads: List[Dict[str, int]] = []
        for at, numbers in enumerate(members):
            ring = [self.head(at), *(link(number) for number in numbers), self.head(at)]
            self.heads.append({"next": ring[1], "prev": ring[-2]})
            for i, number in enumerate(numbers, 1):
                self.links[number] = {"next": ring[i + 1], "prev": ring[i - 1]}

    @staticmethod
    def head(at: int) -> int:
        return HEADS + 64 * at

    def walk(self, at: int = 0, known: Optional[List[int]] = None) -> Tuple[List[int], Walked]:
        numbers = sorted(self.links) if known is None else known
        index: Any = FakeIndex(numbers, self.links)
        head = self.heads[at]
        walked = SlabLists(index).walk(
            ListHead(ListKind.PARTIAL, 3, 1, self.head(at), head["next"], head["prev"])
        )
        assert (index.known_by[walked.rows] & KnownBy.LIST != 0).all()
        return [index.known[row] for row in walked.rows.tolist()], walked


@given(st.lists(st.permutations(range(12)), min_size=1, max_size=1), st.integers(0, 12))
def test_whole_lists_are_walked_in_order(order: List[List[int]], cut: int) -> None:
    lists = Lists(order[0][:cut], order[0][cut:])
    for at in (0, 1):
        found, walked = lists.walk(at)
        assert found == lists.members[at]
        assert walked.broken is None


def test_slabs_that_lost_their_mark_are_found_and_added() -> None:
    lists = Lists([5, 2, 9, 4])
    found, walked = lists.walk(known=[2, 4])
    assert found == [5, 2, 9, 4]
    assert walked.broken is None


FIRST, SECOND, ALONE = [3, 1, 4, 2], [6, 7], 20
PLACES = [
    (length, where, member)
    for length in range(len(FIRST) + 1)
    for where in range(-1, length)
    for member in ("next", "prev")
]


@pytest.mark.parametrize(("length", "where", "member"), PLACES)
def test_one_damaged_link_is_named_and_costs_no_slab(length: int, where: int, member: str) -> None:
    members = FIRST[:length]
    everywhere = [link(number) for number in (*FIRST, *SECOND, ALONE, 50)]
    for value in (0, 1, GARBAGE, page(3), Lists.head(0), Lists.head(1), *everywhere):
        lists = Lists(members, SECOND)
        # A slab on no list, as it is after list_del().
        lists.links[ALONE] = {"next": 0xDEAD000000000100, "prev": 0xDEAD000000000122}
        words = lists.heads[0] if where < 0 else lists.links[members[where]]
        right, words[member] = words[member], value
        if right == value:
            continue
        found, walked = lists.walk()
        assert found == members, hex(value)
        at = lists.head(0) if where < 0 else page(members[where])
        word = at + (0 if where < 0 else LINK) + (8 if member == "prev" else 0)
        assert walked.broken == Break(ListKind.PARTIAL, 1, at, member, right, value, word=word)
        # The list that the damaged link leads to is not touched by it.
        other, walked = lists.walk(1)
        assert other == SECOND
        assert walked.broken is None


@pytest.mark.parametrize("links", [(GARBAGE, GARBAGE), (link(1), link(2)), (link(3), link(3))])
@pytest.mark.parametrize("known", [[1, 2, 3, 4], [1, 2, 4]])
def test_both_links_of_a_slab_are_its_own(links: Tuple[int, int], known: List[int]) -> None:
    # list_del() of what stays linked, or somebody else's bytes; marked as a slab or not any more.
    lists = Lists([1, 3, 2, 4])
    lists.links[3] = {"next": links[0], "prev": links[1]}
    found, walked = lists.walk(known=known)
    assert found == [1, 2, 4]
    right = Break(ListKind.PARTIAL, 1, page(3), "next", link(2), links[0], word=link(3))
    assert walked.broken == right._replace(of_page=True)


def test_slab_that_was_put_on_another_list_has_the_right_links() -> None:
    lists = Lists([1, 3, 2], [6, 7])
    lists.links[3] = {"next": link(7), "prev": link(6)}
    lists.links[6]["next"] = lists.links[7]["prev"] = link(3)
    _, walked = lists.walk()
    assert walked.broken == Break(ListKind.PARTIAL, 1, page(1), "next", None, link(3), word=link(1))


@given(st.integers(0, 10), st.integers(1, 5), st.integers(0, 1 << 16))
def test_many_damaged_links_end_the_walk(length: int, damages: int, seed: int) -> None:
    rng = Random(seed)
    members = rng.sample(range(30), length)
    lists = Lists(members, [40, 41])
    values = [0, GARBAGE, link(99), *map(link, members), *map(lists.head, (0, 1)), link(40)]
    for _ in range(damages):
        words = rng.choice([lists.heads[0], *(lists.links[number] for number in members)])
        words[rng.choice(["next", "prev"])] = rng.choice(values)
    found, walked = lists.walk()
    assert len(set(found)) == len(found)
    assert set(found) <= {*members, 40, 41}
    if walked.broken is None:
        # By chance the links agree again: two damages can take a slab out.
        assert found == [number for number in members if number in found]


_STACK = 0xFFFFC90000123E08
_TEXT = 0x62696C2F7273752F


@pytest.mark.parametrize(
    ("found", "allocator", "busy", "activity"),
    [
        (link(3), "SLUB", True, None),
        (link(50), "SLAB", True, None),
        (Lists.head(0), "SLAB", True, None),
        (_STACK, "SLUB", True, "slub-shrink"),
        (_STACK, "SLAB", False, None),
        (_STACK + 1, "SLUB", False, None),
        (0, "SLUB", False, None),
        (_TEXT, "SLUB", False, None),
        (0xDEAD000000000100, "SLUB", False, None),
    ],
)
def test_held_lock_explains_one_link_that_leads_to_a_slab_or_a_stack(
    found: int, allocator: str, busy: bool, activity: Optional[str]
) -> None:
    lists = Lists([1, 2, 3])
    lists.links[1]["next"] = found
    index: Any = FakeIndex([1, 2, 3], lists.links)
    index.layout.allocator = allocator
    first, last = lists.heads[0].values()
    head = ListHead(ListKind.FULL, 0, 0, lists.head(0), first, last, busy=True)
    broken = SlabLists(index).walk(head).broken
    assert broken is not None
    assert (broken.found, broken.busy, broken.activity) == (found, busy, activity)


def test_held_lock_explains_no_list_that_leads_nowhere_on_both_sides() -> None:
    lists = Lists([1, 2, 3])
    lists.heads[0] = {"next": link(50), "prev": link(50)}
    index: Any = FakeIndex([1, 2, 3], lists.links)
    index.layout.allocator = "SLAB"
    head = ListHead(ListKind.FULL, 0, 0, lists.head(0), link(50), link(50), busy=True)
    broken = SlabLists(index).walk(head).broken
    assert broken is not None
    assert not broken.busy


def test_ten_thousand_slabs_are_walked() -> None:
    members = Random(1).sample(range(20_000), 10_000)
    found, walked = Lists(members).walk()
    assert found == members
    assert walked.broken is None
