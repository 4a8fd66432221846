# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the members of a cache promise about each other, by plain values."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

import pytest

from drgn_slabtype.ledger import Suspect
from drgn_slabtype.rules.members import (
    Pointer,
    SlabMembers,
    SlubMembers,
    Tuning,
    judge_pointers,
    judge_slab,
    judge_slub,
    judge_tuning,
)

# 31 slots of 129 bytes, their indexes with them, leave 97 bytes: one place more.
_SLAB = SlabMembers(
    page_size=4096,
    order=0,
    size=128,
    object_size=120,
    obj_offset=0,
    num=31,
    colour=1,
    colour_off=64,
    freelist_size=31,
    index_size=1,
    on_slab=True,
)
_SLUB = SlubMembers(
    word=8,
    size=128,
    object_size=104,
    inuse=104,
    align=8,
    offset=48,
    red_zone=False,
    red_left_pad=0,
    usercopy=(0, 104),
    in_middle=True,
)
_DEBUGGED = _SLUB._replace(red_zone=True, inuse=112, offset=112, red_left_pad=8, in_middle=False)


def _told(suspects: Any) -> List[Tuple[Optional[int], Optional[int]]]:
    found: List[Suspect] = list(suspects)
    assert {suspect.code for suspect in found} <= {"cache-wrong"}
    return [(suspect.expected, suspect.found) for suspect in found]


@pytest.mark.parametrize(
    "cache", [_SLAB, _SLAB._replace(on_slab=False, num=32, freelist_size=32, colour=0)]
)
def test_a_sound_cache_of_slab_is_not_suspected(cache: SlabMembers) -> None:
    assert _told(judge_slab(cache)) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"num": 30}, (31, 30)),
        ({"freelist_size": 39}, (31, 39)),
        ({"colour": 4}, (1, 4)),
        ({"colour_off": 128}, (0, 1)),
        ({"object_size": 129}, (None, 129)),
        ({"obj_offset": 16}, (None, 120)),
    ],
)
def test_each_member_of_slab_follows_from_the_others(
    change: Dict[str, Any], told: Tuple[Optional[int], int]
) -> None:
    assert _told(judge_slab(_SLAB._replace(**change))) == [told]


@pytest.mark.parametrize(
    "cache",
    [_SLUB, _DEBUGGED, _SLUB._replace(red_left_pad=None, usercopy=None)],
    ids=["plain", "red zones", "no members of debugging"],
)
def test_a_sound_cache_of_slub_is_not_suspected(cache: SlubMembers) -> None:
    assert _told(judge_slub(cache)) == []


@pytest.mark.parametrize(
    ("cache", "change", "told"),
    [
        (_SLUB, {"inuse": 112}, (104, 112)),
        (_DEBUGGED, {"inuse": 120}, (112, 120)),
        (_DEBUGGED, {"inuse": 104}, (112, 104)),
        (_SLUB, {"align": 0}, (None, 0)),
        (_SLUB, {"align": 24}, (None, 24)),
        (_SLUB, {"offset": 124}, (None, 124)),
        (_SLUB, {"offset": 44}, (None, 44)),
        (_DEBUGGED, {"offset": 120}, (None, 120)),
        (_SLUB, {"red_left_pad": 8}, (0, 8)),
        (_DEBUGGED, {"red_left_pad": 0}, (8, 0)),
        (_SLUB, {"usercopy": (8, 104)}, (None, 112)),
        (_SLUB, {"object_size": 88, "usercopy": None}, (None, 88)),
        (_SLUB, {"object_size": 0xFFFFEA00}, (None, 0xFFFFEA00)),
    ],
)
def test_each_member_of_slub_follows_from_the_others(
    cache: SlubMembers, change: Dict[str, Any], told: Tuple[Optional[int], int]
) -> None:
    assert _told(judge_slub(cache._replace(**change))) == [told]


def test_an_inuse_beyond_the_slot_contradicts_object_and_slot() -> None:
    assert _told(judge_slub(_SLUB._replace(inuse=136))) == [(104, 136), (128, 136)]


@pytest.mark.parametrize(
    ("pointer", "wrong"),
    [
        (Pointer("name", 0xFFFF888000001001, leads=True, needed=True), False),
        (Pointer("name", 0, leads=False, needed=True), True),
        (Pointer("ctor", 0, leads=False, needed=False), False),
        (Pointer("ctor", 0x6B6B6B6B6B6B6B6B, leads=False, needed=False), True),
        (Pointer("random_seq", 0xFFFF888000001002, True, False, alignment=4), True),
    ],
)
def test_a_pointer_leads_to_something_or_is_not_needed(pointer: Pointer, wrong: bool) -> None:
    assert _told(judge_pointers([pointer])) == [(None, pointer.address)] * wrong


def test_a_pointer_is_told_with_what_it_must_lead_to() -> None:
    pointer = Pointer("freelist_cache", 0x10, leads=False, needed=True, kind="cache")
    assert next(judge_pointers([pointer])).message == (
        "freelist_cache leads to 0x10, which is no cache"
    )


@pytest.mark.parametrize(
    ("cache", "arrays", "told"),
    [
        (Tuning(120, 60), Tuning(120, 60), []),
        (Tuning(120, 60), Tuning(54, 27), []),  # caught while it is tuned
        (Tuning(0, 60), Tuning(120, 60), [(120, 0)]),
        (Tuning(120, 0), Tuning(120, 60), [(60, 0)]),
        (Tuning(120, 121), Tuning(120, 60), [(60, 121)]),
        (Tuning(0, 0), None, []),
    ],
)
def test_a_cache_is_tuned_to_what_it_can_be(
    cache: Tuning, arrays: Optional[Tuning], told: List[Tuple[int, int]]
) -> None:
    assert _told(judge_tuning(cache, arrays)) == told
