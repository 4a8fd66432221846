# SPDX-License-Identifier: LGPL-2.1-or-later
"""What one cache has otherwise than all others."""

from __future__ import annotations

from typing import Any, Dict, List

import numpy as np
import pytest

from drgn_slabtype.rules.alike import (
    Flags,
    Odd,
    Ring,
    judge_common,
    judge_ring,
    judge_slab_nodes,
    judge_slub_caches,
    understood,
    wrong_transactions,
)

_FLAGS = Flags(
    known=0xFFFFFD00,
    unchecked=0x210100,
    cmpxchg=0x40000000,
    poison=0x800,
    object_poison=0x80000000,
    typesafe=0x80000,
    red_zone=0x400,
    kmalloc=0x1000,
    no_sheaves=0,
    inside=0,
    zones=0x2C000,
)
_COUNT = 40
_NOW = (1 << 32) + 100_000
_PARENT = 0xFFFF888000001000


def _caches(**changed: Any) -> Dict[str, Any]:
    # Caches of 64 bytes, one of which has other members.
    members = {
        "size": 64,
        "object_size": 60,
        "inuse": 64,
        "offset": 32,
        "align": 8,
        "refcount": 1,
        "early": 0,
        "useroffset": 0,
        "usersize": 0,
        "flags": 0x40000000,
        "allocflags": 0x40000,
        "order": 1,
        "zones": _FLAGS.zones,
        "ctor": 0,
        "linear": 0,
        "inside": 0,
        "min_partial": 5,
        "remote_node_defrag_ratio": 1000,
        "cpu_partial": 120,
        "cpu_partial_slabs": 2,
        "oo.x": 1 << 16 | 128,
        "objects": 128,
        "reciprocal_size.m": 1,
        "reciprocal_size.sh1": 1,
        "reciprocal_size.sh2": 5,
        "kobj.parent": _PARENT,
    }
    columns = {name: np.full(_COUNT, value, np.uint64) for name, value in members.items()}
    columns["random_seq"] = np.arange(1, _COUNT + 1, dtype=np.uint64) << np.uint64(9)
    for name, value in changed.items():
        columns[name.replace("__", ".")][7] = value & (1 << 64) - 1
    return columns


def _judge(**changed: Any) -> List[Odd]:
    cache = _caches(**changed)
    found = [*judge_common(cache), *judge_slub_caches(cache, _FLAGS, np.zeros(_COUNT, np.bool_))]
    assert {one.row for one in found} <= {7}
    return found


def test_sound_caches_are_alike() -> None:
    assert _judge() == []


def test_cache_of_those_before_all_others_is_not_merged() -> None:
    assert _judge(refcount=0xFFFFFFFF, early=1) == []


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"refcount": 0xFFFFFFFE}, "refcount is -2"),
        ({"refcount": 0xFFFFFFFF}, "refcount is -1"),
        ({"reciprocal_size__m": 3}, "reciprocal_size.m is 3, not 1"),
        ({"reciprocal_size__sh2": 6}, "sh2 is 6, not 5"),
        ({"useroffset": 8}, "of no bytes"),
        ({"usersize": 61}, "of no bytes"),
        ({"align": 24}, "align is 24"),
        ({"allocflags": 0x40001}, "by its order"),
        ({"flags": 0x40000001}, "do not exist"),
        ({"flags": 0}, "__CMPXCHG_DOUBLE"),
        ({"flags": 0xC0000000}, "__OBJECT_POISON"),
        ({"min_partial": 1 << 40}, "min_partial"),
        ({"remote_node_defrag_ratio": 1010}, "cannot be set"),
        ({"remote_node_defrag_ratio": 7}, "cannot be set"),
        ({"cpu_partial": 4000}, "cpu_partial_slabs is 2, not 63"),
        ({"kobj__parent": 0}, "as all other caches have"),
        ({"random_seq": 0}, "random_seq is 0"),
        ({"random_seq": 1 << 9}, "random_seq is 0x200"),
    ],
)
def test_a_member_that_is_not_as_in_all_others_is_told(changed: Any, what: str) -> None:
    assert any(what in one.what for one in _judge(**changed))


