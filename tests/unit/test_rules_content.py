# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is found of the bytes that debugging promises, and when a rule doubts itself instead."""

from __future__ import annotations

from typing import Iterator, List, Sequence

import numpy as np
import pytest

from drgn_slabtype.findings import CacheResult, Finding, Outcome
from drgn_slabtype.ledger import Facts, Ledger, Slabs, Zone
from drgn_slabtype.rules.content import judge_content
from drgn_slabtype.rules.doubt import doubt

BASE, STRIDE, OBJECTS = 0xFFFF888000100000, 64, 16
PADDING = "padding after the slot"


def ledger(found: np.ndarray, name: str = "made-up", place: str = PADDING) -> Ledger:
    """A cache of one slab, whose objects all must have 0x5a where *found* is."""
    slabs = Slabs.build(1, page=0xFFFFEA0000004000, base=BASE, objects=len(found), counted=0)
    made = Ledger(Facts(name, 0xFFFF888000000000, STRIDE, STRIDE, len(found)), (), slabs)
    rows = np.arange(len(found))
    address = np.uint64(BASE) + rows.astype(np.uint64) * np.uint64(STRIDE)
    expected = np.full((1, found.shape[1]), 0x5A, np.uint8)
    slab = np.zeros(len(found), np.int64)
    made.zones = [Zone("padding", place, slab, rows, address, found, expected)]
    return made


def padding(width: int = 24) -> np.ndarray:
    return np.full((OBJECTS, width), 0x5A, np.uint8)


def judged(made: Ledger) -> List[Finding]:
    return [*judge_content(made)]


def test_every_damaged_range_is_told() -> None:
    found = padding()
    found[3, 1], found[3, 12:16] = 0, 0xFF
    (finding,) = judged(ledger(found))
    where = BASE + 3 * STRIDE
    assert finding.ranges == (
        (where + 1, 1, "5a", "00"),
        (where + 12, 4, "5a 5a 5a 5a", "ff ff ff ff"),
    )
    assert (finding.address, finding.expected, finding.found) == (where + 1, "5a", "00")
    assert f"2 ranges: 1 byte from 0x{where + 1:x} is 00, not 5a; 4 bytes" in finding.message


def test_what_was_written_in_one_piece_is_one_range() -> None:
    # A pointer of which three bytes happen to be as they were.
    found = padding()
    found[0, 8:16] = np.frombuffer(bytes.fromhex("005a5a5a8188ffff"), np.uint8)
    (finding,) = judged(ledger(found))
    assert [(one.address - BASE, one.size) for one in finding.ranges] == [(8, 8)]


def test_no_more_ranges_are_spelled_out_than_people_read() -> None:
    found = padding(40 * 10)
    found[0, ::10] = 1
    (finding,) = judged(ledger(found))
    assert len(finding.ranges) == 40
    assert finding.message.endswith("; 32 more")


# Doubt.


def machine(names: Sequence[str], wrong: Sequence[str], rows: int = OBJECTS) -> Iterator[Ledger]:
    """Caches of which some have bytes that nobody knows in the padding of so many slots."""
    for name in names:
        found = padding()
        if name in wrong:
            found[:rows, :16] = 0
        yield ledger(found, name)


def report(ledgers: Iterator[Ledger]) -> List[Finding]:
    findings: List[Finding] = []
    results: List[CacheResult] = []
    for made in ledgers:
        findings += judged(made)
        results.append(CacheResult(made.facts.name, 0, slabs=1, judged=made.judged))
    numbered = [
        finding.__class__(**{**vars(finding), "id": i}) for i, finding in enumerate(findings, 1)
    ]
    return doubt(numbered, results)


NAMES = [f"cache-{number}" for number in range(10)]


def test_what_most_objects_of_most_caches_break_is_not_understood() -> None:
    (finding,) = report(machine(NAMES, NAMES[:6], rows=9))
    assert (finding.code, finding.place, finding.found) == ("not-understood", PADDING, 54)
    assert "6 of 10 caches" in finding.message


