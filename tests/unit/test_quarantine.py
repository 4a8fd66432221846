# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walking the lists of KASAN's quarantine in made-up memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Dict, List

import numpy as np

from drgn_slabtype.allocators.quarantine import Heads, Quarantine, _walk
from drgn_slabtype.machine.memory import Gathered

BASE = 0xFFFF888000000000


class Memory:
    """Words by their address; what is not here is not in the target."""

    word_size = 8
    word = np.dtype("<u8")

    def __init__(self, words: Dict[int, int]) -> None:
        self.words = words
        self.steps = 0

    def is_kernel_address(self, addresses: Any) -> Any:
        return addresses >= np.uint64(BASE)

    def gather(self, addresses: Any, width: int) -> Gathered:
        self.steps += 1
        at = addresses.tolist()
        words = np.array([self.words.get(one, 0) for one in at], np.uint64)
        ok = np.array([one in self.words for one in at], np.bool_)
        return Gathered(words.view(np.uint8).reshape(-1, width), ok)


def chain(*numbers: int) -> Dict[int, int]:
    nodes = [BASE + 64 * number for number in numbers]
    return dict(zip(nodes, [*nodes[1:], 0]))


def heads(*lists: List[int], limit: int = 100) -> Heads:
    def ends(at: int) -> Any:
        return np.array([BASE + 64 * one[at] if one else 0 for one in lists], np.uint64)

    where = np.arange(len(lists), dtype=np.uint64) + np.uint64(BASE - 4096)
    names = [f"list {number}" for number in range(len(lists))]
    return Heads(names, where, ends(0), ends(-1), np.full(len(lists), limit))


def walk(memory: Memory, lists: Heads) -> Any:
    machine: Any = SimpleNamespace(memory=memory)
    return _walk(machine, lists)


def test_all_lists_are_walked_at_once() -> None:
    memory = Memory({**chain(1, 2, 3), **chain(7, 8), **chain(9)})
    found = walk(memory, heads([1, 2, 3], [], [7, 8], [9]))
    here = sorted(zip(found.of.tolist(), ((found.nodes - np.uint64(BASE)) // 64).tolist()))
    assert here == [(0, 1), (0, 2), (0, 3), (2, 7), (2, 8), (3, 9)]
    assert (found.torn, found.lost) == ({}, {})
    assert memory.steps == 3


def test_what_is_being_put_on_a_list_is_no_damage() -> None:
    # Its link is what the object held before, and the tail may not be written yet.
    memory = Memory({**chain(1, 2), BASE + 64 * 2: 0x6B6B6B6B6B6B6B6B})
    assert walk(memory, heads([1, 2])).torn == {}
    one = heads([2])._replace(last=np.zeros(1, np.uint64))
    assert walk(memory, one).torn == {}


def test_wild_links_and_circles_are_told() -> None:
    memory = Memory({**chain(1, 2, 3), BASE + 64 * 2: 0x4141414141414141})
    assert walk(memory, heads([1, 2, 3])).torn == {0: 0x4141414141414141}
    memory = Memory({**chain(1, 2, 3), BASE + 64 * 2: BASE + 64})
    found = walk(memory, heads([1, 2, 3], limit=10))
    assert list(found.torn) == [0]
    assert memory.steps == 11
    (suspect,) = Quarantine(heads([1, 2, 3]), found).suspects()
    assert (suspect.code, suspect.address) == ("list-broken", BASE - 4096)


def test_memory_that_is_not_there_is_unreadable() -> None:
    words = chain(1, 2, 3)
    del words[BASE + 64 * 2]
    found = walk(Memory(words), heads([1, 2, 3]))
    assert (found.torn, found.lost) == ({}, {0: BASE + 64 * 2})
    (suspect,) = Quarantine(heads([1, 2, 3]), found).suspects()
    assert suspect.code == "unreadable"
