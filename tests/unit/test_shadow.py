# SPDX-License-Identifier: LGPL-2.1-or-later
"""KASAN's shadow in made-up memory: what it says, and of which objects it is held against."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List, Optional, Tuple

import numpy as np
import pytest

from drgn_slabtype.allocators.quarantine import QUARANTINE
from drgn_slabtype.allocators.shadowed import shadow_zones
from drgn_slabtype.findings import Finding
from drgn_slabtype.ledger import Claims, Facts, Ledger, Place, Slabs, State
from drgn_slabtype.machine.memory import Gathered
from drgn_slabtype.machine.shadow import FREED, FREED_WITH_TRACK, GRANULE, Shadow, shadow
from drgn_slabtype.rules.content import judge_content

OFFSET = 0xDFFFFC0000000000
BASE, PAGE = 0xFFFF888000100000, 4096
SIZE, STRIDE = 52, 64
PLACES = (
    Place("freelist", counted=False),
    QUARANTINE,
    Place("allocator", counted=True),
    Place("rcu_free sheaf", counted=True),
)


def machine(said: np.ndarray) -> Any:
    """A machine of one page, of whose granules this is said."""
    first = (BASE >> 3) + OFFSET & (1 << 64) - 1

    def gather(addresses: Any, width: int) -> Gathered:
        at = (addresses - np.uint64(first)).astype(np.int64)
        ok = (at >= 0) & (at + width <= len(said))
        rows = [said[one : one + width] if good else np.zeros(width) for one, good in zip(at, ok)]
        return Gathered(np.array(rows, np.uint8).reshape(len(at), width), ok)

    memory = SimpleNamespace(
        gather=gather,
        address_mask=(1 << 64) - 1,
        linear_base=0xFFFF888000000000,
        page_size=PAGE,
    )
    made = SimpleNamespace(memory=memory, prog=SimpleNamespace(platform=None))
    found = Shadow(made, OFFSET)  # type: ignore[arg-type]
    made.settled = lambda find: {shadow: found}[find]
    return made


def judged(
    claims: List[Tuple[int, int, State]],
    said: np.ndarray,
    *,
    typesafe: bool = False,
    size: int = SIZE,
    stride: int = STRIDE,
    **slab: Any,
) -> List[Finding]:
    """What is found of objects that (index, place, state) claims."""
    slabs = Slabs.build(1, page=0xFFFFEA0000004000, base=BASE, objects=PAGE // STRIDE, **slab)
    ledger = Ledger(Facts("made-up", 0, size, stride, PAGE // STRIDE), PLACES, slabs)
    ledger.claims = Claims.build(
        len(claims),
        slab=0,
        index=np.array([index for index, _, _ in claims]),
        place=np.array([place for _, place, _ in claims]),
        state=np.array([state for _, _, state in claims]),
    )
    ledger.zones = shadow_zones(machine(said), ledger, typesafe)
    return list(judge_content(ledger))


def poisoned() -> np.ndarray:
    said = np.full(PAGE // GRANULE, FREED, np.uint8)
    said[:: STRIDE // GRANULE] = FREED_WITH_TRACK
    return said


FREE = [(0, 0, State.FREE), (1, 0, State.FREE), (2, 1, State.WAITING)]


def test_nothing_is_found_of_what_may_not_be_touched() -> None:
    assert judged(FREE, poisoned()) == []
    # Never handed out.
    assert judged(FREE, np.full(PAGE // GRANULE, 0xFC, np.uint8)) == []


@pytest.mark.parametrize("index", [0, 1, 2], ids=["free", "free, too", "in quarantine"])
@pytest.mark.parametrize("granule", [0, 3, 6], ids=["first", "middle", "last"])
@pytest.mark.parametrize("value", [0, 4], ids=["all", "in part"])
def test_each_granule_counts(index: int, granule: int, value: int) -> None:
    said = poisoned()
    at = index * STRIDE // GRANULE + granule
    said[at] = value
    (finding,) = judged(FREE, said)
    assert (finding.code, finding.index) == ("shadow", index)
    assert finding.object == BASE + index * STRIDE
    assert finding.address == (BASE >> 3) + at + OFFSET & (1 << 64) - 1
    assert (finding.expected, finding.found) == ("fb", f"{value:02x}")


def test_what_lies_behind_the_object_does_not_count() -> None:
    said = poisoned()
    said[7] = 0
    assert judged(FREE, said) == []


@pytest.mark.parametrize(
    ("claims", "differs"),
    [
        ([(0, 3, State.WAITING)], {}),
        ([(0, 0, State.FREE), (0, 2, State.LIVE)], {}),
        (FREE, {"typesafe": True}),
        (FREE, {"fresh": True}),
        (FREE, {"failed": True}),
        ([], {}),
    ],
    ids=["waits for RCU", "lived in", "by RCU", "being made", "failed", "in use"],
)
def test_of_others_nothing_is_promised(claims: Any, differs: Any) -> None:
    assert judged(claims, np.zeros(PAGE // GRANULE, np.uint8), **differs) == []


@pytest.mark.parametrize(
    "sizes", [{"size": 1 << 31, "stride": 1 << 31}, {"size": 72}], ids=["wild", "beyond its slot"]
)
def test_sizes_that_no_slab_has_room_for_are_not_followed(sizes: Any) -> None:
    assert judged(FREE[:1], np.zeros(PAGE // GRANULE, np.uint8), **sizes) == []


def test_an_object_in_two_places_is_one_finding() -> None:
    twice = [(0, 0, State.FREE), (0, 1, State.WAITING)]
    assert len(judged(twice, np.zeros(PAGE // GRANULE, np.uint8))) == 1


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0, 0, "may be touched"),
        (3, 5, "may be touched (the first 5"),
        (6, 5, "may not be touched (the first 5"),
        (0, 0xFA, "may not be touched: freed, and kept who did it (0xfa)"),
        (0, 0x77, "may not be touched: no reason known (0x77)"),
    ],
)
def test_told_of_one_address(offset: int, value: int, words: str) -> None:
    said = np.full(PAGE // GRANULE, value, np.uint8)
    told: Optional[str] = machine(said).settled(shadow).told(BASE + offset)
    assert told is not None
    assert told.startswith(words)


def test_a_byte_of_the_shadow_is_about_eight_of_memory() -> None:
    found = machine(poisoned()).settled(shadow)
    at = int(found.of(np.array([BASE + 72], np.uint64))[0])
    assert found.about(at) == BASE + 72
    assert found.about(BASE) is None
    assert found.told(BASE + PAGE) is None