@pytest.mark.parametrize(
    ("wrong", "rows"),
    [(NAMES[:5], 8), (NAMES, 3), (NAMES[:1], 8)],
    ids=["caches", "objects", "one"],
)
def test_what_fewer_break_is_damage(wrong: Sequence[str], rows: int) -> None:
    found = report(machine(NAMES, wrong, rows=rows))
    assert [finding.code for finding in found] == ["padding"] * len(wrong) * rows


def test_a_member_that_nobody_knows_in_one_cache_is_not_understood() -> None:
    (finding,) = report(machine(["made-up"], ["made-up"]))
    assert (finding.code, finding.cache) == ("not-understood", "made-up")


def results(count: int, slabs: int = 10) -> List[CacheResult]:
    return [CacheResult(f"cache-{number}", 0, slabs=slabs) for number in range(count)]


def per_slab(caches: int, slabs: int, code: str = "count-mismatch") -> List[Finding]:
    return [
        Finding(
            code, "", cache=f"cache-{cache}", slab=1000 * cache + slab, id=100 * cache + slab + 1
        )
        for cache in range(caches)
        for slab in range(slabs)
    ]


def test_a_count_that_most_slabs_contradict_is_not_understood() -> None:
    (finding,) = doubt(per_slab(20, 6), results(30))
    assert (finding.code, finding.place) == ("not-understood", "count-mismatch")


def test_one_word_that_breaks_all_slabs_of_a_cache_is_a_finding() -> None:
    root = Finding("cache-wrong", "", cache="cache-0", id=1)
    follow = [
        Finding("count-mismatch", "", cache="cache-0", slab=slab, because=1, id=slab + 2)
        for slab in range(10)
    ]
    assert doubt([root, *follow], results(1)) == [root, *follow]
    alone = per_slab(1, 10, "freelist-pointer")
    assert doubt(alone, results(30)) == alone


def test_lists_of_most_caches_that_are_broken_are_not_understood() -> None:
    broken = [
        Finding("list-broken", "", cache=f"cache-{number}", node=0, place="partial", id=number + 1)
        for number in range(20)
    ]
    (finding,) = doubt(broken, results(30))
    assert (finding.code, finding.place) == ("not-understood", "list-broken")
    assert doubt(broken[:15], results(30)) == broken[:15]


def test_heads_of_one_page_that_are_broken_are_damage_if_others_are_whole() -> None:
    broken = [
        Finding(
            "list-broken",
            "",
            cache=f"cache-{number}",
            node=0,
            place="partial",
            word=64 * number,
            id=number + 1,
        )
        for number in range(20)
    ]
    assert doubt(broken, results(30)) == broken
    (finding,) = doubt(broken, results(22))
    assert finding.code == "not-understood"
    # Caches without slabs have nodes as well.
    empty = [CacheResult(f"empty-{number}", 0) for number in range(8)]
    assert doubt(broken, [*results(22), *empty]) == broken


def test_caches_that_somebody_has_chosen_say_nothing_of_the_others() -> None:
    found = per_slab(6, 6)
    assert doubt(found, results(6), whole=False) == found
    assert [one.code for one in doubt(found, results(6))] == ["not-understood"]


def test_what_one_word_of_the_machine_explains_is_no_doubt() -> None:
    damage = Finding("machine-wrong", "", id=9999)
    found = [*per_slab(20, 6), damage]
    assert doubt(found, results(30)) == found


def test_what_follows_from_the_doubted_goes_with_it() -> None:
    found = per_slab(20, 6)
    follow = Finding("node-free-objects", "", cache="cache-0", node=0, because=1, id=9999)
    other = Finding("redzone", "", cache="cache-0", place="left red zone", id=10000)
    assert [f.code for f in doubt([*found, follow, other], results(30))] == [
        "redzone",
        "not-understood",
    ]


def test_layouts_that_do_not_add_up_are_told_once() -> None:
    told = [
        Finding(
            "not-understood", f"cache-{number}: 16 too many", cache=f"cache-{number}", id=number
        )
        for number in range(1, 8)
    ]
    caches = results(9)
    (finding,) = doubt(told, caches)
    assert [result.outcome for result in caches].count(Outcome.UNAVAILABLE) == 7
    assert finding.message == (
        "layout not understood: cache-1: 16 too many; cache-2: 16 too many; "
        "cache-3: 16 too many; 4 more caches"
    )