def test_only_a_cache_of_kmalloc_has_to_say_that_it_is_one() -> None:
    kmalloc = np.arange(_COUNT) >= 3
    cache = _caches()
    cache["flags"][kmalloc] |= np.uint64(_FLAGS.kmalloc)
    # SLUB's own tests make one that says so.
    cache["flags"][0] |= np.uint64(_FLAGS.kmalloc)
    assert list(judge_slub_caches(cache, _FLAGS, kmalloc)) == []
    cache["flags"][7] &= ~np.uint64(_FLAGS.kmalloc)
    (odd,) = judge_slub_caches(cache, _FLAGS, kmalloc)
    assert (odd.row, odd.what.endswith("by SLAB_KMALLOC")) == (7, True)


def test_a_formula_that_many_break_says_nothing() -> None:
    cache = _caches()
    cache["cpu_partial_slabs"][::3] = 9
    assert list(judge_slub_caches(cache, _FLAGS, np.zeros(_COUNT, np.bool_))) == []
    assert not understood(np.ones(4, np.bool_)).any()


def _ring(count: int) -> Dict[str, Any]:
    entry = np.arange(1, count + 1, dtype=np.uint64) << np.uint64(12)
    return {"entry": entry, "next": np.roll(entry, -1), "prev": np.roll(entry, 1)}


def _judge_ring(links: Dict[str, Any]) -> List[Odd]:
    places = {int(at): row for row, at in enumerate(links["entry"])}

    def read(column: str, addresses: Any) -> Any:
        found = [places.get(int(at), -1) for at in addresses]
        values = [int(links[column][row]) if row >= 0 else 0 for row in found]
        return np.array(values, np.uint64)

    back, forth = read("prev", links["next"]), read("next", links["prev"])
    beyond, before = read("next", back), read("prev", forth)
    here = np.zeros(len(back), np.bool_)
    ends = (links["entry"], links["next"], links["prev"])
    ring = Ring(*ends, back, forth, beyond, before, None, here, here)
    return list(judge_ring(ring, "entry"))


@pytest.mark.parametrize("member", ["next", "prev"])
@pytest.mark.parametrize("found", [0x123, 0x15000])
def test_of_two_links_the_wrong_one_is_told(member: str, found: int) -> None:
    links = _ring(30)
    assert _judge_ring(links) == []
    links[member][4] = found
    assert [(one.row, one.what.split()[0]) for one in _judge_ring(links)] == [
        (4, f"entry.{member}")
    ]


def _nodes(now: int = _NOW, **changed: int) -> List[Odd]:
    def column(value: int) -> Any:
        return np.full(_COUNT, value, np.uint64)

    node = {
        "colour_next": column(1),
        "free_touched": column(0),
        "next_reap": column(_NOW + 2000),
    }
    for name, value in changed.items():
        node[name][7] = value
    return list(judge_slab_nodes(node, column(2), now))


@pytest.mark.parametrize(
    "changed",
    [
        {"colour_next": 3},
        {"free_touched": 2},
        {"next_reap": 0},
        {"next_reap": 1 << 40},
    ],
)
def test_a_node_of_slab_holds_what_it_can(changed: Any) -> None:
    assert _nodes() == []
    assert [one.row for one in _nodes(**changed)] == [7]


@pytest.mark.parametrize("now", [0, (1 << 64) - 1, 0xFFFFFFFFFFFFE560])
def test_a_damaged_clock_accuses_no_node(now: int) -> None:
    assert _nodes(now) == []


def test_a_cpu_counts_from_its_number() -> None:
    cpu = np.arange(40, dtype=np.int64) % 4
    tid = cpu.astype(np.uint64) + np.arange(40, dtype=np.uint64) * np.uint64(64)
    assert not wrong_transactions(tid, cpu, 64).any()
    tid[9] += np.uint64(1)
    assert wrong_transactions(tid, cpu, 64).nonzero()[0].tolist() == [9]
    # Without preemption they count by one.
    assert not wrong_transactions(np.arange(40, dtype=np.uint64), cpu, 64).any()
